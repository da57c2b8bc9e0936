"""Settings of scores."""

from __future__ import annotations

from dataclasses import dataclass, field

from amn_ray.core.checks import check_fraction
from amn_ray.evaluation.metrics import metrics


@dataclass(kw_only=True)
class ScoreConfig:
    """Scores of maps at every threshold of a grid, or of masks."""

    threshold: float | None = None
    """τ of the reported `miou` of maps; always a member of the grid."""
    num_thresholds: int = 101
    """Equidistant thresholds from 0 to 1, for maps."""
    metrics: list[str] = field(default_factory=list)
    """The names of all metrics of a confusion matrix: another metric gives another score artifact."""

    @property
    def modules(self) -> list[str]:
        """The metrics' modules; see core.settings.chosen_modules."""
        return [metric.__module__ for metric in metrics().values()]

    def __post_init__(self) -> None:
        check_fraction(self, "threshold")
        if self.num_thresholds < 2:
            raise ValueError(f"num_thresholds={self.num_thresholds}: must be at least 2")
