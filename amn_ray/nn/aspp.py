"""Atrous spatial pyramid pooling, DeepLabv2's head (AMN's g, and DeepLab's classifier)."""

from __future__ import annotations

from torch import Tensor, nn

RATES = (6, 12, 18, 24)


class Aspp(nn.Module):
    """The sum of 3×3 convolutions of rates 6, 12, 18 and 24; weights drawn from N(0, 0.01), biases 0."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(in_channels, out_channels, 3, padding=rate, dilation=rate) for rate in RATES
        )
        for name, parameter in self.branches.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(parameter, 0, 0.01)
            else:
                nn.init.zeros_(parameter)

    def forward(self, feature_BChw: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, out_channels, h, w)."""
        first, *others = (branch(feature_BChw) for branch in self.branches)
        for other in others:
            first = first + other
        return first
