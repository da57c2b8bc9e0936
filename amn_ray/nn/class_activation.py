"""The mathematics of class activation maps.

Legend: B = images, H W = pixels, h w = stride-16 feature grid, N = classes without background, K = classes of one
image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from amn_ray.data.maps import stored_size
from amn_ray.nn.backbones.backbone import Backbone
from amn_ray.nn.classifier import Classifier
from amn_ray.nn.multiscale import scales_with_flips

EPSILON = 1e-5
"""Added to a map's maximum before it is divided by it."""


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
    sums = cam_sums(model, images, keys, scales=scales, precision=precision, device=device)
    return [total.finished() for total in sums]


def cam_sums(
    model: Classifier,
    images: Sequence[np.ndarray],
    keys: Sequence[Sequence[int]],
    *,
    scales: Sequence[float],
    precision: str | None,
    device: torch.device,
) -> list[SumOfScales]:
    """`cam_maps`, before each class is divided by its maximum."""
    sums = [SumOfScales(images[0], model.backbone) for _ in images]
    for both_BNhw in scales_with_flips(
        model.activation, images, scales, backbone=model.backbone, device=device, precision=precision
    ):
        for total, labels, map_Nhw in zip(sums, keys, both_BNhw, strict=True):
            total.add(map_Nhw[[label - 1 for label in labels]])
    return sums


class SumOfScales:
    """The activation maps of one image at several scales, summed at the size of the image."""

    def __init__(self, image_HWC: np.ndarray, backbone: Backbone) -> None:
        self.size = image_HWC.shape[:2]
        stride = backbone.strides["layer4"]
        self.covered = [-(-side // stride) * stride for side in self.size]
        """What the feature grid covers at scale 1."""
        self.total_KHW: Tensor | None = None

    def add(self, maps_Khw: Tensor) -> None:
        """Add the maps at one scale, on its feature grid."""
        if not len(maps_Khw):
            return
        height, width = self.size
        upsampled_KHW = F.interpolate(maps_Khw[None], self.covered, mode="bilinear", align_corners=False)[0]
        upsampled_KHW = upsampled_KHW[:, :height, :width]
        self.total_KHW = upsampled_KHW if self.total_KHW is None else self.total_KHW + upsampled_KHW

    def finished(self, epsilon: float = EPSILON) -> np.ndarray:
        """`normalised`, sampled at stride 4: float (K, ⌈H/4⌉, ⌈W/4⌉)."""
        stored = stored_size(*self.size)
        if self.total_KHW is None:
            return np.zeros((0, *stored), np.float32)
        maps_KHW = self.normalised(epsilon)
        return F.interpolate(maps_KHW[None], stored, mode="bilinear", align_corners=False)[0].cpu().numpy()

    def normalised(self, epsilon: float = EPSILON) -> Tensor:
        """The sum, each class divided by its own maximum + `epsilon`; 0 where that is 0. (K, H, W), K > 0."""
        assert self.total_KHW is not None
        highest_K11 = self.total_KHW.amax(dim=(1, 2), keepdim=True) + epsilon
        return torch.where(highest_K11 > 0, self.total_KHW / highest_K11, 0)
