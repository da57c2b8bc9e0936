"""Which kinds of data sets there are: ours, and those of plug-ins."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from amn_ray.core import plugins
from amn_ray.core.errors import RequestError
from amn_ray.data.coco import Coco, CocoConfig
from amn_ray.data.folder import Folder, FolderConfig
from amn_ray.data.shapes import Shapes, ShapesConfig
from amn_ray.data.source import DatasetConfig, Source
from amn_ray.data.voc import Voc, VocConfig


@dataclass(frozen=True)
class Kind:
    """A kind of data set: `dataset=NAME` on the command line."""

    name: str
    config: type[DatasetConfig]
    source: Callable[[Any], Source]
    """Settings -> what lists and reads the images."""
    recipe: str
    """The one that fits, unless the user names another."""


_KINDS: dict[str, Kind] = {}


def register_dataset(
    name: str, config: type[DatasetConfig], source: Callable[[Any], Source], recipe: str = "paper"
) -> None:
    """Make a kind of data set one of the choices of `dataset=`; a plug-in does so when it is imported.

    Args:
        name: what users write.
        config: its settings. Its place is to be called `root`; whatever else it adds is part of its identity.
        source: opens it, given its settings; a class or function that other processes can import.
        recipe: the one that fits, unless the user names another.

    Raises:
        RequestError: there is another one of that name, or of these settings.
        ValueError: the name is none.
    """
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
        raise ValueError(f"dataset={name}: the name must be letters, digits and _ only")
    kind = Kind(name, config, source, recipe)
    others = [known for known in _KINDS.values() if known.name == name or known.config is config]
    if any(known != kind for known in others):
        raise RequestError(f"dataset={name}: is declared twice; give one of them another name, and settings of its own")
    _KINDS[name] = kind


def kinds() -> Iterable[Kind]:
    """All of them."""
    return list(_KINDS.values())


def kind_of(config: DatasetConfig) -> Kind:
    """The kind that has these settings.

    Raises:
        KeyError: there is none.
    """
    if type(config) not in {kind.config for kind in _KINDS.values()}:
        plugins.load()  # which a process that was started for the listing has not imported yet
    return {kind.config: kind for kind in _KINDS.values()}[type(config)]


register_dataset("shapes", ShapesConfig, Shapes, recipe="shapes")
register_dataset("voc12", VocConfig, Voc)
register_dataset("coco14", CocoConfig, Coco, recipe="coco")
register_dataset("folder", FolderConfig, Folder)
