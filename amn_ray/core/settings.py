"""Settings as dataclasses: flat for records, back from JSON, and what of them decides a result."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import field
from types import NoneType, UnionType
from typing import Any, TypeVar

from amn_ray.core.places import without_secrets

C = TypeVar("C")
_SHARED, _EVALUATION = "shared", "evaluation"


def shared() -> Any:
    """A field that is null unless the user sets it: the plan fills it from the pipeline's own setting of that name."""
    return field(default=None, metadata={_SHARED: True})


def for_evaluation(default: Any) -> Any:
    """A field that decides how a result is measured, and not what it is."""
    return field(default=default, metadata={_EVALUATION: True})


def completed(settings: C, **values: Any) -> C:
    """The settings, with the `shared` fields that are null filled from `values`; nested dataclasses likewise."""
    filled: dict[str, Any] = {}
    for item in dataclasses.fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, item.name)
        if dataclasses.is_dataclass(value):
            filled[item.name] = completed(value, **values)
        elif value is None and item.metadata.get(_SHARED):
            filled[item.name] = values[item.name]
    return dataclasses.replace(settings, **filled)  # type: ignore[type-var]


def deciding(settings: Any) -> dict[str, Any]:
    """What decides the result, as JSON: all but the fields that are `for_evaluation`."""
    if settings is None:
        return {}
    hidden = {item.name for item in dataclasses.fields(settings) if item.metadata.get(_EVALUATION)}
    return {key: value for key, value in dataclasses.asdict(settings).items() if key not in hidden}


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Dataclasses as one level of dotted keys, as they may be stored: passwords in URLs are left out."""
    result: dict[str, Any] = {}
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if dataclasses.is_dataclass(value):
            result |= flat(value, f"{prefix}{item.name}.")
        else:
            result[f"{prefix}{item.name}"] = without_secrets(value) if isinstance(value, str) else value
    return result


def build(kind: type[C], plain: Mapping[str, Any]) -> C:
    """A dataclass from its JSON; fields that it lacks keep their defaults.

    Raises:
        TypeError: the JSON has a field that the dataclass lacks.
    """
    hints = typing.get_type_hints(kind)
    return kind(**{name: _built(hints.get(name), value) for name, value in plain.items()})


def _built(hint: Any, value: Any) -> Any:
    if isinstance(hint, UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(part for part in typing.get_args(hint) if part is not NoneType)
    return build(hint, value) if dataclasses.is_dataclass(hint) and isinstance(value, Mapping) else value  # type: ignore[arg-type]
