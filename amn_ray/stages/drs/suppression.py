"""Discriminative region suppression: what stands out of a channel is cut down, so that the rest of an object counts.

Legend: B = images, C = channels, h w = pixels of a feature map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from amn_ray.nn.precision import wide


class Suppression(nn.Module):
    """min(ReLU(x), g · max ReLU(x)) of each channel, with a fixed share g = δ or a learned one."""

    def __init__(self, channels: int, delta: float | None) -> None:
        """`delta`: δ; None: g = sigmoid(W · mean ReLU(x)) with a matrix W, near 0.5 at first."""
        super().__init__()
        self.delta = delta
        if delta is None:
            self.gate = nn.Linear(channels, channels, bias=False)
            nn.init.normal_(self.gate.weight, std=0.01)

    def forward(self, feature_BChw: Tensor, valid_B1hw: Tensor | None = None) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w). Nothing is detached: a pixel that was cut down passes its gradient to its
        channel's largest one.

        Args:
            feature_BChw: before or after its ReLU.
            valid_B1hw: 0 where an image was padded; maximum and mean are those of the other pixels. None: no image is.
        """
        active_BChw = F.relu(feature_BChw)
        counted = active_BChw if valid_B1hw is None else active_BChw * valid_B1hw
        limit_BC11 = counted.amax((2, 3), keepdim=True)
        if self.delta is None:
            share_BC = torch.sigmoid(self.gate(pooled(active_BChw, valid_B1hw)))
            limit_BC11 = limit_BC11 * share_BC[..., None, None]
        else:
            limit_BC11 = limit_BC11 * self.delta
        return torch.minimum(active_BChw, limit_BC11)


def pooled(feature_BChw: Tensor, valid_B1hw: Tensor | None) -> Tensor:
    """The mean of the valid pixels: (B, C)."""
    if valid_B1hw is None:
        return feature_BChw.mean((2, 3))
    total_BC = wide(feature_BChw * valid_B1hw).sum((2, 3))  # bfloat16 would lose the small terms
    return total_BC / wide(valid_B1hw).sum((2, 3)).clamp(min=1)
