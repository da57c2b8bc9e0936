"""Settings of the head, and of the maps that are made with it."""

from __future__ import annotations

from dataclasses import dataclass

from amn_ray.core.checks import check_choice, check_fraction, check_not_negative, check_positive
from amn_ray.core.settings import shared
from amn_ray.nn.config import BackboneConfig
from amn_ray.nn.precision import PRECISIONS
from amn_ray.stages.groups import MapsConfig, MapsNetworkConfig
from amn_ray.training.config import TrainingConfig


@dataclass(kw_only=True)
class LseHeadConfig(TrainingConfig, MapsNetworkConfig):
    """Training of the head on image-level labels."""

    backbone: BackboneConfig | None = shared()
    epochs: int = 3
    batch_size: int = 16
    crop: int = 448
    sharpness: float = 1.0
    """Of the pooling: near 0 it is the mean over all pixels, and the larger the closer to the maximum."""
    lr: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "epochs", "sharpness", "lr")
        check_fraction(self, "momentum")
        check_not_negative(self, "weight_decay")


@dataclass(kw_only=True)
class LseMapsConfig(MapsConfig):
    """Multi-scale maps."""

    precision: str | None = shared()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "precision", PRECISIONS)
