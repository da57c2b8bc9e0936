"""The registry of backbones: ours, and those of plug-ins. Importable without PyTorch."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amn_ray.core import plugins
from amn_ray.core.errors import RequestError

if TYPE_CHECKING:
    from amn_ray.nn.backbones.backbone import Backbone
    from amn_ray.nn.config import BackboneConfig

Build = Callable[["BackboneConfig", int], "Backbone"]
"""(settings, output stride) -> the network with random weights."""
Strides = Callable[[str], Mapping[str, int]]
"""name -> the strides of the levels of the network with output stride 16, or its own if that cannot be chosen. Raises
ValueError, in one sentence that begins with `name=`, if no network has this name."""


@dataclass(frozen=True)
class Entry:
    """A network, or a family of networks."""

    build: Build
    strides: Strides | None = None


RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
"""torchvision's, whose layers end in a ReLU."""
BACKBONES: dict[str, Entry] = {}
"""By name. A name that ends with a slash is a family: `timm/` contains timm/convnext_tiny and many more."""


def register_backbone(name: str, build: Build, strides: Strides | None = None) -> None:
    """Add a network to the choices of `backbone.name`; a plug-in does so on import.

    Args:
        name: as users write it; one that ends with a slash covers all names that begin with it.
        build: constructs it. It should import PyTorch only when called.
        strides: for a family: the strides of a network, which rejects names that are not in it; null: not known without
            building it, and 16 in layer4.

    Raises:
        RequestError: another one has that name.
    """
    entry = Entry(build, strides)
    if BACKBONES.setdefault(name, entry) != entry:
        raise RequestError(f"backbone.name={name}: is registered twice; give one of the networks another name")


def check_name(name: str) -> None:
    """Reject unknown names.

    Raises:
        ValueError: one sentence.
    """
    known_strides(name)


def known_strides(name: str) -> Mapping[str, int] | None:
    """The strides of a network's levels in the classifier, AMN and IRN, if they are known without building it.

    Raises:
        ValueError: one sentence.
    """
    entry = _entry(name)
    return None if entry.strides is None else entry.strides(name)


def module_of(name: str) -> str:
    """The module that builds a network.

    Raises:
        ValueError: no network has this name.
    """
    return _entry(name).build.__module__


def build_backbone(config: BackboneConfig, output_stride: int) -> Backbone:
    """The network with random weights. Its stem is frozen if weights will be loaded.

    Args:
        config: which network; of `weights` it only matters whether they are null.
        output_stride: of layer4.

    Raises:
        RequestError: there is no such network, or not with this output stride.
    """
    try:
        backbone = _entry(config.name).build(config, output_stride)
        check_strides(config.name, backbone, output_stride)
    except ValueError as error:
        raise RequestError(f"backbone.{error}") from error
    backbone.running_statistics = config.batchnorm == "running"
    if config.weights is not None:
        backbone.freeze("stem")
    return backbone


def check_strides(name: str, backbone: Backbone, output_stride: int) -> None:
    """Reject a network whose strides do not fit.

    Raises:
        ValueError: the stride of layer4 is not `output_stride` (nor 32, that of transformers in stages, where 16 was
            asked for), or another stride is not a power of 2.
    """
    strides = ", ".join(f"{level} {stride}" for level, stride in backbone.strides.items())
    fitting = (16, 32) if output_stride == 16 else (output_stride,)
    if backbone.strides["layer4"] not in fitting or any(s < 1 or s & (s - 1) for s in backbone.strides.values()):
        raise ValueError(
            f"name={name}: has the strides {strides}, but powers of 2 are needed and {output_stride} in layer4; "
            "choose another network"
        )


def _entry(name: str) -> Entry:
    family, slash, member = name.partition("/")
    key = f"{family}/" if slash and member else name
    if key not in BACKBONES:
        plugins.load()  # a process on another node may not have imported them yet
    if key not in BACKBONES or name.endswith("/"):
        choices = [f"{entry}NAME" if entry.endswith("/") else entry for entry in BACKBONES]
        near = difflib.get_close_matches(name, choices, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"name={name}: must be one of {', '.join(choices)}{hint}")
    return BACKBONES[key]


def _resnet(config: BackboneConfig, output_stride: int) -> Backbone:
    from amn_ray.nn.backbones.resnet import ResNet

    return ResNet(config, output_stride)


def _timm(config: BackboneConfig, output_stride: int) -> Backbone:
    from amn_ray.nn.backbones import timm

    return timm.build(config.name, output_stride)


def _strides_of_timm(name: str) -> Mapping[str, int]:
    from amn_ray.nn.backbones import timm

    return timm.strides(name)


for _name in RESNETS:
    register_backbone(_name, _resnet)
register_backbone("timm/", _timm, _strides_of_timm)
