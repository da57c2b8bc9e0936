"""A tiny classifier in float64, and images as it takes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from amn_ray.data.maps import stored_size
from amn_ray.data.transforms import resize_image
from amn_ray.nn.classifier import Classifier
from amn_ray.nn.config import BackboneConfig
from tests.conftest import noise

SIZE = (40, 56)
COUNT = 4
CPU = torch.device("cpu")


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A random image (H, W, 3) without fine detail."""
    return resize_image(noise(5, 7, seed), height, width)


def classifier(count: int, detach_after: str | None, name: str = "timm/test_resnet") -> Classifier:
    """Random weights, also of BatchNorm."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = Classifier(BackboneConfig(name=name, weights=None), count, detach_after)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.1)
                nn.init.normal_(module.running_mean, std=0.1)
    return network.double().eval()


def as_pairs(network: Classifier, image_HWC: np.ndarray, scales: Sequence[float]) -> list[Tensor]:
    """For each scale the normalised image and its mirror image (2, 3, H·s, W·s)."""
    height, width = image_HWC.shape[:2]
    pairs = []
    for scale in scales:
        scaled = image_HWC if scale == 1 else resize_image(image_HWC, round(height * scale), round(width * scale))
        image_BCHW = network.backbone.normalise(torch.tensor(scaled)[None]).double()
        pairs.append(torch.cat([image_BCHW, image_BCHW.flip(3)]))
    return pairs


def at_stride_4(maps_KHW: Tensor) -> np.ndarray:
    """Finished maps as they are stored."""
    stored = stored_size(*maps_KHW.shape[1:])
    return F.interpolate(maps_KHW[None], stored, mode="bilinear", align_corners=False)[0].detach().numpy()
