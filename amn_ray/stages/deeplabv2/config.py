"""Settings of DeepLabv2; the defaults are those of docs/method.md (VOC)."""

from __future__ import annotations

from dataclasses import dataclass, field

from amn_ray.core.checks import check_choice, check_fraction, check_not_negative, check_positive, check_scales
from amn_ray.core.settings import shared
from amn_ray.nn.config import BackboneConfig
from amn_ray.nn.precision import PRECISIONS
from amn_ray.stages.groups import PredictionsConfig, SegmenterConfig


@dataclass(kw_only=True)
class DeepLabConfig(SegmenterConfig):
    """Multi-scale training."""

    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="resnet101"))
    """weights: null starts from the classifier's."""
    grad_accumulation: int = 1
    """Number of parts of a worker's batch, to save memory; the gradient is the same unless BatchNorm uses batch
    statistics."""
    factors: list[float] = field(default_factory=lambda: [0.5, 0.75, 1.0, 1.25, 1.5])
    """Training images are resized by one of these factors."""
    lr: float = 2.5e-4
    """For the backbone; the head's weights have 10 times, its biases 20 times this rate."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    """For all parameters except the head's biases."""
    power: float = 0.9
    """Polynomial decay of the learning rates, every 10 steps."""
    scales: list[float] = field(default_factory=lambda: [1.0, 0.75, 0.5])
    """The network sees each training image at these scales; the largest logit counts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "grad_accumulation", "lr", "power")
        check_not_negative(self, "weight_decay")
        check_fraction(self, "momentum")
        check_pyramid(self)
        if not self.factors or min(self.factors) <= 0:
            raise ValueError(f"factors={self.factors}: must be a list of factors greater than 0")


@dataclass(kw_only=True)
class DeepLabPredictionsConfig(PredictionsConfig):
    """Multi-scale prediction: the largest logit over the scales."""

    precision: str | None = shared()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_pyramid(self)
        check_choice(self, "precision", PRECISIONS)


def check_pyramid(config: object) -> None:
    """Reject scales that do not begin with 1."""
    check_scales(config)
    scales = getattr(config, "scales")  # noqa: B009
    if scales[0] != 1:
        raise ValueError(f"scales={scales}: must begin with 1.0, at whose size the logits are compared")
