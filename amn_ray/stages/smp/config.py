"""Settings of the networks of segmentation-models-pytorch; the values of both optimisers are in smp.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field

from amn_ray.core.checks import check_choice, check_fraction, check_not_negative, check_positive, check_range
from amn_ray.core.settings import shared
from amn_ray.nn.config import PRETRAINED, weights_at
from amn_ray.nn.precision import PRECISIONS
from amn_ray.stages.groups import PredictionsConfig, SegmenterConfig

SGD, ADAMW = "sgd", "adamw"


@dataclass(kw_only=True)
class OptimiserConfig:
    """An optimiser with a polynomial decay of its learning rates to 0, after a linear warm-up."""

    lr: float
    """Of the encoder."""
    lr_head: float
    """Of all other layers."""
    weight_decay: float
    power: float
    warmup: int = 0
    """Steps in which the learning rates rise from 0."""

    def __post_init__(self) -> None:
        check_positive(self, "lr", "lr_head", "power")
        check_not_negative(self, "weight_decay", "warmup")


@dataclass(kw_only=True)
class SgdConfig(OptimiserConfig):
    """SGD with momentum."""

    lr: float = 0.007
    lr_head: float = 0.007
    weight_decay: float = 4e-5
    power: float = 0.9
    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self, "momentum")


@dataclass(kw_only=True)
class AdamWConfig(OptimiserConfig):
    """AdamW, without weight decay for biases and normalisations."""

    lr: float = 6e-5
    lr_head: float = 6e-4
    weight_decay: float = 0.01
    power: float = 1.0
    warmup: int = 1500


@dataclass(kw_only=True)
class SmpConfig(SegmenterConfig):
    """Training of any of its networks on pseudo-masks."""

    arch: str = "deeplabv3plus"
    """deeplabv3plus, segformer, upernet, unet, fpn, pspnet, …: an architecture of the library."""
    encoder: str = "resnet50"
    """resnet50, mit_b2, tu-convnext_tiny, …: an encoder of the library; tu-NAME is timm's NAME."""
    weights: str | None = PRETRAINED
    """Of the encoder: `pretrained` (the library's default, downloaded), a .pth or .safetensors file in torchvision's or
    timm's names, or null for random ones."""
    scale: list[float] = field(default_factory=lambda: [0.5, 2.0])
    """Training images are resized by a factor drawn from this range."""
    optimizer: str | None = None
    """sgd or adamw; null: adamw for transformers, sgd for all other encoders."""
    sgd: SgdConfig = field(default_factory=SgdConfig)
    adamw: AdamWConfig = field(default_factory=AdamWConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.weights = weights_at(self.weights)
        check_choice(self, "optimizer", (SGD, ADAMW))
        check_range(self, "scale")
        from amn_ray.stages.smp import networks  # here: PyTorch costs seconds, and other segmenters do not need it

        networks.check(self.arch, self.encoder)
        if self.optimizer is None:
            self.optimizer = ADAMW if networks.is_transformer(self.arch, self.encoder) else SGD


@dataclass(kw_only=True)
class SmpPredictionsConfig(PredictionsConfig):
    """Multi-scale prediction with flips: the mean of the probabilities at the size of the image."""

    precision: str | None = shared()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "precision", PRECISIONS)
