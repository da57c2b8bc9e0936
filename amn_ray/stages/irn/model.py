"""The inter-pixel relation network.

Legend: B = images, H W = pixels, h w = the grid of stride 4, ⌈H/4⌉ × ⌈W/4⌉. A displacement is (dy, dx) in pixels of
that grid and points from a pixel to the centre of its object.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from amn_ray.data.maps import STORED_STRIDE, stored_size
from amn_ray.nn.backbones.registry import build_backbone
from amn_ray.nn.config import STRIDE
from amn_ray.nn.multiscale import images_per_pass
from amn_ray.nn.precision import autocast
from amn_ray.stages.irn.config import IrnConfig
from amn_ray.stages.irn.paths import Path

DEEP = ("layer2", "layer3", "layer4")
"""The levels whose displacements are fused first, on a coarser grid."""
DEEP_STRIDE = 8
DISPLACEMENT = {"stem": (64, 8, STORED_STRIDE), "layer1": (128, 16, STORED_STRIDE)} | {
    level: (256, 16, DEEP_STRIDE) for level in DEEP
}
"""By level: the channels of its displacement branch, their groups in its normalisation, the stride of its output."""


class IrnNet(nn.Module):
    """Two branches on the frozen features of all levels of the backbone (released code: net/resnet50_irn.py).

    A backbone without a stem has one level fewer.
    """

    def __init__(self, config: IrnConfig) -> None:
        super().__init__()
        self.backbone = build_backbone(config.backbone, STRIDE).requires_grad_(False)
        channels, strides = self.backbone.channels, self.backbone.strides
        self.edge_branches = nn.ModuleList(
            _branch(channels[level], strides[level], 32, 4, STORED_STRIDE) for level in channels
        )
        self.edge = nn.Conv2d(32 * len(channels), 1, 1)
        self.displacement_branches = nn.ModuleList(
            _branch(channels[level], strides[level], *DISPLACEMENT[level]) for level in channels
        )
        self.fuse_deep = _branch(3 * 256, DEEP_STRIDE, 256, 16, STORED_STRIDE)
        joined = sum(DISPLACEMENT[level][0] for level in channels if level not in DEEP) + 256
        self.fuse_all = nn.Sequential(
            _branch(joined, STORED_STRIDE, 256, 16, STORED_STRIDE), nn.Conv2d(256, 2, 1, bias=False)
        )
        self.displacement_mean: Tensor
        self.register_buffer("displacement_mean", torch.zeros(2))
        """Subtracted at inference; the mean over a set of images is in the manifest of its pseudo-masks."""

    def train(self, mode: bool = True) -> IrnNet:
        """Like nn.Module.train, but the backbone is frozen with its statistics."""
        super().train(mode)
        self.backbone.eval()
        return self

    def branch_parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The parameters of the edge branch and of the displacement branch."""
        edge = [*self.edge_branches.parameters(), *self.edge.parameters()]
        displacement = [self.displacement_branches, self.fuse_deep, self.fuse_all]
        return edge, [parameter for module in displacement for parameter in module.parameters()]

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> edge logits (B, h, w) and displacements (B, 2, h, w)."""
        with torch.no_grad():
            features = self.backbone.features(image_BCHW)
        size = image_BCHW.shape[-2:]
        edges = [branch(feature) for branch, feature in zip(self.edge_branches, features.values(), strict=True)]
        edge_B1hw = self.edge(_joined(edges, size, STORED_STRIDE))
        displacements = {
            level: branch(feature)
            for branch, (level, feature) in zip(self.displacement_branches, features.items(), strict=True)
        }
        deep = self.fuse_deep(_joined([displacements.pop(level) for level in DEEP], size, DEEP_STRIDE))
        displacement_B2hw = self.fuse_all(_joined([*displacements.values(), deep], size, STORED_STRIDE))
        if not self.training:
            displacement_B2hw = displacement_B2hw - self.displacement_mean[:, None, None]
        return edge_B1hw[:, 0], displacement_B2hw


def _branch(in_channels: int, stride: int, out_channels: int, groups: int, out_stride: int) -> nn.Sequential:
    parts: list[nn.Module] = [nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.GroupNorm(groups, out_channels)]
    if stride > out_stride:
        parts.append(nn.Upsample(scale_factor=stride // out_stride, mode="bilinear", align_corners=False))
    elif stride < out_stride:
        parts.append(nn.AvgPool2d(out_stride // stride, ceil_mode=True))
    return nn.Sequential(*parts, nn.ReLU())


def _joined(features: Sequence[Tensor], size: Sequence[int], stride: int) -> Tensor:
    """Features on grids of one stride, cut to the image of `size` (height, width): they may be a few pixels larger."""
    height, width = (-(-extent // stride) for extent in size)
    return torch.cat([feature[..., :height, :width] for feature in features], 1)


def affinity(edge_Bhw: Tensor, path: Path) -> Tensor:
    """1 − the highest edge on the path, for all pairs of one direction: (B, h, w) in [0, 1] -> (B, h−dy, w−|dx|)."""
    height, width = edge_Bhw.shape[-2:]
    views = [edge_Bhw[(..., *path.window(offset, height, width))] for offset in path.offsets]
    return 1 - torch.stack(views).amax(0)


@torch.inference_mode()
def edge_maps(
    model: IrnNet, images: Sequence[np.ndarray], *, device: torch.device, precision: str | None
) -> tuple[Tensor, Tensor]:
    """Boundaries of images of one size, and the mean displacement in each of them (method 7 and 8).

    The logits of the image and of its mirror image are averaged. Images are padded to the next multiple of 16 (the
    released code pads to 512 and so cuts larger ones).

    Args:
        model: in eval mode, on `device`.
        images: B uint8 RGB arrays (H, W, 3) of one size.
        device: where `model` is.
        precision: see nn.precision.autocast.

    Returns:
        Edge probabilities float32 (B, h, w), and means of the raw displacement float32 (B, 2).
    """
    height, width = images[0].shape[:2]
    h, w = stored_size(height, width)
    stride = model.backbone.strides["layer4"]
    image_BCHW = model.backbone.normalise(torch.from_numpy(np.stack(images)).to(device))
    pair = pad(torch.cat([image_BCHW, image_BCHW.flip(3)]), (0, -width % stride, 0, -height % stride))
    logits, means = [], []
    with autocast(device, precision):
        for part in pair.split(images_per_pass(pair)):
            edge_Bhw, displacement_B2hw = model(part.contiguous(memory_format=torch.channels_last))
            logits.append(edge_Bhw.float()[..., :h, :w])
            means.append(displacement_B2hw.float()[..., :h, :w].mean((2, 3)) + model.displacement_mean)
    straight, mirrored = torch.cat(logits).chunk(2)
    return torch.sigmoid((straight + mirrored.flip(2)) / 2), torch.cat(means)[: len(images)]
