"""Settings of the AMN stage; the defaults are method.md's (VOC)."""

from __future__ import annotations

from dataclasses import dataclass, field

from amn_ray.core.checks import (
    check_choice,
    check_fraction,
    check_not_negative,
    check_positive,
    check_range,
    check_scales,
)
from amn_ray.nn.config import LAYERS, PRECISIONS, BackboneConfig


@dataclass(kw_only=True)
class AmnConfig:
    """Training with the per-pixel classification loss (PCL) and label conditioning (LC), and multi-scale maps."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    seed: int = 0
    """Initial weights, order of images, augmentation, dropout."""
    precision: str = "auto"
    """auto (bf16 where the hardware computes it), bf16 or fp32."""
    epochs: int = 5
    batch_size: int = 16
    """Of all training workers together."""
    crop: int = 512
    scale: list[float] = field(default_factory=lambda: [0.5, 1.5])
    """Training images are resized by a factor drawn from this range."""
    lr_backbone: float = 5e-6
    lr_head: float = 1e-4
    """Of the ASPP and of label conditioning."""
    weight_decay: float = 1e-4
    smoothing: float = 0.4
    """ε: the target is 1−ε on the seed's class and ε/N on the others."""
    dropout: float = 0.1
    """Before the ASPP, in training only (the released code forgets to switch it off)."""
    lc: list[str] = field(default_factory=lambda: ["layer4"])
    """The layers after which the label is multiplied into the features (Table 2); [] trains PCL only (Table 1)."""
    softmax_subset: bool = False
    """Softmax over background and the image's own classes only: the paper's strict reading of label conditioning."""
    scales: list[float] = field(default_factory=lambda: [1.0, 0.5, 1.5, 2.0])
    threshold: float = 0.45
    """τ at which the maps are evaluated."""

    def __post_init__(self) -> None:
        check_positive(self, "epochs", "batch_size", "crop", "lr_backbone", "lr_head")
        check_not_negative(self, "seed", "weight_decay")
        check_fraction(self, "threshold", "smoothing", "dropout")
        check_choice(self, "precision", PRECISIONS)
        check_choice(self, "lc", LAYERS)
        check_scales(self)
        check_range(self, "scale")
        if len(set(self.lc)) != len(self.lc):
            raise ValueError(f"lc={self.lc}: names a layer twice")
