"""Settings as dataclasses: flattened for records, built from JSON, and reduced to what affects a result."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import field
from types import NoneType, UnionType
from typing import Any, TypeVar

from amn_ray.core.errors import RequestError
from amn_ray.core.places import without_secrets

C = TypeVar("C")
_SHARED, _OWN, _EVALUATION, _INPUT = "shared", "own", "evaluation", "input"


def shared(own: type | None = None) -> Any:
    """A field that is null unless the user sets it: the plan fills it with the pipeline's setting of that name.

    Args:
        own: a dataclass whose parts users may set; it counts as null while its `name` is.
    """
    if own is None:
        return field(default=None, metadata={_SHARED: True, _OWN: False})
    return field(default_factory=own, metadata={_SHARED: True, _OWN: True})


def is_null(value: Any) -> bool:
    """Whether a `shared` field is not set."""
    return value is None or (dataclasses.is_dataclass(value) and getattr(value, "name", "") is None)


def shared_names(kind: type) -> dict[str, bool]:
    """The `shared` fields of a dataclass, and whether users may set their parts."""
    return {item.name: item.metadata[_OWN] for item in dataclasses.fields(kind) if item.metadata.get(_SHARED)}


def for_evaluation(default: Any) -> Any:
    """A field that affects how a result is evaluated, but not the result; only scores have it in their fingerprint."""
    return field(default=default, metadata={_EVALUATION: True})


def by_input(default: Any) -> Any:
    """A field that decides over an input, whose content is in the fingerprint instead."""
    return field(default=default, metadata={_INPUT: True})


def filled(settings: C, **values: Any) -> C:
    """The settings with null `shared` fields filled from `values`, also in nested dataclasses.

    Raises:
        RequestError: `values` lacks one of them.
    """
    changes: dict[str, Any] = {}
    for item in dataclasses.fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, item.name)
        if not (item.metadata.get(_SHARED) and is_null(value)):
            if dataclasses.is_dataclass(value):
                changes[item.name] = filled(value, **values)
        else:
            if item.name not in values:
                raise RequestError(
                    f"{type(settings).__name__}.{item.name}: is shared() with the pipeline, which has no such setting; "
                    f"it has {', '.join(values)}"
                )
            changes[item.name] = values[item.name]
    return dataclasses.replace(settings, **changes)  # type: ignore[type-var]


def affecting_result(settings: Any) -> dict[str, Any]:
    """The settings that affect the result, as JSON.

    All fields except those marked `for_evaluation` or `by_input`, and those `shared` that the pipeline leaves null.
    """
    if settings is None:
        return {}
    hidden = {
        item.name
        for item in dataclasses.fields(settings)
        if {_EVALUATION, _INPUT} & item.metadata.keys()
        or (item.metadata.get(_SHARED) and getattr(settings, item.name) is None)
    }
    return {key: value for key, value in dataclasses.asdict(settings).items() if key not in hidden}


def chosen_modules(settings: Any) -> set[str]:
    """The modules whose code the settings select by name, such as a plug-in's backbone.

    A settings dataclass that selects some has an attribute `modules`; nested dataclasses are searched, too.
    """
    if not dataclasses.is_dataclass(settings):
        return set()
    modules = set(getattr(settings, "modules", ()))
    return modules.union(*(chosen_modules(getattr(settings, item.name)) for item in dataclasses.fields(settings)))


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Dataclasses flattened to dotted keys, safe to store: without passwords in URLs."""
    result: dict[str, Any] = {}
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if dataclasses.is_dataclass(value):
            result |= flat(value, f"{prefix}{item.name}.")
        else:
            result[f"{prefix}{item.name}"] = without_secrets(value) if isinstance(value, str) else value
    return result


def build(kind: type[C], plain: Mapping[str, Any]) -> C:
    """A dataclass from its JSON; missing fields keep their defaults.

    Raises:
        TypeError: the JSON has an unknown field.
    """
    hints = typing.get_type_hints(kind)
    return kind(**{name: _build_value(hints.get(name), value) for name, value in plain.items()})


def _build_value(hint: Any, value: Any) -> Any:
    if isinstance(hint, UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(part for part in typing.get_args(hint) if part is not NoneType)
    return build(hint, value) if dataclasses.is_dataclass(hint) and isinstance(value, Mapping) else value  # type: ignore[arg-type]
