"""Settings of the DeepLab stage; the defaults are method.md's (VOC)."""

from __future__ import annotations

from dataclasses import dataclass, field

from amn_ray.core.checks import check_choice, check_fraction, check_not_negative, check_positive, check_scales
from amn_ray.nn.config import PRECISIONS, BackboneConfig


@dataclass(kw_only=True)
class DeepLabConfig:
    """Multi-scale training and testing."""

    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="resnet101"))
    """weights: null starts from the classifier's."""
    seed: int = 0
    """Initial weights of the head, order of images, augmentation."""
    precision: str = "auto"
    """auto (bf16 where the hardware computes it), bf16 or fp32."""
    iterations: int = 20_000
    """Optimizer steps (COCO: 100,000)."""
    batch_size: int = 10
    """Of all training workers together."""
    accumulate: int = 1
    """Parts that a worker's batch goes through the network in: less memory, and the same gradient unless BatchNorm
    takes a batch's statistics."""
    crop: int = 321
    factors: list[float] = field(default_factory=lambda: [0.5, 0.75, 1.0, 1.25, 1.5])
    """Training images are resized by one of these factors."""
    lr: float = 2.5e-4
    """Of the backbone; the head's weights get 10 times, its biases 20 times as much."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    """Of all but the head's biases."""
    power: float = 0.9
    """Polynomial decay of the learning rates, every 10 steps."""
    scales: list[float] = field(default_factory=lambda: [1.0, 0.75, 0.5])
    """The network sees each image at these scales, in training and testing; the largest logit counts."""

    def __post_init__(self) -> None:
        check_positive(self, "iterations", "batch_size", "accumulate", "crop", "lr", "power")
        check_not_negative(self, "seed", "weight_decay")
        check_fraction(self, "momentum")
        check_choice(self, "precision", PRECISIONS)
        check_scales(self)
        if self.scales[0] != 1:
            raise ValueError(f"scales={self.scales}: must begin with 1.0, at whose size the logits are compared")
        if not self.factors or min(self.factors) <= 0:
            raise ValueError(f"factors={self.factors}: must be a list of factors greater than 0")
