"""Plain vision transformers of timm: one grid of tokens from the first block to the last.

Legend: B = images, H W = pixels, h w = the grid of the patches, P = tokens before those of the grid (class token, …).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from amn_ray.nn.backbones import timm_library
from amn_ray.nn.backbones.backbone import After, Backbone
from amn_ray.nn.config import LAYERS

ANY_SIZE = {"dynamic_img_size": True}
"""What timm needs to be told to resize position embeddings to the image."""


def is_plain(network: nn.Module) -> bool:
    """Whether a network of timm is one."""
    return isinstance(getattr(network, "num_prefix_tokens", None), int) and isinstance(
        getattr(network, "blocks", None), nn.Sequential | nn.ModuleList
    )


class PlainTransformer(Backbone):
    """Its levels are the outputs after a quarter, half, three quarters and all of its blocks, the last one normalised.

    It has no stem. Images are padded to a multiple of its patches, with the mean colour.
    """

    def __init__(self, name: str, network: Any) -> None:
        """Args:
        name: of the network, `timm/NAME`.
        network: as timm creates it with random weights, without a head.
        """
        super().__init__()
        self.name = timm_library.timm_name(name)
        self.network = network
        trained = timm_library.library(name).get_pretrained_cfg(self.name)
        if trained is not None:
            self.mean, self.std = trained.mean, trained.std
        for part in ("attn_pool", "fc_norm", "head_drop"):  # they follow the features
            if isinstance(getattr(network, part, None), nn.Module):
                setattr(network, part, nn.Identity())
        patch = int(network.patch_embed.patch_size[0])
        self.channels = dict.fromkeys(LAYERS, int(network.embed_dim))
        self.strides = dict.fromkeys(LAYERS, patch)
        depth = len(network.blocks)
        self.ends = {level: depth * quarter // len(LAYERS) for quarter, level in enumerate(LAYERS, 1)}
        """By level: the number of blocks up to its end."""

    def forward(self, image_BCHW: Tensor, after: After | None = None) -> Tensor:
        """See Backbone."""
        stride = self.strides[LAYERS[-1]]
        height, width = image_BCHW.shape[-2:]
        below, right = -height % stride, -width % stride
        padded_BCHW = pad(image_BCHW, (0, right, 0, below)) if below or right else image_BCHW
        grid = padded_BCHW.shape[-2] // stride, padded_BCHW.shape[-1] // stride
        with ExitStack() as hooks:
            if after is not None:
                for level in LAYERS[:-1]:
                    block = self.network.blocks[self.ends[level] - 1]
                    hooks.enter_context(_after(block, partial(self._changed, grid, partial(after, level))))
            tokens_BTC = self.network.forward_features(padded_BCHW)
        feature_BChw = self._on_grid(tokens_BTC, grid)
        return feature_BChw if after is None else after(LAYERS[-1], feature_BChw)

    def _on_grid(self, tokens_BTC: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, P + h·w, C) -> (B, C, h, w)."""
        return tokens_BTC[:, self.network.num_prefix_tokens :].transpose(1, 2).unflatten(2, grid)

    def _changed(self, grid: tuple[int, int], after: Any, tokens_BTC: Tensor) -> Tensor:
        """The tokens with those of the grid as `after` returns them."""
        changed_BChw = after(self._on_grid(tokens_BTC, grid))
        before = tokens_BTC[:, : self.network.num_prefix_tokens]
        return torch.cat([before, changed_BChw.flatten(2).transpose(1, 2)], 1)

    def freeze(self, until: str) -> None:
        """See Backbone; the embeddings are frozen with the first level."""
        if until not in LAYERS:
            return
        blocks = self.network.blocks
        later = {id(parameter) for block in blocks[self.ends[until] :] for parameter in block.parameters()}
        later |= {id(parameter) for parameter in self.network.norm.parameters()} if until != LAYERS[-1] else set()
        for parameter in self.parameters():
            if id(parameter) not in later:
                parameter.requires_grad_(False)

    def published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See Backbone: in timm's names, with or without a head."""
        own = {key.partition(".")[2] for key in self.state_dict()}
        return {f"network.{key}": value for key, value in timm_library.without_head(self.name, state, own).items()}

    def pretrained(self) -> Mapping[str, Tensor]:
        """See Backbone: the tag's weights, else timm's default."""
        return timm_library.pretrained(self.name)


@contextmanager
def _after(module: nn.Module, change: Any) -> Iterator[None]:
    """Replace what a module returns."""
    handle = module.register_forward_hook(lambda module, inputs, output: change(output))
    try:
        yield
    finally:
        handle.remove()
