"""Settings of the classifier's training; the defaults are those of docs/method.md (VOC)."""

from __future__ import annotations

from dataclasses import dataclass, field

from amn_ray.core.checks import check_choice, check_fraction, check_not_negative, check_pixel_range, check_positive
from amn_ray.core.settings import shared
from amn_ray.nn.config import LAYERS, BackboneConfig
from amn_ray.training.config import TrainingConfig

SGD, ADAMW = "sgd", "adamw"


@dataclass(kw_only=True)
class AdamWConfig:
    """AdamW, for transformers: as ToCo trains its classifier (Ru et al. 2023, Section 4.1)."""

    lr_backbone: float = 6e-5
    lr_head: float = 6e-4
    weight_decay: float = 0.01
    """Not of biases and normalisations."""
    warmup: int = 1500
    """Steps in which the learning rates rise from 0."""

    def __post_init__(self) -> None:
        check_positive(self, "lr_backbone", "lr_head")
        check_not_negative(self, "weight_decay", "warmup")


@dataclass(kw_only=True)
class ClassifierConfig(TrainingConfig):
    """Training on image-level labels."""

    backbone: BackboneConfig | None = shared()
    optimizer: str = SGD
    """sgd, with the rates below, or adamw."""
    adamw: AdamWConfig = field(default_factory=AdamWConfig)
    epochs: int = 5
    batch_size: int = 16
    crop: int = 512
    long_side: list[int] = field(default_factory=lambda: [320, 640])
    """The longer side of an image is resized to a length drawn from this range (pixels, inclusive)."""
    lr_backbone: float = 0.1
    lr_head: float = 1.0
    momentum: float = 0.0
    """Of SGD; the released code passes the weight decay in its place (1e-4, as good as 0)."""
    weight_decay: float = 1e-4
    power: float = 0.9
    """Polynomial decay of the learning rates to 0, step by step."""
    detach_after: str | None = "layer2"
    """The layer after which the gradient stops; null trains all layers (from random weights)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "epochs", "lr_backbone", "lr_head", "power")
        check_not_negative(self, "weight_decay")
        check_choice(self, "optimizer", (SGD, ADAMW))
        check_fraction(self, "momentum")
        check_choice(self, "detach_after", LAYERS)
        check_pixel_range(self, "long_side")


@dataclass(kw_only=True)
class LabelScoreConfig:
    """How the classifier is scored."""

    precision: str | None = shared()
