"""The activation manipulation network, its loss, and the mathematics of its maps.

Legend: B = images, H W = pixels, h w = a feature grid (stride 16 in training, the stored stride 4 in maps), N =
classes without background, C = N+1 channels (0 = background), K = classes of one image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from amn_ray.data.maps import stored_size
from amn_ray.data.transforms import multi_hot
from amn_ray.nn.aspp import Aspp
from amn_ray.nn.backbones.registry import build_backbone
from amn_ray.nn.config import STRIDE
from amn_ray.nn.multiscale import scales_with_flips
from amn_ray.stages.amn.config import AmnConfig, AmnMapsConfig


class AmnNet(nn.Module):
    """M = σ(g(f(x) · h(y))) without the final softmax σ (paper eq. 2; released code: net/resnet50_amn.py)."""

    def __init__(self, config: AmnConfig, num_classes: int) -> None:
        super().__init__()
        assert config.backbone is not None
        self.backbone = build_backbone(config.backbone, STRIDE)
        self.conditioning = nn.ModuleDict(
            {layer: nn.Linear(num_classes, self.backbone.channels[layer]) for layer in config.lc}
        )
        self.head = nn.Sequential(nn.Dropout(config.dropout), Aspp(self.backbone.channels["layer4"], num_classes + 1))

    def forward(self, image_BCHW: Tensor, labels_BN: Tensor) -> Tensor:
        """(B, 3, H, W) and multi-hot float (B, N) -> logits (B, N+1, h, w)."""

        def condition(name: str, feature: Tensor) -> Tensor:
            if name not in self.conditioning:
                return feature
            return feature * self.conditioning[name](labels_BN)[:, :, None, None]

        return self.head(self.backbone(image_BCHW, condition))

    def head_parameters(self) -> list[nn.Parameter]:
        """The parameters of g and h."""
        return [*self.head.parameters(), *self.conditioning.parameters()]


def amn_maps(
    model: AmnNet,
    images: Sequence[np.ndarray],
    keys: Sequence[Sequence[int]],
    *,
    num_classes: int,
    config: AmnMapsConfig,
    device: torch.device,
) -> list[np.ndarray]:
    """AMN's probabilities on images of one size, for the classes of each image (method 5).

    Per scale the mean of the logits of the image and of its mirror image; resized to stride 4; mean over scales;
    softmax. The seed modulation is applied where maps are used, see data.maps.

    Args:
        model: in eval mode, on `device`.
        images: B uint8 RGB arrays (H, W, 3) of one size.
        keys: for each image, its labels 1…N.
        num_classes: N.
        config: its scales, precision and softmax_subset are used.
        device: where `model` is.

    Returns:
        For each image float32 (K, ⌈H/4⌉, ⌈W/4⌉) in [0, 1]; the background channel is dropped.
    """
    size = stored_size(*images[0].shape[:2])
    labels_BN = torch.from_numpy(np.stack([multi_hot(labels, num_classes) for labels in keys])).to(device)
    total = torch.zeros(len(images), num_classes + 1, *size, device=device)
    for both_BChw in scales_with_flips(
        model,
        images,
        config.scales,
        backbone=model.backbone,
        device=device,
        precision=config.precision,
        conditions=[labels_BN],
    ):
        total += F.interpolate(both_BChw / 2, size, mode="bilinear", align_corners=False)
    logits_BChw = (total / len(config.scales)).cpu()
    results = []
    for logits_Chw, labels in zip(logits_BChw, keys, strict=True):
        chosen = list(labels)
        if not chosen:
            results.append(np.zeros((0, *size), np.float32))
            continue
        if config.softmax_subset:
            probability = logits_Chw[[0, *chosen]].softmax(0)[1:]
        else:
            probability = logits_Chw.softmax(0)[chosen]
        results.append(probability.numpy())
    return results
