"""Options of `jobs/report.py`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class ReportConfig:
    """A page about runs of the store."""

    store: str = "outputs"
    runs: list[str] | None = None
    """Folders in `<store>/runs/` and `<store>/studies/`; null takes all runs."""
    out: str = "report"
    """Folder of the page."""
