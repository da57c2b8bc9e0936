"""The classifier that several methods for maps start from.

Legend: B = images, H W = pixels, h w = stride-16 feature grid, N = classes without background.
"""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from amn_ray.core.artifacts import MODEL, Artifact
from amn_ray.core.settings import build
from amn_ray.nn.backbones.registry import build_backbone
from amn_ray.nn.config import STRIDE, BackboneConfig
from amn_ray.nn.weights import load_module


class Classifier(nn.Module):
    """Backbone → global average pooling → 1×1 convolution without bias (released code: net/resnet50_cam.py)."""

    def __init__(self, backbone: BackboneConfig, num_classes: int, detach_after: str | None) -> None:
        super().__init__()
        self.backbone = build_backbone(backbone, STRIDE)
        self.classifier = nn.Conv2d(self.backbone.channels["layer4"], num_classes, 1, bias=False)
        self.detach_after = detach_after
        if self.detach_after is not None:
            # Layers before the cut get no gradient; freezing keeps them out of the optimizer.
            self.backbone.freeze(self.detach_after)

    def features(self, image_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, h, w); the gradient stops after `detach_after`."""
        return self.backbone(image_BCHW, lambda name, out: out.detach() if name == self.detach_after else out)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) -> class logits (B, N)."""
        pooled = self.features(image_BCHW).mean(dim=(2, 3), keepdim=True)
        return self.classifier(pooled).flatten(1)

    def activation(self, image_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) -> relu'd class activation (B, N, h, w) (paper eq. 1)."""
        return F.relu(self.classifier(self.features(image_BCHW)))


def load_classifier(weights: Artifact, num_classes: int) -> Classifier:
    """A trained classifier, in eval mode."""
    config = weights.manifest()["config"]
    network = Classifier(build(BackboneConfig, config["backbone"]), num_classes, config["detach_after"])
    return load_module(network, weights.read(MODEL))
