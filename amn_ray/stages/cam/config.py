"""Settings of CAM's maps; τ, and the thresholds of the seeds made from them, are in cam.yaml (docs/method.md 2)."""

from __future__ import annotations

from dataclasses import dataclass

from amn_ray.core.checks import check_choice
from amn_ray.core.settings import shared
from amn_ray.nn.precision import PRECISIONS
from amn_ray.stages.groups import MapsConfig


@dataclass(kw_only=True)
class CamConfig(MapsConfig):
    """Multi-scale maps."""

    precision: str | None = shared()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "precision", PRECISIONS)
