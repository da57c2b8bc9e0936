"""Settings of DRS; τ, and the thresholds of the seeds made from its maps, are in drs.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amn_ray.core.checks import (
    check_choice,
    check_fraction,
    check_not_negative,
    check_pixel_range,
    check_positive,
    check_scales,
)
from amn_ray.core.settings import build, shared
from amn_ray.nn.config import PRETRAINED, BackboneConfig, weights_at
from amn_ray.nn.precision import PRECISIONS
from amn_ray.stages.groups import MapsConfig, MapsNetworkConfig
from amn_ray.training.config import TrainingConfig

VGG = "vgg16"
PUBLISHED: Mapping[str, Any] = {
    "epochs": 15, "batch_size": 10, "crop": 320, "long_side": [384, 384], "lr": 1e-3, "momentum": 0.9,
    "weight_decay": 5e-4,
}  # fmt: skip
"""On VGG-16."""
AS_CAM: Mapping[str, Any] = {
    "epochs": 5, "batch_size": 16, "crop": 512, "long_side": [320, 640], "lr": 0.1, "momentum": 0.0,
    "weight_decay": 1e-4,
}  # fmt: skip
"""On other networks, the classifier's."""
SECOND_EPOCHS = 30
"""Of the second network."""
SQUARE = 320
"""The side in pixels of the squares that it learns from, and at which VGG-16's other squares are read."""
HEAD = 10
"""New layers learn so many times faster."""


@dataclass(kw_only=True)
class DrsNetworkConfig(TrainingConfig, MapsNetworkConfig):
    """Training of a classifier whose layers suppress their maxima.

    What is null is published for VGG-16, and as the classifier's training on other networks.
    """

    backbone: Any = shared()
    """vgg16, as published; null: the run's backbone.*, with a suppression after each of its four layers (ours)."""
    weights: str | None = PRETRAINED
    """Of VGG-16: `pretrained` (torchvision's), a .pth or .safetensors file in torchvision's names, or null for random
    ones."""
    delta: float | None = None
    """δ: what exceeds this share of a channel's maximum is cut down to it; null: the shares are learned."""
    second_network: bool = False
    """Train a second VGG-16, whose output are the maps, to reproduce the maps of the first one."""
    epochs: int | None = None
    """On VGG-16 the learning rates are divided by ten after 4 and 9 of them. The second network has its own 30."""
    batch_size: int | None = None  # type: ignore[assignment]
    """Of both networks."""
    crop: int | None = None  # type: ignore[assignment]
    long_side: list[int] | None = None
    """The longer side of an image is resized to a length drawn from this range (pixels, inclusive); VGG-16 learns from
    squares of this side."""
    lr: float | None = None
    """Of the layers that have initial weights."""
    lr_head: float | None = None
    """Of all others; null: ten times lr."""
    momentum: float | None = None
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.backbone, Mapping):
            self.backbone = build(BackboneConfig, self.backbone)
        if not (self.backbone in (None, VGG) or isinstance(self.backbone, BackboneConfig)):
            raise ValueError(f"backbone={self.backbone}: must be {VGG}, or null for the run's backbone.*")
        if not self.on_vgg and self.weights not in (None, PRETRAINED):
            raise ValueError(f"weights={self.weights}: are those of backbone={VGG}; the run's are backbone.weights")
        self.weights = weights_at(self.weights)
        for name, value in (PUBLISHED if self.on_vgg else AS_CAM).items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        if self.lr_head is None and self.lr is not None:
            self.lr_head = HEAD * self.lr
        TrainingConfig.__post_init__(self)
        MapsNetworkConfig.__post_init__(self)
        check_positive(self, "epochs", "lr", "lr_head", "delta")
        check_not_negative(self, "weight_decay")
        check_fraction(self, "momentum", "delta")
        check_pixel_range(self, "long_side")
        if self.on_vgg:
            assert self.long_side is not None
            assert self.crop is not None
            if self.long_side[0] < self.crop:
                raise ValueError(
                    f"crop={self.crop}: squares of {self.long_side[0]} pixels (long_side) would be padded, and the "
                    "padding would be a part of the maxima; set a smaller crop, or null for crop, long_side, epochs, "
                    "lr and lr_head (published)"
                )
        elif self.second_network:
            raise ValueError(f"second_network=true: is for backbone={VGG} only")

    @property
    def on_vgg(self) -> bool:
        """Whether the network is the published one."""
        return bool(self.backbone == VGG)

    @property
    def deviations(self) -> list[str]:
        """See MapsNetworkConfig."""
        usual = (PUBLISHED if self.on_vgg else AS_CAM)["epochs"]
        fixed = [] if self.delta is None else [f"δ = {self.delta:g}"]
        second = ["second network"] * self.second_network
        epochs = [f"{self.epochs} epochs"] * (self.epochs != usual)
        return ["ours"] * (not self.on_vgg) + fixed + second + epochs + super().deviations


@dataclass(kw_only=True)
class DrsMapsConfig(MapsConfig):
    """Maps at several scales: their sum as for CAM, or the maximum over squares of VGG-16."""

    precision: str | None = shared()
    squares: list[int] = field(default_factory=lambda: [256, 320, 384])
    """Sides in pixels of the squares at which VGG-16 sees an image; other networks use `scales`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "precision", PRECISIONS)
        check_scales(self)
        if not self.squares or min(self.squares) < 32:
            raise ValueError(f"squares={self.squares}: must be a list of sides in pixels, at least 32")
