"""What `jobs/report.py` can be told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class ReportConfig:
    """A page about some of the store's runs."""

    store: str = "outputs"
    runs: list[str] | None = None
    """Folders in `<store>/runs/` and `<store>/studies/`; null takes all runs."""
    out: str = "report"
    """Folder of the page."""
