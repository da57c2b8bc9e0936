"""Settings of PAMR; the defaults are the published ones (Araslanov and Roth, CVPR 2020)."""

from __future__ import annotations

from dataclasses import dataclass, field

from amn_ray.core.checks import check_positive
from amn_ray.stages.groups import RefinementConfig


@dataclass(kw_only=True)
class PamrConfig(RefinementConfig):
    """From maps to seeds, at two thresholds."""

    dilations: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 12, 24])
    """Distances of a pixel's neighbours, in pixels: eight neighbours for each dilation."""
    iterations: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "iterations")
        if not self.dilations or min(self.dilations) < 1 or len(set(self.dilations)) != len(self.dilations):
            raise ValueError(f"dilations={self.dilations}: must be a list of different whole numbers greater than 0")
