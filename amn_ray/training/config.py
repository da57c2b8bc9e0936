"""Settings that all training stages share."""

from __future__ import annotations

from dataclasses import dataclass

from amn_ray.core.checks import check_choice, check_not_negative, check_positive
from amn_ray.core.settings import shared
from amn_ray.nn.precision import PRECISIONS


def check_decay(config: object) -> None:
    """Reject a decay of averaged weights outside (0, 1)."""
    ema = getattr(config, "ema")  # noqa: B009
    if ema is not None and not 0 < ema < 1:
        raise ValueError(f"ema={ema}: must be in (0, 1), such as 0.999, or null")


@dataclass(kw_only=True)
class TrainingConfig:
    """Settings of a training stage. Fields that are null use the pipeline's setting of the same name."""

    seed: int | None = shared()
    """Random seed of initial weights, order of images, augmentation and dropout."""
    precision: str | None = shared()
    """auto (bf16 if the hardware supports it, else fp32), bf16 or fp32."""
    ema: float | None = shared()
    """Average the weights over the training's steps with this decay, in (0, 1): what is stored and used are then the
    averages. null: the weights of the last step."""
    batch_size: int
    """Global batch size: the sum over all training workers."""
    crop: int
    """Side length in pixels of the square that training images are cropped (or padded) to."""

    def __post_init__(self) -> None:
        check_positive(self, "batch_size", "crop")
        check_not_negative(self, "seed")
        check_choice(self, "precision", PRECISIONS)
        check_decay(self)
