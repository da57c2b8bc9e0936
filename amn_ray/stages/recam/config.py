"""Settings of ReCAM; τ, and the thresholds of the seeds made from its maps, are in recam.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field

from amn_ray.core.checks import check_choice, check_not_negative, check_pixel_range, check_positive
from amn_ray.core.settings import shared
from amn_ray.nn.config import BackboneConfig
from amn_ray.nn.precision import PRECISIONS
from amn_ray.stages.groups import MapsConfig, MapsNetworkConfig
from amn_ray.training.config import TrainingConfig


@dataclass(kw_only=True)
class RecamNetworkConfig(TrainingConfig, MapsNetworkConfig):
    """Further training of the classifier, with a softmax loss on features that its own maps pool."""

    backbone: BackboneConfig | None = shared()
    epochs: int = 4
    batch_size: int = 16
    crop: int = 512
    long_side: list[int] = field(default_factory=lambda: [320, 640])
    """The longer side of an image is resized to a length drawn from this range (pixels, inclusive)."""
    weight: float = 1.0
    """λ of the softmax loss."""
    lr_backbone: float = 5e-5
    """Of the backbone and the classifier."""
    lr_head: float = 5e-4
    """Of the new classifier W'."""
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        MapsNetworkConfig.__post_init__(self)
        check_positive(self, "epochs", "lr_backbone", "lr_head")
        check_not_negative(self, "weight", "weight_decay")
        check_pixel_range(self, "long_side")

    @property
    def deviations(self) -> list[str]:
        """See MapsNetworkConfig."""
        epochs = [f"{self.epochs} epochs"] * (self.epochs != RecamNetworkConfig.epochs)
        return epochs + super().deviations


@dataclass(kw_only=True)
class RecamMapsConfig(MapsConfig):
    """Multi-scale maps."""

    precision: str | None = shared()
    product: bool = True
    """Multiply both classifiers, W' ⊙ w (published for VOC); without, the further trained w alone (COCO)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "precision", PRECISIONS)
