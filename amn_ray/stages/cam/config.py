"""Settings of the CAM stage; the defaults are method.md's (VOC)."""

from __future__ import annotations

from dataclasses import dataclass, field

from amn_ray.core.checks import check_choice, check_fraction, check_not_negative, check_positive, check_scales
from amn_ray.nn.config import LAYERS, PRECISIONS, BackboneConfig


@dataclass(kw_only=True)
class CamConfig:
    """Classifier training and multi-scale maps."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    seed: int = 0
    """Initial weights, order of images, augmentation."""
    precision: str = "auto"
    """auto (bf16 where the hardware computes it), bf16 or fp32."""
    epochs: int = 5
    batch_size: int = 16
    """Of all training workers together."""
    crop: int = 512
    long_side: list[int] = field(default_factory=lambda: [320, 640])
    """The longer side of an image is resized to a length drawn from this range (pixels, inclusive)."""
    lr_backbone: float = 0.1
    lr_head: float = 1.0
    momentum: float = 0.0
    """The released code passes the weight decay in its place (1e-4, as good as 0)."""
    weight_decay: float = 1e-4
    power: float = 0.9
    """Polynomial decay of the learning rates to 0, step by step."""
    detach_after: str | None = "layer2"
    """The layer after which the gradient stops; null trains all (from random weights)."""
    scales: list[float] = field(default_factory=lambda: [1.0, 0.5, 1.5, 2.0])
    threshold: float = 0.15
    """τ at which the maps are evaluated."""

    def __post_init__(self) -> None:
        check_positive(self, "epochs", "batch_size", "crop", "lr_backbone", "lr_head", "power")
        check_not_negative(self, "seed", "weight_decay")
        check_fraction(self, "threshold", "momentum")
        check_choice(self, "precision", PRECISIONS)
        if self.detach_after is not None:
            check_choice(self, "detach_after", LAYERS)
        check_scales(self)
        if len(self.long_side) != 2 or not 1 <= self.long_side[0] <= self.long_side[1]:
            raise ValueError(f"long_side={self.long_side}: must be [shortest, longest] in pixels")
