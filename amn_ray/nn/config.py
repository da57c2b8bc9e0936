"""What there is to choose about a backbone. Importable without PyTorch, which costs seconds in every process."""

from __future__ import annotations

import os
from dataclasses import dataclass

STRIDE = 16
LAYERS = ("layer1", "layer2", "layer3", "layer4")
PRECISIONS = ("auto", "bf16", "fp32")
BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101")


@dataclass(kw_only=True)
class BackboneConfig:
    """Which network, from which weights."""

    name: str = "resnet50"
    """resnet18, resnet34, resnet50 or resnet101."""
    weights: str | None = "imagenet"
    """`imagenet` (torchvision's V1), a .pth or .safetensors file of a torchvision ResNet or of a torchvision
    segmentation network on one (COCO initialisation), or null for random ones."""
    batchnorm: str = "running"
    """`running` uses the stored statistics in training too (the method's); `batch` is for training from scratch."""

    def __post_init__(self) -> None:
        if self.weights is not None:
            self.weights = os.path.expanduser(self.weights)
        if self.name not in BACKBONES:
            raise ValueError(f"name={self.name}: must be one of {', '.join(BACKBONES)}")
        if self.batchnorm not in ("running", "batch"):
            raise ValueError(f"batchnorm={self.batchnorm}: must be running or batch")
