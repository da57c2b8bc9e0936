"""Settings of AdvCAM's maps; τ, and the thresholds of the seeds made from them, are in advcam.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field

from amn_ray.core.checks import check_choice, check_fraction, check_not_negative, check_positive
from amn_ray.core.settings import shared
from amn_ray.nn.precision import PRECISIONS
from amn_ray.stages.groups import MapsConfig


@dataclass(kw_only=True)
class AdvCamConfig(MapsConfig):
    """Maps by adversarial climbing."""

    precision: str | None = shared()
    scales: list[float] = field(default_factory=lambda: [0.5, 1.0, 1.5, 2.0])
    steps: int = 27
    """T: the maps of so many steps are added up; at scale 0.5 of half of them."""
    step_size: float = 0.08
    """ξ, by how much a pixel may change in a step, in normalised units (released code; the paper prints 0.008)."""
    penalty: float = 7.0
    """λ of the change within the region that is already discriminative."""
    region: float = 0.5
    """That region is where a map exceeds this share of its maximum."""
    equal_scales: bool = False
    """Divide each scale's sum by its steps; the released code lets scale 0.5 count half."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "precision", PRECISIONS)
        check_positive(self, "steps")
        check_not_negative(self, "step_size", "penalty")
        check_fraction(self, "region")

    @property
    def deviations(self) -> list[str]:
        """See MapsNetworkConfig."""
        return [f"{self.steps} steps"] * (self.steps != AdvCamConfig.steps) + super().deviations
