"""Settings of the IRN stage; the defaults are method.md's (VOC, AMN branch)."""

from __future__ import annotations

from dataclasses import dataclass, field

from amn_ray.core.checks import check_choice, check_fraction, check_not_negative, check_positive, check_range
from amn_ray.nn.config import PRECISIONS, BackboneConfig


@dataclass(kw_only=True)
class WalkConfig:
    """The random walk that spreads maps up to the learned boundaries."""

    radius: int = 5
    """Pairs of pixels nearer than this, at stride 4, exchange activation."""
    beta: float = 10
    """The exponent of an affinity: higher walls."""
    doublings: int = 8
    """The walk takes 2^doublings steps."""
    power: float = 1.3
    """The exponent of the maps before the walk; 1 for the CAM branch."""
    background: float = 0.25
    """The score of the background (COCO: 0.22)."""

    def __post_init__(self) -> None:
        check_positive(self, "beta", "power")
        check_fraction(self, "background")
        if self.radius < 2:
            raise ValueError(f"radius={self.radius}: must be at least 2 (pixels of stride 4)")
        if not 0 <= self.doublings <= 12:
            raise ValueError(f"doublings={self.doublings}: must be in [0, 12]")


@dataclass(kw_only=True)
class IrnConfig:
    """Training of the edge and displacement branches."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    seed: int = 0
    """Initial weights of the branches, order of images, augmentation."""
    precision: str = "auto"
    """auto (bf16 where the hardware computes it), bf16 or fp32."""
    epochs: int = 3
    batch_size: int = 32
    """Of all training workers together."""
    crop: int = 512
    scale: list[float] = field(default_factory=lambda: [0.5, 1.5])
    """Training images are resized by a factor drawn from this range."""
    radius: int = 10
    """Pairs of pixels nearer than this, at stride 4, are compared in training."""
    lr_edge: float = 0.1
    lr_displacement: float = 1.0
    momentum: float = 0.0
    """The released code passes the weight decay in its place (1e-4, as good as 0)."""
    weight_decay: float = 1e-4
    power: float = 0.9
    """Polynomial decay of the learning rates to 0, step by step."""
    walk: WalkConfig = field(default_factory=WalkConfig)

    def __post_init__(self) -> None:
        check_positive(self, "epochs", "batch_size", "crop", "lr_edge", "lr_displacement", "power")
        check_not_negative(self, "seed", "weight_decay")
        check_fraction(self, "momentum")
        check_choice(self, "precision", PRECISIONS)
        check_range(self, "scale")
        if self.radius < 2:
            raise ValueError(f"radius={self.radius}: must be at least 2 (pixels of stride 4)")
