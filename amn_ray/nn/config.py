"""Settings of a backbone. Importable without PyTorch, which costs seconds in every process."""

from __future__ import annotations

import os
from dataclasses import dataclass

from amn_ray.nn.backbones.registry import check_name, module_of

STRIDE = 16
"""The output stride of the classifier, AMN and IRN, whatever their backbone."""
LAYERS = ("layer1", "layer2", "layer3", "layer4")


@dataclass(kw_only=True)
class BackboneConfig:
    """A network and its initial weights."""

    name: str = "resnet50"
    """resnet18, resnet34, resnet50 or resnet101 (torchvision's), timm/NAME, or a plug-in's name."""
    weights: str | None = "imagenet"
    """`imagenet` (torchvision's V1, or timm's), a .pth or .safetensors file in torchvision's or timm's names, also of
    a torchvision segmentation network (COCO initialisation), or null for random ones."""
    batchnorm: str = "running"
    """`running` uses the stored statistics in training too (the method's); `batch` is for training from scratch."""

    def __post_init__(self) -> None:
        if self.weights is not None:
            self.weights = os.path.expanduser(self.weights)
        check_name(self.name)
        if self.batchnorm not in ("running", "batch"):
            raise ValueError(f"batchnorm={self.batchnorm}: must be running or batch")

    @property
    def modules(self) -> list[str]:
        """The network's module; see core.settings.chosen_modules."""
        return [module_of(self.name)]
