"""Settings of the vote."""

from __future__ import annotations

from dataclasses import dataclass

from amn_ray.stages.groups import RefinementConfig


@dataclass(kw_only=True)
class MajorityConfig(RefinementConfig):
    """From maps to seeds, at two thresholds."""

    window: int = 9
    """Pixels: those of a square of this side vote for the one in its middle."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 1 or self.window % 2 == 0:
            raise ValueError(f"window={self.window}: must be an odd number of pixels, such as 9")
