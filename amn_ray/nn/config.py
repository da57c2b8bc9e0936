"""Settings of a backbone. Importable without PyTorch, which costs seconds in every process."""

from __future__ import annotations

import os
from dataclasses import dataclass

from amn_ray.nn.backbones.registry import check_name, known_strides, module_of

STRIDE = 16
"""The output stride of the classifier, AMN and IRN, but for backbones that have their own (see `stride_of`)."""
LAYERS = ("layer1", "layer2", "layer3", "layer4")
PRETRAINED = "pretrained"
"""As a setting of weights: those that were published for the network."""


def weights_at(weights: str | None) -> str | None:
    """A setting of weights, with `~` replaced by the user's home.

    Raises:
        ValueError: it is a name of version 0.1.
    """
    if weights == "imagenet":
        raise ValueError(f"weights=imagenet: was renamed to {PRETRAINED} in version 0.2; see CHANGELOG.md")
    return None if weights is None else os.path.expanduser(weights)


def stride_of(name: str) -> int:
    """The output stride of the classifier, AMN and IRN on a backbone of this name."""
    strides = known_strides(name)
    return STRIDE if strides is None else strides["layer4"]


def has_own_strides(name: str) -> bool:
    """Whether a backbone of this name is a transformer, whose strides nobody can choose."""
    strides = known_strides(name)
    return strides is not None and (strides["layer4"] != STRIDE or has_one_stride(name))


def has_one_stride(name: str) -> bool:
    """Whether a backbone of this name is a plain vision transformer, whose levels all have the same stride."""
    strides = known_strides(name)
    return strides is not None and len(set(strides.values())) == 1


@dataclass(kw_only=True)
class BackboneConfig:
    """A network and its initial weights."""

    name: str = "resnet50"
    """resnet18, resnet34, resnet50 or resnet101 (torchvision's), timm/NAME, or a plug-in's name."""
    weights: str | None = PRETRAINED
    """`pretrained` (torchvision's ImageNet V1, or timm's), a .pth or .safetensors file in torchvision's or timm's
    names, also of a torchvision segmentation network (COCO initialisation), or null for random ones."""
    batchnorm: str = "running"
    """`running` uses the stored statistics in training too (the method's); `batch` is for training from scratch."""

    def __post_init__(self) -> None:
        self.weights = weights_at(self.weights)
        if self.name is not None:
            check_name(self.name)
        if self.batchnorm not in ("running", "batch"):
            raise ValueError(f"batchnorm={self.batchnorm}: must be running or batch")

    @property
    def modules(self) -> list[str]:
        """The network's module; see core.settings.chosen_modules."""
        return [] if self.name is None else [module_of(self.name)]


@dataclass(kw_only=True)
class OwnBackboneConfig(BackboneConfig):
    """A backbone other than the run's, for one step."""

    name: str | None = None  # type: ignore[assignment]
    """Null: the run's, with its weights."""
