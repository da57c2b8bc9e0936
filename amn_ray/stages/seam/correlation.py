"""SEAM's pixel correlation module: each pixel's map becomes the mean of those of similar pixels.

Legend: B = images, M = N + 1 = classes behind the background, N = classes, C = channels, P = h·w pixels of the grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

EPSILON = 1e-5
WIDTHS = {"layer2": 64, "layer3": 128}
CHANNELS = 192
COLUMNS_AT_ONCE = 2**22
"""Entries of the affinity matrix that are computed together where no gradient is needed."""


class PixelCorrelation(nn.Module):
    """Features of two earlier layers and of the image, and the affinity of all pairs of pixels."""

    def __init__(self, channels: dict[str, int]) -> None:
        super().__init__()
        self.from_layer2 = nn.Conv2d(channels["layer2"], WIDTHS["layer2"], 1, bias=False)
        self.from_layer3 = nn.Conv2d(channels["layer3"], WIDTHS["layer3"], 1, bias=False)
        self.together = nn.Conv2d(sum(WIDTHS.values()) + 3, CHANNELS, 1, bias=False)
        nn.init.kaiming_normal_(self.from_layer2.weight)
        nn.init.kaiming_normal_(self.from_layer3.weight)
        nn.init.xavier_uniform_(self.together.weight, gain=4)

    def forward(
        self,
        logits_BMhw: Tensor,
        image_B3HW: Tensor,
        layer2_BChw: Tensor,
        layer3_BChw: Tensor,
        present_BN: Tensor | None = None,
    ) -> Tensor:
        """Revised maps (B, M, h, w). Gradients reach this module's own weights only.

        Args:
            logits_BMhw: class logits; those of the background are not used.
            image_B3HW: the network's input.
            layer2_BChw: that layer's output, on any grid.
            layer3_BChw: likewise.
            present_BN: 0 or 1; absent classes win no pixel. None: all classes compete.
        """
        size = logits_BMhw.shape[2:]
        image, layer2, layer3 = (
            F.interpolate(one.detach().to(logits_BMhw.dtype), size, mode="bilinear", align_corners=True)
            for one in (image_B3HW, layer2_BChw, layer3_BChw)
        )
        features = torch.cat([image, F.relu(self.from_layer2(layer2)), F.relu(self.from_layer3(layer3))], 1)
        maps_BMP = competing(logits_BMhw, present_BN).flatten(2)
        return spread(maps_BMP, self.together(features).flatten(2)).unflatten(2, size)


def competing(logits_BMhw: Tensor, present_BN: Tensor | None) -> Tensor:
    """What is spread: of the classes only each pixel's strongest, divided by its own maximum (equal ones all), and as
    background what all of them leave. Without gradient.
    """
    active = F.relu(logits_BMhw.detach()[:, 1:])
    classes = F.relu(active - EPSILON) / (active.amax((2, 3), keepdim=True) + EPSILON)
    if present_BN is not None:
        classes = classes * present_BN[..., None, None]
    strongest = classes.amax(1, keepdim=True)
    return torch.cat([1 - strongest, classes * (classes == strongest)], 1)


def spread(maps_BMP: Tensor, features_BCP: Tensor) -> Tensor:
    """Mean of the maps over all pixels, weighted by the positive cosine of their features: (B, M, P).

    Computed in column blocks, which changes no sum.
    """
    unit_BCP = features_BCP / (features_BCP.norm(dim=1, keepdim=True) + EPSILON)
    pixels = unit_BCP.shape[2]
    columns = pixels if torch.is_grad_enabled() else max(1, COLUMNS_AT_ONCE // (len(unit_BCP) * pixels))
    blocks = []
    for part_BCJ in unit_BCP.split(columns, dim=2):
        affinity_BPJ = F.relu(unit_BCP.transpose(1, 2) @ part_BCJ)
        blocks.append(maps_BMP @ (affinity_BPJ / (affinity_BPJ.sum(1, keepdim=True) + EPSILON)))
    return torch.cat(blocks, 2)
