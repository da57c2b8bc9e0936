"""SEAM on a backbone of stride 16: ours, a port of the released Wide ResNet-38 (Wang et al., CVPR 2020).

docs/rivals.md has the steps; the released code is train_SEAM.py and network/resnet38_SEAM.py of SEAM.

Legend: B = images, M = N + 1 = classes behind the background, H W = pixels, h w = stride-16 grid, K = classes of one
image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from amn_ray.data.maps import stored_size
from amn_ray.data.transforms import multi_hot
from amn_ray.nn.backbones.registry import build_backbone
from amn_ray.nn.config import STRIDE
from amn_ray.nn.multiscale import scales_with_flips
from amn_ray.nn.precision import wide
from amn_ray.stages.seam.config import SeamNetworkConfig
from amn_ray.stages.seam.correlation import PixelCorrelation
from amn_ray.stages.seam.loss import max_norm, seam_losses


class SeamNet(nn.Module):
    """Backbone, classifier with a row for the background, and pixel correlation module."""

    def __init__(self, config: SeamNetworkConfig, num_classes: int) -> None:
        super().__init__()
        assert config.backbone is not None
        self.view, self.present_only = config.view, config.present_only
        self.backbone = build_backbone(config.backbone, STRIDE)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = nn.Conv2d(self.backbone.channels["layer4"], num_classes + 1, 1, bias=False)
        nn.init.xavier_uniform_(self.classifier.weight)
        self.correlation = PixelCorrelation(dict(self.backbone.channels))
        if self.backbone.running_statistics:
            for module in self.backbone.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.requires_grad_(False)

    def forward(self, image_B3HW: Tensor, targets_BN: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Normalised images and labels, multi-hot -> the losses of `seam_losses`; the second view is the image, shrunk.

        They are a part of the network, so that data-parallel training sees all weights used in it.
        """
        small = [int(self.view * side) for side in image_B3HW.shape[2:]]
        shrunk = F.interpolate(image_B3HW, small, mode="bilinear", align_corners=True)
        views = [image_B3HW, shrunk.contiguous(memory_format=torch.channels_last)]
        (first, first_revised), (second, second_revised) = (self.revised(one, targets_BN) for one in views)
        sizes = [(one.shape[2], one.shape[3]) for one in views]
        with torch.autocast(image_B3HW.device.type, enabled=False):  # sums and losses in float32
            return seam_losses((first, second), (first_revised, second_revised), (sizes[0], sizes[1]), targets_BN)

    def revised(self, image_B3HW: Tensor, targets_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images and labels, multi-hot -> class logits, and the revised maps, (B, M, h, w)."""
        outputs = self.backbone.features(image_B3HW)
        logits = wide(self.classifier(self.dropout(outputs["layer4"])))
        with torch.autocast(image_B3HW.device.type, enabled=False):  # thousands of terms in each sum
            layers = (wide(outputs[level]) for level in ("layer2", "layer3"))
            present = targets_BN if self.present_only else None
            return logits, self.correlation(logits, wide(image_B3HW), *layers, present)


def seam_maps(
    model: SeamNet,
    images: Sequence[np.ndarray],
    keys: Sequence[Sequence[int]],
    *,
    scales: Sequence[float],
    precision: str | None,
    device: torch.device,
) -> list[np.ndarray]:
    """SEAM's maps of images of one size, for the classes of each image.

    Args:
        model: in eval mode, on `device`.
        images: B uint8 RGB arrays (H, W, 3) of one size.
        keys: for each image, its labels 1…N.
        scales: factors of the image's size.
        precision: see nn.precision.autocast.
        device: where `model` is.

    Returns:
        For each image float (K, ⌈H/4⌉, ⌈W/4⌉) in [0, 1].
    """
    height, width = images[0].shape[:2]
    count = model.classifier.out_channels - 1
    targets_BN = torch.from_numpy(np.stack([multi_hot(list(labels), count) for labels in keys])).to(device)

    parts: list[list[Tensor]] = [[] for _ in images]
    both = scales_with_flips(
        lambda image, targets: model.revised(image, targets)[1][:, 1:],
        images,
        scales,
        backbone=model.backbone,
        device=device,
        precision=precision,
        conditions=[targets_BN.to(model.classifier.weight.dtype)],
    )
    for scale, both_BNhw in zip(scales, both, strict=True):
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        for place, labels in enumerate(keys):
            if not labels:
                continue
            own_1Khw = both_BNhw[place : place + 1, [label - 1 for label in labels]]
            upsampled = F.interpolate(own_1Khw, size, mode="bilinear", align_corners=True)
            parts[place].append(F.interpolate(upsampled, stored_size(height, width), mode="bilinear"))
    none = np.zeros((0, *stored_size(height, width)), np.float32)
    return [max_norm(torch.stack(one).sum(0))[0].cpu().numpy() if one else none for one in parts]
