"""What is measured."""

from __future__ import annotations

from dataclasses import dataclass

from amn_ray.core.checks import check_fraction


@dataclass(kw_only=True)
class ScoreConfig:
    """Scores of maps at every threshold of a grid, or of masks."""

    threshold: float | None = None
    """τ of the reported `miou` of maps; always a member of the grid."""
    num_thresholds: int = 101
    """Equidistant thresholds from 0 to 1, for maps."""

    def __post_init__(self) -> None:
        check_fraction(self, "threshold")
        if self.num_thresholds < 2:
            raise ValueError(f"num_thresholds={self.num_thresholds}: must be at least 2")
