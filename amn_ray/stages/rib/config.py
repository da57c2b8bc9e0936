"""Settings of RIB's maps; τ, and the thresholds of the seeds made from them, are in rib.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field

from amn_ray.core.checks import check_choice, check_fraction, check_not_negative, check_pixel_range, check_positive
from amn_ray.core.settings import shared
from amn_ray.nn.precision import PRECISIONS
from amn_ray.stages.groups import MapsConfig


@dataclass(kw_only=True)
class RibConfig(MapsConfig):
    """Maps of a classifier that is fine-tuned on each image."""

    seed: int | None = shared()
    """Of the other images that an image is fine-tuned together with, and of their augmentation."""
    precision: str | None = shared()
    steps: int = 10
    """The maps of so many steps are added up; the first ones are CAM's."""
    batch_size: int = 20
    """Other images in a step, none of which shares a class with the image."""
    crop: int = 512
    """Side length in pixels of the square that they are cropped (or padded) to."""
    long_side: list[int] = field(default_factory=lambda: [320, 640])
    """Before, their longer side is resized to a length drawn from this range (pixels, inclusive)."""
    lr_backbone: float = 8e-6
    lr_head: float = 8e-5
    weight_decay: float = 1e-4
    region: float = 0.4
    """Only pixels below this share of their class's largest logit are pooled (GNDP)."""
    coverage: float = 0.7
    """The fine-tuning stops where the maps cover more than this share of the image."""
    limit: float = 600.0
    """It stops, too, where the pooled logits of the image sum to more than this."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "precision", PRECISIONS)
        check_positive(self, "steps", "batch_size", "crop", "limit")
        check_not_negative(self, "lr_backbone", "lr_head", "weight_decay")
        check_fraction(self, "coverage")
        check_pixel_range(self, "long_side")

    @property
    def deviations(self) -> list[str]:
        """See MapsNetworkConfig."""
        steps = [f"{self.steps} steps"] * (self.steps != RibConfig.steps)
        return (
            steps + [f"batches of {self.batch_size}"] * (self.batch_size != RibConfig.batch_size) + super().deviations
        )
