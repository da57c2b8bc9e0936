"""The CAM classifier and the mathematics of its maps.

Legend: B = images, H W = pixels, h w = stride-16 feature grid, N = classes without background, K = classes of one
image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from amn_ray.data.maps import stored_size
from amn_ray.nn.config import STRIDE
from amn_ray.nn.multiscale import scales_with_flips
from amn_ray.nn.resnet import ResNet
from amn_ray.stages.cam.config import CamConfig


class CamNet(nn.Module):
    """Backbone → global average pooling → 1×1 convolution without bias (released code: net/resnet50_cam.py)."""

    def __init__(self, config: CamConfig, num_classes: int) -> None:
        super().__init__()
        self.backbone = ResNet(config.backbone)
        self.classifier = nn.Conv2d(self.backbone.widths["layer4"], num_classes, 1, bias=False)
        self.detach_after = config.detach_after
        if self.detach_after is not None:
            # Nothing before the cut gets a gradient; without this, weight decay would still wait for one.
            for name in ("stem", "layer1", "layer2", "layer3", "layer4"):
                getattr(self.backbone, name).requires_grad_(False)
                if name == self.detach_after:
                    break

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


def cam_maps(
    model: CamNet,
    images: Sequence[np.ndarray],
    keys: Sequence[Sequence[int]],
    *,
    scales: Sequence[float],
    precision: str,
    device: torch.device,
) -> list[np.ndarray]:
    """CAMs of images of one size, for the classes that each of them holds (method 2).

    Per scale: the image's activation plus the mirrored one of its mirror image, upsampled to the pixels that the
    feature grid covers (the next multiple of 16) and cropped to the image; summed over scales; divided by each
    class's own maximum + 1e-5. The result is sampled at stride 4, from which `nn.maps.full_size` gets it back.
    (The released code makes a second version for the random walk, by squeezing the grid, which covers up to 15 pixels
    more than the image, to stride 4; here both are one, aligned with the image.)

    Args:
        model: in eval mode, on `device`.
        images: B uint8 RGB arrays (H, W, 3) of one size.
        keys: for each, the labels 1…N that it holds.
        scales: factors of the image's size.
        precision: see nn.precision.autocast.
        device: where `model` is.

    Returns:
        For each image float32 (K, ⌈H/4⌉, ⌈W/4⌉) in [0, 1].
    """
    height, width = images[0].shape[:2]
    covered = (-(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE)
    sums = [torch.zeros(len(labels), height, width, device=device) for labels in keys]
    for both_BNhw in scales_with_flips(model.activation, images, scales, device=device, precision=precision):
        for total_KHW, labels, map_Nhw in zip(sums, keys, both_BNhw, strict=True):
            if labels:
                chosen = map_Nhw[[label - 1 for label in labels]][None]
                upsampled = F.interpolate(chosen, covered, mode="bilinear", align_corners=False)[0]
                total_KHW += upsampled[:, :height, :width]
    results = []
    for total_KHW in sums:
        if total_KHW.shape[0]:
            total_KHW = total_KHW / (total_KHW.amax(dim=(1, 2), keepdim=True) + 1e-5)
            total_KHW = F.interpolate(
                total_KHW[None], stored_size(height, width), mode="bilinear", align_corners=False
            )[0]
            results.append(total_KHW.cpu().numpy())
        else:
            results.append(np.zeros((0, *stored_size(height, width)), np.float32))
    return results
