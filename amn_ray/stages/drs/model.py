"""DRS: a classifier whose ReLUs are suppressions (Kim et al., AAAI 2021), on VGG-16 or, ours, on a ResNet.

docs/rivals.md has the steps; the released code is qjadud1994/DRS.

Legend: B = images, H W = pixels, h w = feature grid, N = classes without background, K = classes of one image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from amn_ray.data.maps import stored_size
from amn_ray.data.transforms import resize_square
from amn_ray.nn.backbones.backbone import Backbone
from amn_ray.nn.backbones.registry import build_backbone
from amn_ray.nn.class_activation import EPSILON
from amn_ray.nn.config import LAYERS, STRIDE
from amn_ray.nn.multiscale import images_per_pass
from amn_ray.nn.precision import autocast, wide
from amn_ray.stages.drs.config import SQUARE, DrsNetworkConfig
from amn_ray.stages.drs.suppression import Suppression, pooled
from amn_ray.stages.drs.vgg import Vgg16

EXTRA = 3
"""3×3 convolutions between VGG-16 and its classifier."""


class DrsNet(nn.Module):
    """Backbone with suppressions, and a classifier."""

    def __init__(self, config: DrsNetworkConfig, num_classes: int) -> None:
        super().__init__()
        self.backbone: Backbone = Vgg16() if config.on_vgg else build_backbone(config.backbone, STRIDE)
        levels = tuple(self.backbone.channels) if config.on_vgg else LAYERS
        self.suppressions = nn.ModuleDict(
            {level: Suppression(self.backbone.channels[level], config.delta) for level in levels}
        )
        channels = self.backbone.channels[levels[-1]]
        self.extra, self.extra_suppressions = nn.ModuleList(), nn.ModuleList()
        for _ in range(EXTRA if config.on_vgg else 0):
            self.extra.append(drawn(nn.Conv2d(channels, channels, 3, padding=1)))
            self.extra_suppressions.append(Suppression(channels, config.delta))
        self.classifier = nn.Conv2d(channels, num_classes, 1, bias=config.on_vgg)
        if config.on_vgg:
            drawn(self.classifier)

    def forward(self, image_BCHW: Tensor, valid_B1HW: Tensor | None = None) -> Tensor:
        """Normalised images -> class logits (B, N), of their valid pixels if some are padding (0)."""
        logits_BNhw = self.logits(image_BCHW, valid_B1HW)
        return pooled(logits_BNhw, None if valid_B1HW is None else shrunk(valid_B1HW, logits_BNhw))

    def logits(self, image_BCHW: Tensor, valid_B1HW: Tensor | None = None) -> Tensor:
        """Normalised images -> class logits (B, N, h, w)."""

        def suppressed(level: str, feature: Tensor) -> Tensor:
            if level not in self.suppressions:
                return feature
            return self.suppressions[level](feature, None if valid_B1HW is None else shrunk(valid_B1HW, feature))

        feature = self.backbone(image_BCHW, suppressed)
        for layer, suppression in zip(self.extra, self.extra_suppressions, strict=True):
            feature = suppression(layer(feature))
        return self.classifier(feature)

    def activation(self, image_BCHW: Tensor) -> Tensor:
        """Normalised images -> ReLU of the class logits (B, N, h, w)."""
        return F.relu(self.logits(image_BCHW))

    def finished(self, maps_BKHW: Tensor) -> Tensor:
        """Each map of one square, divided by its maximum."""
        return maps_BKHW / (maps_BKHW.amax((2, 3), keepdim=True) + EPSILON)


class SecondNet(nn.Module):
    """VGG-16 with plain ReLUs, that reproduces the maps of the first network."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.backbone = Vgg16()
        channels = tuple(self.backbone.channels.values())[-1]
        self.extra = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(EXTRA))
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        for layer in (*self.extra, self.classifier):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Normalised images -> maps of all classes (B, N, h, w), not rectified."""
        feature = self.backbone(image_BCHW)
        for layer in self.extra:
            feature = F.relu(layer(feature))
        return self.classifier(feature)

    activation = forward

    def finished(self, maps_BKHW: Tensor) -> Tensor:
        """Maps of one square; they are not divided by anything."""
        return maps_BKHW.clamp(0, 1)


def drawn(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer, with the released code's initial weights."""
    nn.init.normal_(layer.weight, std=math.sqrt(2 / (layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels)))
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def shrunk(valid_B1HW: Tensor, like: Tensor) -> Tensor:
    """1 where a position of the grid of `like` covers a valid pixel, of the same dtype: (B, 1, h, w)."""
    stride = -(-valid_B1HW.shape[2] // like.shape[2])
    return F.max_pool2d(valid_B1HW, stride, ceil_mode=True).to(like.dtype)


@torch.inference_mode()
def square_maps(
    model: DrsNet | SecondNet,
    images: Sequence[np.ndarray],
    keys: Sequence[Sequence[int]],
    *,
    squares: Sequence[int],
    precision: str | None,
    device: torch.device,
    at: int | None = None,
) -> list[np.ndarray]:
    """Maps of images of any sizes, squeezed to squares: the maximum over squares of several sides.

    Args:
        model: on VGG-16, in eval mode, on `device`.
        images: uint8 RGB arrays (H, W, 3).
        keys: for each image, its labels 1…N.
        squares: their sides in pixels.
        precision: see nn.precision.autocast.
        device: where `model` is.
        at: the side of a square at which the maps are returned; None: at the stride-4 grid of each image.

    Returns:
        For each image float (K, h, w) in [0, 1].
    """
    squeezed = np.stack([resize_square(image, SQUARE) for image in images])
    dtype = next(model.parameters()).dtype
    image_B3HW = model.backbone.normalise(torch.from_numpy(squeezed).to(device)).to(dtype)
    parts: list[list[Tensor]] = [[] for _ in images]
    for side in squares:
        scaled_B3HW = F.interpolate(image_B3HW, (side, side), mode="bilinear", align_corners=False)
        passes = scaled_B3HW.contiguous(memory_format=torch.channels_last).split(images_per_pass(scaled_B3HW))
        with autocast(device, precision):
            made = torch.cat([wide(model.activation(part)) for part in passes])
        for place, (image, labels) in enumerate(zip(images, keys, strict=True)):
            if labels:
                size = image.shape[:2] if at is None else (at, at)
                own_1Khw = made[place : place + 1, [label - 1 for label in labels]]
                parts[place].append(model.finished(F.interpolate(own_1Khw, size, mode="bilinear", align_corners=True)))
    results = []
    for image, of_squares in zip(images, parts, strict=True):
        height, width = stored_size(*image.shape[:2]) if at is None else (at, at)
        if not of_squares:
            results.append(np.zeros((0, height, width), np.float32))
            continue
        highest_1KHW = torch.stack(of_squares).amax(0)
        maps_1Khw = highest_1KHW if at is not None else F.interpolate(highest_1KHW, (height, width), mode="bilinear")
        results.append(maps_1Khw[0].cpu().numpy())
    return results
