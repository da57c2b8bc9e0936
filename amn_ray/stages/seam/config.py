"""Settings of SEAM; τ, and the thresholds of the seeds made from its maps, are in seam.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field

from amn_ray.core.checks import check_choice, check_fraction, check_not_negative, check_pixel_range, check_positive
from amn_ray.core.settings import shared
from amn_ray.nn.config import STRIDE, BackboneConfig
from amn_ray.nn.precision import PRECISIONS
from amn_ray.stages.groups import MapsConfig, MapsNetworkConfig
from amn_ray.training.config import TrainingConfig


@dataclass(kw_only=True)
class SeamNetworkConfig(TrainingConfig, MapsNetworkConfig):
    """Training on two views of each image, whose maps must agree."""

    backbone: BackboneConfig | None = shared()
    epochs: int = 8
    batch_size: int = 8
    crop: int = 448
    long_side: list[int] = field(default_factory=lambda: [448, 768])
    """The longer side of an image is resized to a length drawn from this range (pixels, inclusive)."""
    view: float = 0.3
    """The second view is the crop, shrunk by this factor."""
    lr: float = 0.01
    """Of the backbone."""
    lr_head: float = 0.1
    """Of the classifier, and of the layers of the pixel correlation module."""
    momentum: float = 0.0
    """The released code passes the weight decay in its place (5e-4, as good as 0)."""
    weight_decay: float = 5e-4
    dropout: float = 0.5
    """The share of layer4's channels that are left out, drawn for each view."""
    present_only: bool = False
    """Let the maps of classes that an image does not have win no pixel of the correlation module. The released code
    lets them, also while the maps are made."""

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        MapsNetworkConfig.__post_init__(self)
        check_positive(self, "epochs", "view", "lr", "lr_head")
        check_not_negative(self, "weight_decay")
        check_fraction(self, "view", "momentum", "dropout")
        check_pixel_range(self, "long_side")
        if self.dropout == 1:
            raise ValueError("dropout=1: leaves no channel; set less")
        if int(self.view * self.crop) < STRIDE:
            raise ValueError(
                f"crop={self.crop}: the second view, {self.view:g} of it, would be smaller than the network's stride "
                f"of {STRIDE} pixels; set a larger crop or view"
            )

    @property
    def deviations(self) -> list[str]:
        """See MapsNetworkConfig."""
        epochs = [f"{self.epochs} epochs"] * (self.epochs != SeamNetworkConfig.epochs)
        present = ["present classes only"] * self.present_only
        return ["ours", *epochs, *present, *super().deviations]


@dataclass(kw_only=True)
class SeamMapsConfig(MapsConfig):
    """Multi-scale maps."""

    precision: str | None = shared()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "precision", PRECISIONS)
