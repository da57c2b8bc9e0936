"""Convolutional networks of timm, an optional dependency (extra `networks`).

`timm/NAME` is a network of `timm.list_models()`; for `timm/NAME.TAG`, `imagenet` means the tag's weights
rather than timm's default.
"""

from __future__ import annotations

import difflib
import itertools
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from amn_ray.nn.backbones.backbone import LEVELS, After, Backbone
from amn_ray.nn.backbones.registry import check_strides
from amn_ray.nn.config import LAYERS, STRIDE

PREFIX = "timm/"
OTHERS = "choose another convolutional network, such as timm/convnext_tiny or timm/mobilenetv3_small_100"
NO_CHAIN = "its features are not those of modules that follow one another"
PROBE = 64
"""Side of the test image, in pixels: a multiple of all strides."""


@cache
def check_name(name: str) -> None:
    """Reject networks that timm lacks or cannot build as needed.

    Raises:
        ValueError: one sentence.
    """
    with torch.random.fork_rng(devices=[]):
        check_strides(name, TimmNetwork(name, STRIDE), STRIDE)


class TimmNetwork(Backbone):
    """A network that timm builds as a chain of modules, cut into five.

    Layer1…layer4 end at timm's last four features; the stem is everything before layer1's module. Where
    a network rounds its grids down (ConvNeXt), images are padded with the mean colour to a multiple of the output
    stride.
    """

    def __init__(self, name: str, output_stride: int) -> None:
        """Random weights.

        Raises:
            ValueError: timm is not installed, or the network is not usable; one sentence.
        """
        super().__init__()
        timm = _timm(name)
        self.name = _timm_name(name)
        try:
            network = timm.create_model(self.name, features_only=True, output_stride=output_stride)
        except Exception as error:  # networks raise anything
            raise ValueError(
                f"name={name}: timm cannot build it with output stride {output_stride}; {OTHERS}"
            ) from error
        for level, part in zip(LEVELS, _cut(name, network), strict=True):
            self.add_module(level, part)
        trained = timm.get_pretrained_cfg(self.name)
        if trained is not None:
            self.mean, self.std = trained.mean, trained.std
        self.padding = 1
        self._measure(name, network, output_stride)

    def forward(self, image_BCHW: Tensor, after: After | None = None) -> Tensor:
        """See Backbone."""
        height, width = image_BCHW.shape[-2:]
        below, right = -height % self.padding, -width % self.padding
        return super().forward(pad(image_BCHW, (0, right, 0, below)) if below or right else image_BCHW, after)

    def published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See Backbone: in timm's names, with or without a head."""
        own = {_flat(key.partition(".")[2]): key for key in self.state_dict()}
        with torch.device("meta"):
            whole = _timm(self.name).create_model(self.name)
        head = {_flat(key) for key in whole.state_dict()} - own.keys()
        return {own.get(_flat(key), key): value for key, value in state.items() if _flat(key) not in head}

    def pretrained(self) -> Mapping[str, Tensor]:
        """See Backbone: the tag's weights, else timm's default."""
        timm = _timm(self.name)
        if not timm.is_model_pretrained(self.name):
            raise ValueError("timm has no weights for this network")
        try:
            return timm.create_model(self.name, pretrained=True).state_dict()
        except Exception as error:  # of the hub's client or its transport
            raise OSError(str(error)) from error

    @torch.no_grad()
    def _measure(self, name: str, network: nn.Module, output_stride: int) -> None:
        """Determine channels, strides and padding; rejects networks that do not fit."""
        generator = torch.Generator().manual_seed(0)
        whole, odd = (torch.randn(1, 3, size, size, generator=generator) for size in (PROBE, PROBE + 1))
        network.eval()
        self.eval()
        try:
            features, expected = self.features(whole), network(whole)[-1]
            self.channels = {level: feature.shape[1] for level, feature in features.items()}
            self.strides = {level: PROBE // feature.shape[2] for level, feature in features.items()}
            if any(feature.shape[2] * self.strides[level] <= PROBE for level, feature in self.features(odd).items()):
                self.padding = output_stride
            is_chain = torch.equal(features["layer4"], expected)
            covers = self(odd).shape[2] == PROBE // output_stride + 1
        except Exception as error:  # networks for images of one size raise anything for others
            raise ValueError(f"name={name}: cannot see images of any size; {OTHERS}") from error
        if not is_chain:
            raise ValueError(f"name={name}: {NO_CHAIN}; {OTHERS}")
        if self.strides["layer4"] == output_stride and not covers:
            raise ValueError(f"name={name}: its features do not lie on a grid of the image; {OTHERS}")
        self.train()


def _cut(name: str, network: Any) -> list[nn.Sequential]:
    """The stem and the four layers of what `timm.create_model(…, features_only=True)` returns."""
    ends = [_flat(end) for end in network.feature_info.module_name()][-len(LAYERS) :]
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


def _flat(name: str) -> str:
    """Some of timm's feature networks rename modules: stages.0 becomes stages_0."""
    return name.replace(".", "_")


def _timm_name(name: str) -> str:
    """The name of a network in timm."""
    timm = _timm(name)
    architecture, _, tag = name.removeprefix(PREFIX).partition(".")
    available = timm.list_models()
    if architecture not in available:
        near = [f"{PREFIX}{found}" for found in difflib.get_close_matches(architecture, available, n=3)]
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"name={name}: timm {timm.__version__} has no such network{hint}")
    tags = [found.partition(".")[2] for found in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ValueError(
            f"name={name}: timm {timm.__version__} has no such weights of {architecture}, but "
            f"{', '.join(tags) or 'none'}"
        )
    return name.removeprefix(PREFIX)


def _timm(name: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise ValueError(
            f"name={name}: is a network of timm, which is not installed; run pip install 'amn-ray[networks]'"
        ) from error
    return timm
