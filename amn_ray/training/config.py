"""Settings that all training stages share."""

from __future__ import annotations

from dataclasses import dataclass

from amn_ray.core.checks import check_choice, check_not_negative, check_positive
from amn_ray.core.settings import shared
from amn_ray.nn.precision import PRECISIONS


@dataclass(kw_only=True)
class TrainingConfig:
    """Settings of a training stage. Fields that are null use the pipeline's setting of the same name."""

    seed: int | None = shared()
    """Random seed of initial weights, order of images, augmentation and dropout."""
    precision: str | None = shared()
    """auto (bf16 if the hardware supports it, else fp32), bf16 or fp32."""
    batch_size: int
    """Global batch size: the sum over all training workers."""
    crop: int
    """Side length in pixels of the square that training images are cropped (or padded) to."""

    def __post_init__(self) -> None:
        check_positive(self, "batch_size", "crop")
        check_not_negative(self, "seed")
        check_choice(self, "precision", PRECISIONS)
