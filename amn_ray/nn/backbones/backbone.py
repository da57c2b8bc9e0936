"""The interfaces of all encoders and backbones.

Legend: B = images, H W = pixels, h w = the grid of a level.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm  # also the synchronised one

from amn_ray.nn.config import LAYERS

LEVELS = ("stem", *LAYERS)
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
After = Callable[[str, Tensor], Tensor]
"""(level, its output) -> the input of the next level."""


class Encoder(nn.Module):
    """What reads images: it knows how they are normalised, and how its weights are published."""

    mean: Sequence[float] = MEAN
    """Mean red, green and blue of the images of its pre-training, in [0, 1]."""
    std: Sequence[float] = STD

    def normalise(self, rgba_BHWC: Tensor) -> Tensor:
        """uint8 RGB or RGBA (B, H, W, 3|4) -> float32 (B, 3, H, W): (colour − mean) / std, and 0 where alpha is 0."""
        mean = torch.tensor(self.mean, device=rgba_BHWC.device) * 255
        std = torch.tensor(self.std, device=rgba_BHWC.device) * 255
        image_BHWC = (rgba_BHWC[..., :3].float() - mean) / std
        if rgba_BHWC.shape[-1] == 4:
            image_BHWC = image_BHWC * (rgba_BHWC[..., 3:] > 0)
        return image_BHWC.permute(0, 3, 1, 2)  # NCHW shape, channels-last memory, for fast convolutions

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load weights: this module's own state dict, or one that `published` converts.

        Raises:
            RuntimeError: they belong to another network.
        """
        if state.keys() != self.state_dict().keys():
            state = self.published(state)
        self.load_state_dict(dict(state))

    def published(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A published state dict -> one with this module's names, without a head."""
        return state

    def pretrained(self) -> Mapping[str, Tensor]:
        """The published state dict that `weights=pretrained` stands for, downloaded.

        Raises:
            ValueError: there is none.
            OSError: it could not be downloaded.
        """
        raise ValueError("no weights were published for this network")


class Backbone(Encoder):
    """Features at the levels layer1…layer4, and of a stem before them.

    By default a chain of five modules with these names, which a subclass assigns together with `channels` and
    `strides`. A network that is not such a chain overrides `forward` and `freeze`, and may lack a stem.

    Layer4's grid is ⌈H/stride⌉ × ⌈W/stride⌉ for images of any size. The grids of earlier levels are at least that
    large.
    """

    channels: Mapping[str, int]
    """Channels of each level, in order of computation."""
    strides: Mapping[str, int]
    """Strides of each level, powers of 2. That of layer4 is the output stride."""
    running_statistics = False
    """Whether BatchNorm normalises by its running statistics in training, too; its affine parameters train."""

    def forward(self, image_BCHW: Tensor, after: After | None = None) -> Tensor:
        """(B, 3, H, W) -> layer4's output, (B, C, h, w).

        Args:
            image_BCHW: images as `normalise` returns them.
            after: called with each level's name and output; returns the input of the next level.
        """
        feature = image_BCHW
        for level in LEVELS:
            feature = getattr(self, level)(feature)
            if after is not None:
                feature = after(level, feature)
        return feature

    def features(self, image_BCHW: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> the output (B, C, h, w) of each level."""
        outputs: dict[str, Tensor] = {}

        def keep(level: str, feature: Tensor) -> Tensor:
            outputs[level] = feature
            return feature

        self(image_BCHW, keep)
        return outputs

    def freeze(self, until: str) -> None:
        """Freeze the parameters of the levels up to and including `until`."""
        for level in LEVELS[: LEVELS.index(until) + 1]:
            getattr(self, level).requires_grad_(False)

    def train(self, mode: bool = True) -> Backbone:
        """Like nn.Module.train, but BatchNorm stays in eval mode with `running_statistics`."""
        super().train(mode)
        if self.running_statistics:
            for module in self.modules():
                if isinstance(module, BatchNorm):
                    module.eval()
        return self


def is_transformer(network: nn.Module) -> bool:
    """Whether a network computes attention between places of the image."""
    return any("attention" in type(module).__name__.lower() for module in network.modules())


def backbone_in(network: nn.Module) -> Encoder:
    """The encoder of a network, which may be wrapped for data-parallel training."""
    encoder = getattr(network, "module", network).backbone
    assert isinstance(encoder, Encoder)
    return encoder
