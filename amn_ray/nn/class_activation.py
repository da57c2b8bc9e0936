"""The mathematics of class activation maps.

Legend: B = images, H W = pixels, h w = stride-16 feature grid, N = classes without background, K = classes of one
image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from amn_ray.data.maps import stored_size
from amn_ray.nn.classifier import Classifier
from amn_ray.nn.multiscale import scales_with_flips


def cam_maps(
    model: Classifier,
    images: Sequence[np.ndarray],
    keys: Sequence[Sequence[int]],
    *,
    scales: Sequence[float],
    precision: str | None,
    device: torch.device,
) -> list[np.ndarray]:
    """CAMs of images of one size, for the classes of each image (method 2).

    Per scale: the image's activation plus the mirrored one of its mirror image, upsampled to the pixels that the
    feature grid covers (the next multiple of its stride) and cropped to the image; summed over scales; divided by each
    class's own maximum + 1e-5. The result is sampled at stride 4, from which `data.maps.full_size` restores it.
    (The released code makes a second version for the random walk, by squeezing the grid, which covers up to 15 pixels
    more than the image, to stride 4; here there is only one, aligned with the image.)

    Args:
        model: in eval mode, on `device`.
        images: B uint8 RGB arrays (H, W, 3) of one size.
        keys: for each image, its labels 1…N.
        scales: factors of the image's size.
        precision: see nn.precision.autocast.
        device: where `model` is.

    Returns:
        For each image float32 (K, ⌈H/4⌉, ⌈W/4⌉) in [0, 1].
    """
    height, width = images[0].shape[:2]
    stride = model.backbone.strides["layer4"]
    covered = (-(-height // stride) * stride, -(-width // stride) * stride)
    sums = [torch.zeros(len(labels), height, width, device=device) for labels in keys]
    for both_BNhw in scales_with_flips(
        model.activation, images, scales, backbone=model.backbone, device=device, precision=precision
    ):
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
