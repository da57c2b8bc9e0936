"""Settings that all training stages share."""

from __future__ import annotations

from dataclasses import dataclass

from amn_ray.core.checks import check_choice, check_not_negative, check_positive
from amn_ray.core.settings import shared
from amn_ray.nn.precision import PRECISIONS


@dataclass(kw_only=True)
class TrainingConfig:
    """Settings of a training. Fields that are null take the pipeline's setting of that name."""

    seed: int | None = shared()
    """Random seed of initial weights, order of images, augmentation and dropout."""
    precision: str | None = shared()
    """auto (bf16 where the hardware computes it, else fp32), bf16 or fp32."""
    batch_size: int
    """Global batch size: of all training workers together."""
    crop: int
    """Pixels: training images are cropped (or padded) to a square of this side."""

    def __post_init__(self) -> None:
        check_positive(self, "batch_size", "crop")
        check_not_negative(self, "seed")
        check_choice(self, "precision", PRECISIONS)
