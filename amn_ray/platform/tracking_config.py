"""Tracking settings. Importable without MLflow, whose import takes seconds."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_EXPERIMENT = 256
"""Characters, the width of MLflow's column."""


@dataclass(kw_only=True)
class TrackingConfig:
    """Where MLflow tracks runs."""

    uri: str | None = None
    """null: a SQLite file and its artifacts in the store; else the URI of a tracking server."""
    experiment: str = "amn-ray"
    register: str | None = None
    """Also register the segmentation model in MLflow's model registry under this name."""
    alias: str = "champion"
    """The alias of the registered version."""

    def __post_init__(self) -> None:
        if not 0 < len(self.experiment.strip()) <= len(self.experiment) <= MAX_EXPERIMENT:
            raise ValueError(
                f"experiment={self.experiment}: MLflow requires a name of 1 to {MAX_EXPERIMENT} characters; set it, or "
                "dataset.name, its default"
            )
        if self.register is not None and (not self.register.strip(". ") or set(self.register) & set("/:@?")):
            raise ValueError(f"register={self.register}: must be a name without / : @ ?")
        if not re.fullmatch(r"[\w-]+", self.alias) or re.fullmatch(r"latest|v\d+", self.alias, re.IGNORECASE):
            raise ValueError(
                f"alias={self.alias}: must only contain letters, digits, _ and -, and not be latest or a "
                "version such as v1"
            )
