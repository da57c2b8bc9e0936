"""The choices: which methods there are to make each step, ours and those of plug-ins.

A method is a value in its folder, and one line in OURS. A plug-in calls `register` when it is imported.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from amn_ray.core.errors import RequestError
from amn_ray.stages.stage import Stage

GROUPS: Mapping[str, tuple[str, ...]] = {
    "refinement": ("refined", "amn_refined"),
    "boundaries": ("irn", "pseudo_masks"),
    "segmenter": ("segmenter", "predictions"),
    "prediction_refinement": ("predictions_refined",),
    "maps": ("maps_network", "maps"),
    "activation": ("amn", "amn_maps"),
}
"""What is chosen, and the steps that a choice makes (or a part of them)."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One choice of a group."""

    group: str
    name: str
    stages: Mapping[str, Stage[Any]] = field(default_factory=dict)
    """By step: what makes it."""
    instead: Mapping[str, str] = field(default_factory=dict)
    """By step that nothing has to make: the step whose result it is."""
    settings: Path | None = None
    """A YAML file: the settings of this method, also of steps that it does not make itself, and under `with` those of
    pairs: `recipe=quick: {…}`, `dataset=coco14: {…}`."""

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise ValueError(f"{self.name}: group={self.group} is none of {', '.join(GROUPS)}")
        for step in (*self.stages, *self.instead):
            if step not in GROUPS[self.group]:
                raise ValueError(
                    f"{self.group}={self.name}: makes {step}, but may make {', '.join(GROUPS[self.group])}"
                )

    def values(self) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Its settings, and those of its pairs."""
        if self.settings is None:
            return {}, {}
        content = yaml.safe_load(self.settings.read_text()) or {}
        pairs = content.pop("with", {})
        return content, pairs


_METHODS: dict[tuple[str, str], Method] = {}


def register(method: Method) -> None:
    """Make a method one of the choices of its group.

    Raises:
        RequestError: there is another one of that name.
    """
    there = _METHODS.setdefault((method.group, method.name), method)
    if there is not method:
        raise RequestError(f"{method.group}={method.name}: is declared twice; give one of them another name")


def method(group: str, name: str) -> Method:
    """A choice.

    Raises:
        RequestError: there is none of that name.
    """
    if (group, name) not in _METHODS:
        known = names(group)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f", did you mean {near[0]}" if near else ""
        raise RequestError(f"{group}={name}: must be one of {', '.join(known)}{hint}")
    return _METHODS[group, name]


def names(group: str) -> list[str]:
    """The choices of a group."""
    return [name for of, name in _METHODS if of == group]


def all_methods() -> Iterable[Method]:
    """Of all groups."""
    return list(_METHODS.values())
