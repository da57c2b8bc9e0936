"""Command-line overrides, quoted for Hydra: `dataset.root=/data/run (2)` means that folder.

Hydra's grammar interprets commas, quotes, brackets and numbers, and rejects `é`, `#`, `~` and a second `=`. The value
of a string setting is always literal, so it is quoted before Hydra parses it.
"""

from __future__ import annotations

import dataclasses
import shlex
import typing
from collections.abc import Iterator, Sequence
from functools import lru_cache
from types import UnionType
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Quote, QuotedString, Sweep
from hydra.errors import HydraException

from amn_ray.cli.schemas import PLANS, schemas
from amn_ray.core.artifacts import Store
from amn_ray.core.errors import RequestError
from amn_ray.core.settings import shared_names
from amn_ray.recipe.composition import GROUPS
from amn_ray.recipe.config import PipelineConfig
from amn_ray.recipe.records import named
from amn_ray.recipe.renamed import refuse_old_key, refuse_old_step
from amn_ray.stages import methods

TEXT, TEXTS = "text", "texts"


def as_meant(job: str, arguments: Sequence[str]) -> list[str]:
    """A job's command line for Hydra, with the values of string settings quoted where Hydra would misread them.

    Args:
        job: its name in schemas.ROOTS.
        arguments: as they were typed.

    Raises:
        RequestError: an argument is not a setting, Hydra cannot parse it, or several runs are requested.
    """
    parsed, unknown = get_args_parser().parse_known_args(list(arguments))
    if parsed.multirun or any(argument.startswith("hydra.mode=") for argument in parsed.overrides):
        raise RequestError("--multirun: a job is one run; for several, run a study with jobs/sweep.py, see conf/study/")
    for argument in unknown:
        if argument.startswith("-"):
            raise RequestError(
                f"{argument}: no such option; settings are given as key=value without dashes, `--help` shows all keys"
            )
    # argparse puts those after an option into `unknown`.
    overrides = [*parsed.overrides, *unknown]
    meant = [_as_meant(job, override) for override in overrides]
    if job in PLANS:
        meant = with_choices(meant)
    return [*meant, *(argument for argument in arguments if argument not in overrides)]


def _as_meant(job: str, argument: str) -> str:
    key, is_assigned, value = argument.partition("=")
    if key != key.strip() or (not is_assigned and not key.startswith("~")):
        raise RequestError(
            f"{argument}: settings are given as key=value, without spaces around = (a value that holds spaces needs "
            "quotes for the shell)"
        )
    if key == "dataset" and ("/" in value or value.startswith("~")):
        raise RequestError(
            f"{argument}: names a kind of data set (shapes, voc12, coco14, folder), not its path; set dataset=folder "
            f"{shlex.quote(f'dataset.root={value}')}"
        )
    if job in PLANS:
        refuse_old_key(key)
    _refuse_part_of_shared(job, key)
    if key in methods.GROUPS and job in PLANS:
        methods.method(key, value)
    if key in ("until", "step", "study.metric"):
        refuse_old_step(key, value)
    kind = _kinds(job).get(key.lstrip("+"))
    try:
        read = OverridesParser.create().parse_override(argument)._value
        reason = ""
    except HydraException as error:
        read, reason = error, str(error).splitlines()[0]
    if kind == TEXT and (not isinstance(read, str | QuotedString | None) or _is_trimmed(read, value)):
        return f"{key}={quoted(value)}"
    if kind == TEXTS and isinstance(read, str) and value and "${" not in value:  # one without brackets
        return f"{key}={quoted_list(f'[{value}]')}"
    if kind == TEXTS and isinstance(read, ChoiceSweep) and read.simple_form:  # commas without brackets
        return f"{key}={quoted_list(f'[{value}]')}"
    if kind == TEXTS and _is_list(value) and not (isinstance(read, list) and all(map(_is_string, read))):
        return f"{key}={quoted_list(value)}"
    if isinstance(read, Sweep):
        raise RequestError(
            f"{argument}: names several values, but a job is one run; for several, run a study with jobs/sweep.py; "
            f"write a list in brackets, as in {shlex.quote(f'{key}=[{value}]')}"
        )
    if reason:
        better = quoted_list(value) if _is_list(value) else quoted(value)
        raise RequestError(
            f"{argument}: Hydra cannot read this ({reason}); quote a value with characters other than "
            f"letters, digits, spaces and - _ . / : as in {shlex.quote(f'{key}={better}')}"
        )
    return argument


def with_choices(overrides: Sequence[str]) -> list[str]:
    """The overrides, and the choices that a chosen method makes with itself unless they are named, too."""
    named_choices = dict(override.partition("=")[::2] for override in overrides)
    chosen = [methods.method(group, named_choices[group]) for group in methods.GROUPS if group in named_choices]
    made = {group: name for method in chosen for group, name in method.choices.items() if group not in named_choices}
    return [*overrides, *(f"{group}={name}" for group, name in made.items())]


def _refuse_part_of_shared(job: str, key: str) -> None:
    """Reject parts of a step's setting that the pipeline fills as a whole, such as amn.backbone."""
    for prefix, (name, is_own) in _shared_parts(job).items():
        if key.lstrip("+").startswith(f"{prefix}.") and not is_own:
            part = key.lstrip("+").removeprefix(f"{prefix}.")
            raise RequestError(f"{key}: {prefix} is shared by the whole pipeline; set {name}.{part}")


def with_recorded(arguments: Sequence[str]) -> list[str]:
    """A command line with `run=NAME` replaced by that run's overrides; other overrides given take precedence.

    Raises:
        RequestError: the store has no such run.
    """
    given = dict(argument.partition("=")[::2] for argument in arguments if "=" in argument)
    if "run" not in given:
        return list(arguments)
    store = Store.reading(given.get("store", PipelineConfig.store))
    (run,) = named(store, [given["run"]])
    rest = [argument for argument in arguments if not argument.startswith("run=")]
    changed = {argument.partition("=")[0] for argument in rest} | {"store"}  # the run was found in this store
    repeated = [override for override in run.command if override.partition("=")[0] not in changed]
    for override in repeated:
        if "***" in override:
            key = override.partition("=")[0]
            raise RequestError(
                f"run={given['run']}: {override} holds a password, which is not recorded; give {key}= again"
            )
    return [*repeated, *rest]


def plugins_of(arguments: Sequence[str]) -> list[str]:
    """The plug-in modules of a command line, before anything else is parsed."""
    found: list[str] = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key.lstrip("+") == "plugins":
            names = (name.strip(" '\"") for name in value.strip("[]").split(","))
            found = [name for name in names if name]
    return found


def _is_trimmed(read: object, value: str) -> bool:
    """Whether Hydra strips spaces that are part of the value, as in dataset.separator=' '."""
    return isinstance(read, str) and read != value and value != value.strip()


def quoted(text: str) -> str:
    """A string quoted so that Hydra reads it literally."""
    return QuotedString(text, Quote.double).with_quotes()


def quoted_list(text: str) -> str:
    """`[a, b]` with quotes around each element."""
    return f"[{','.join(quoted(item.strip()) for item in text.strip()[1:-1].split(','))}]"


def _is_list(value: str) -> bool:
    """Whether it is a list whose elements are separated by commas alone."""
    return value.startswith("[") and value.endswith("]") and not set(value[1:-1]) & set('[]{}"')


def _is_string(element: object) -> bool:
    return isinstance(element, str | QuotedString)


@lru_cache(maxsize=1)
def _kinds(job: str) -> dict[str, str]:
    """TEXT for each string setting, TEXTS for each list of strings; without Hydra's groups."""
    found = {key: kind for prefix, schema in schemas(job) for key, kind in _walk(schema, prefix)}
    return {key: kind for key, kind in found.items() if key not in GROUPS}


@lru_cache(maxsize=1)
def _shared_parts(job: str) -> dict[str, tuple[str, bool]]:
    """Key of a step's nested setting -> the pipeline's setting that fills it, and whether users may set its parts."""
    return {
        key: (name, is_own) for prefix, schema in schemas(job) for key, name, is_own in _walk_shared(schema, prefix)
    }


def _walk_shared(schema: type, prefix: str) -> Iterator[tuple[str, str, bool]]:
    own = shared_names(schema)
    for name, part in _dataclasses_in(schema):
        if name in own:
            yield f"{prefix}{name}", name, own[name]
        else:
            yield from _walk_shared(part, f"{prefix}{name}.")


def _dataclasses_in(schema: type) -> Iterator[tuple[str, type]]:
    for name, kind in typing.get_type_hints(schema).items():
        parts = [part for part in _parts(kind) if part is not type(None)]
        if len(parts) == 1 and dataclasses.is_dataclass(parts[0]):
            yield name, typing.cast(type, parts[0])


def _walk(schema: type, prefix: str) -> Iterator[tuple[str, str]]:
    for name, kind in typing.get_type_hints(schema).items():
        parts = [part for part in _parts(kind) if part is not type(None)]
        if parts == [str]:
            yield f"{prefix}{name}", TEXT
        elif parts == [list[str]]:
            yield f"{prefix}{name}", TEXTS
    for name, part in _dataclasses_in(schema):
        yield from _walk(part, f"{prefix}{name}.")


def _parts(kind: Any) -> Sequence[Any]:
    return typing.get_args(kind) if isinstance(kind, UnionType) else [kind]
