"""DeepLabv2 and its loss.

Legend: B = images, H W = pixels, h w = the grid of stride 8, N = classes without background, C = N+1 channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from amn_ray.nn.aspp import Aspp
from amn_ray.nn.backbones.registry import build_backbone
from amn_ray.nn.config import BackboneConfig
from amn_ray.nn.multiscale import images_per_pass
from amn_ray.nn.precision import autocast
from amn_ray.stages.deeplabv2.example import OUTPUT_STRIDE, scaled


class DeepLabNet(nn.Module):
    """Backbone of output stride 8 → ASPP, at several scales (public PyTorch port of DeepLabv2)."""

    def __init__(self, backbone: BackboneConfig, num_classes: int, scales: Sequence[float]) -> None:
        super().__init__()
        self.backbone = build_backbone(backbone, OUTPUT_STRIDE)
        self.head = Aspp(self.backbone.channels["layer4"], num_classes + 1)
        self.scales = scales
        # The port trains the convolutions of all layers, also the first, but not BatchNorm with running statistics.
        for module in self.backbone.modules():
            if isinstance(module, nn.Conv2d):
                module.requires_grad_(True)
            elif isinstance(module, nn.BatchNorm2d) and self.backbone.running_statistics:
                module.requires_grad_(False)

    def pyramid(self, image_BCHW: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the logits of each scale, (B, N+1, ⌈H·s/8⌉, ⌈W·s/8⌉)."""
        size = image_BCHW.shape[-2:]
        images = (
            image_BCHW if scale == 1 else F.interpolate(image_BCHW, scaled(size, scale), mode="bilinear")
            for scale in self.scales
        )
        return [self.head(self.backbone(image)) for image in images]

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the logits of each scale, and last their pixel-wise maximum at the size of scale 1."""
        pyramid = self.pyramid(image_BCHW)
        return [*pyramid, largest(pyramid)]


def largest(pyramid: Sequence[Tensor]) -> Tensor:
    """The pixel-wise maximum over scales, at the size of the first."""
    size = pyramid[0].shape[-2:]
    resized = [
        logits if logits.shape[-2:] == size else F.interpolate(logits, size, mode="bilinear") for logits in pyramid
    ]
    return torch.stack(resized).amax(0)


@torch.inference_mode()
def predict(
    model: DeepLabNet, images: Sequence[np.ndarray], *, device: torch.device, precision: str | None
) -> list[np.ndarray]:
    """The largest logits over scales of images of one size (method 10).

    Args:
        model: in eval mode, on `device`.
        images: B uint8 RGB arrays (H, W, 3) of one size.
        device: where `model` is.
        precision: see nn.precision.autocast.

    Returns:
        For each image float32 (N+1, ⌈H/8⌉, ⌈W/8⌉).
    """
    image_BCHW = model.backbone.normalise(torch.from_numpy(np.stack(images)).to(device))
    with autocast(device, precision):
        outputs = [model(part)[-1].float().cpu() for part in image_BCHW.split(images_per_pass(image_BCHW))]
    return list(torch.cat(outputs).numpy())
