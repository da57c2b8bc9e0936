"""Settings of AMN (VOC); τ and the seeds' thresholds are in amn.yaml (docs/method.md 4 and 5)."""

from __future__ import annotations

from dataclasses import dataclass, field

from amn_ray.core.checks import check_choice, check_fraction, check_not_negative, check_positive, check_range
from amn_ray.core.settings import shared
from amn_ray.nn.config import LAYERS, BackboneConfig
from amn_ray.nn.precision import PRECISIONS
from amn_ray.stages.groups import ActivationConfig, MapsConfig


@dataclass(kw_only=True)
class AmnConfig(ActivationConfig):
    """Training with the per-pixel classification loss (PCL) and label conditioning (LC)."""

    backbone: BackboneConfig | None = shared()
    optimizer: str = "adam"
    """adam, or adamw for transformers (recipe=transformer)."""
    scale: list[float] = field(default_factory=lambda: [0.5, 1.5])
    """Training images are resized by a factor drawn from this range."""
    lr_backbone: float = 5e-6
    lr_head: float = 1e-4
    """For the ASPP and label conditioning."""
    weight_decay: float = 1e-4
    smoothing: float = 0.4
    """ε: the target is 1−ε on the seed's class and ε/N on the others."""
    dropout: float = 0.1
    """Before the ASPP, in training only (the released code forgets to switch it off)."""
    lc: list[str] = field(default_factory=lambda: ["layer4"])
    """The layers after which the label is multiplied into the features (Table 2); [] trains PCL only (Table 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "lr_backbone", "lr_head")
        check_not_negative(self, "weight_decay")
        check_fraction(self, "smoothing", "dropout")
        check_choice(self, "lc", LAYERS)
        check_choice(self, "optimizer", ("adam", "adamw"))
        check_range(self, "scale")
        if len(set(self.lc)) != len(self.lc):
            raise ValueError(f"lc={self.lc}: names a layer twice")


@dataclass(kw_only=True)
class AmnMapsConfig(MapsConfig):
    """Multi-scale maps."""

    precision: str | None = shared()
    softmax_subset: bool = False
    """Softmax over background and the image's own classes only: the paper's strict reading of label conditioning."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "precision", PRECISIONS)
