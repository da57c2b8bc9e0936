"""timm's networks as backbones; timm is an optional dependency (extra `networks`).

`timm/NAME` is a network of `timm.list_models()`; for `timm/NAME.TAG`, `pretrained` means the tag's weights
rather than timm's default.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from amn_ray.nn.backbones import timm_library
from amn_ray.nn.backbones.backbone import LEVELS, After, Backbone, is_transformer
from amn_ray.nn.backbones.registry import check_strides
from amn_ray.nn.backbones.timm_library import flat
from amn_ray.nn.backbones.timm_vit import ANY_SIZE, PlainTransformer, is_plain
from amn_ray.nn.config import LAYERS, STRIDE

OTHERS = (
    "choose another one, such as timm/convnext_tiny, timm/swin_tiny_patch4_window7_224 or timm/vit_small_patch16_224"
)
NO_CHAIN = "its features are not those of modules that follow one another"

PROBE = 64
"""Side of the test image, in pixels: a multiple of all strides."""


@cache
def strides(name: str) -> Mapping[str, int]:
    """The strides of a network's levels where the classifier, AMN and IRN use it.

    Raises:
        ValueError: timm lacks it, or cannot build it as needed; one sentence.
    """
    with torch.random.fork_rng(devices=[]):
        backbone = build(name, STRIDE)
    check_strides(name, backbone, STRIDE)
    return backbone.strides


def build(name: str, output_stride: int) -> Backbone:
    """A network with random weights.

    Raises:
        ValueError: timm is not installed, or the network is not usable; one sentence.
    """
    plain = _plain(name)
    return TimmNetwork(name, output_stride) if plain is None else PlainTransformer(name, plain)


def _plain(name: str) -> nn.Module | None:
    """The network, if it is a plain vision transformer."""
    timm, known = timm_library.library(name), timm_library.timm_name(name)
    try:
        network = timm.create_model(known, num_classes=0, **ANY_SIZE)
    except TypeError:  # it has no such option
        return None
    return network if is_plain(network) else None


class TimmNetwork(Backbone):
    """A network that timm builds as a chain of modules, cut into five.

    Layer1…layer4 end at timm's last four features; the stem is everything before layer1's module. Where
    a network rounds its grids down (ConvNeXt, Swin), images are padded with the mean colour to a multiple of the output
    stride. A transformer has its own output stride, and layer4 ends with its last normalisation.
    """

    def __init__(self, name: str, output_stride: int) -> None:
        """Random weights.

        Raises:
            ValueError: timm is not installed, or the network is not usable; one sentence.
        """
        super().__init__()
        timm = timm_library.library(name)
        self.name = timm_library.timm_name(name)
        network = _features(name, self.name, output_stride)
        for level, part in zip(LEVELS, _cut(name, network), strict=True):
            self.add_module(level, part)
        self.channels_last = str(getattr(network, "output_fmt", "")).endswith("NHWC")
        if self.channels_last:
            self.get_submodule("layer4").add_module("norm", timm.create_model(self.name).norm)
        trained = timm.get_pretrained_cfg(self.name)
        if trained is not None:
            self.mean, self.std = trained.mean, trained.std
        self.padding = 1
        self._measure(name, network)

    def forward(self, image_BCHW: Tensor, after: After | None = None) -> Tensor:
        """See Backbone."""
        height, width = image_BCHW.shape[-2:]
        below, right = -height % self.padding, -width % self.padding
        padded_BCHW = pad(image_BCHW, (0, right, 0, below)) if below or right else image_BCHW
        if not self.channels_last:
            return super().forward(padded_BCHW, after)

        def changed(level: str, feature_BhwC: Tensor) -> Tensor:
            assert after is not None
            return after(level, feature_BhwC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

        return super().forward(padded_BCHW, None if after is None else changed).permute(0, 3, 1, 2)

    def published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See Backbone: in timm's names, with or without a head."""
        own = {key.partition(".")[2]: key for key in self.state_dict()}
        found = timm_library.without_head(self.name, state, own)
        return {own.get(key, key): value for key, value in found.items()}

    def pretrained(self) -> Mapping[str, Tensor]:
        """See Backbone: the tag's weights, else timm's default."""
        return timm_library.pretrained(self.name)

    @torch.no_grad()
    def _measure(self, name: str, network: nn.Module) -> None:
        """Determine channels, strides and padding; rejects networks that do not fit."""
        generator = torch.Generator().manual_seed(0)
        whole, odd = (torch.randn(1, 3, size, size, generator=generator) for size in (PROBE, PROBE + 1))
        network.eval()
        self.eval()
        try:
            features, expected = self.features(whole), network(whole)[-1]
            if self.channels_last:
                expected = self.get_submodule("layer4.norm")(expected).permute(0, 3, 1, 2)
            self.channels = {level: feature.shape[1] for level, feature in features.items()}
            self.strides = {level: PROBE // feature.shape[2] for level, feature in features.items()}
            stride = self.strides["layer4"]
            if is_transformer(network) or any(
                feature.shape[2] * self.strides[level] <= PROBE for level, feature in self.features(odd).items()
            ):
                self.padding = stride
            is_chain = torch.equal(features["layer4"], expected)
            covers = self(odd).shape[2] == PROBE // stride + 1
        except Exception as error:  # networks for images of one size raise anything for others
            raise ValueError(f"name={name}: cannot see images of any size; {OTHERS}") from error
        if not is_chain:
            raise ValueError(f"name={name}: {NO_CHAIN}; {OTHERS}")
        if not covers:
            raise ValueError(f"name={name}: its features do not lie on a grid of the image; {OTHERS}")
        self.train()


def _features(name: str, known: str, output_stride: int) -> nn.Module:
    """The feature network of this output stride; where the classifier, AMN or IRN ask for a transformer, of its own."""
    asked: list[dict[str, Any]] = [{"output_stride": output_stride}]
    if output_stride == STRIDE:
        asked += [ANY_SIZE, {}]
    reason: Exception | None = None
    for options in asked:
        try:
            network = timm_library.library(name).create_model(known, features_only=True, **options)
        except Exception as error:  # networks raise anything
            reason = reason or error
        else:
            if "output_stride" in options or is_transformer(network):
                return network
    raise ValueError(f"name={name}: timm cannot build it with output stride {output_stride}; {OTHERS}") from reason


def _cut(name: str, network: Any) -> list[nn.Sequential]:
    """The stem and the four layers of what `timm.create_model(…, features_only=True)` returns."""
    ends = [flat(end) for end in network.feature_info.module_name()][-len(LAYERS) :]
    chain = dict(_chain(network, ends))
    if len(ends) < len(LAYERS) or not chain.keys() >= set(ends):
        raise ValueError(f"name={name}: {NO_CHAIN}; {OTHERS}")
    names = list(chain)
    stops = [names.index(end) + 1 for end in ends]
    cuts = itertools.pairwise([0, stops[0] - 1, *stops])
    return [nn.Sequential(OrderedDict((part, chain[part]) for part in names[start:stop])) for start, stop in cuts]


def _chain(network: nn.Module, ends: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    """Its modules in order; a sequence is split if a feature ends inside it."""
    for name, module in network.named_children():
        parts = {f"{name}_{part}": inner for part, inner in module.named_children()}
        yield from parts.items() if isinstance(module, nn.Sequential) and parts.keys() & set(ends) else [(name, module)]
