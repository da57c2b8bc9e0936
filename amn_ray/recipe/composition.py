"""From Hydra's YAML to checked dataclasses, and from methods to Hydra's groups."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from amn_ray.core import plugins
from amn_ray.core.errors import RequestError
from amn_ray.core.settings import flat
from amn_ray.platform import submitted
from amn_ray.recipe.config import STEPS, PipelineConfig
from amn_ray.stages import builtin, methods  # noqa: F401 — `builtin` registers the methods
from amn_ray.stages.methods import Method

GROUPS = ("dataset", "recipe", "cluster", *methods.GROUPS)
"""Groups whose choice is named on the command line and brings its settings."""
PARTNERS = ("dataset", "recipe")
"""The groups for whose choices a method may have special settings."""


def register_methods() -> None:
    """Make all methods known to Hydra, as choices of their groups.

    Raises:
        RequestError: the YAML of a method does not fit its dataclasses.
    """
    for method in methods.all_methods():
        _register(method)


def _register(method: Method) -> None:
    where = f"{method.group}={method.name}"
    node = OmegaConf.create({"choices": {method.group: method.name}})
    with _located_errors(where):
        for step, stage in method.stages.items():
            base = typing.get_type_hints(PipelineConfig)[step]
            if not issubclass(stage.config, base):
                raise ValueError(
                    f"{stage.config.__name__}: is not a subclass of {base.__module__}.{base.__name__}, as the settings "
                    f"of all that make {step} must be"
                )
            node[step] = OmegaConf.structured(stage.config)
    values, pairs = method.values()
    store = ConfigStore.instance()
    with _located_errors(str(method.settings)):
        node = _merged(node, values)
        for condition, extra in pairs.items():
            partner, _, choice = condition.partition("=")
            if partner not in PARTNERS or not choice:
                raise ValueError(f"with: {condition}: must be recipe=NAME or dataset=NAME")
            _merged(node, extra)
            store.store(
                group=f"pairs/{method.group}_{partner}",
                name=f"{method.name}-{choice}",
                node=OmegaConf.create(extra),
                package="_global_",
            )
    store.store(group=method.group, name=method.name, node=node, package="_global_")


def _merged(node: DictConfig, values: Mapping[str, Any]) -> DictConfig:
    """Merge, checking only the types that are known: those of other steps depend on their methods."""
    allowed = (*STEPS, "backbone", "precision")
    for step in values:
        if step not in allowed:
            raise ValueError(f"{step}: is not a step; expected one of {', '.join(allowed)}")
    return OmegaConf.merge(node, values)


@contextmanager
def _located_errors(where: str) -> Iterator[None]:
    try:
        yield
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        key = getattr(error, "full_key", None)
        text = str(error).splitlines()[0]
        raise RequestError(f"{where}: {f'{key}: ' * bool(key)}{text}") from error


def load(composed: DictConfig, written: str) -> Any:
    """The composed YAML as checked dataclasses, of the type that its schema names.

    Args:
        composed: Hydra's result.
        written: the key of the job's output location.

    Raises:
        RequestError: a value is out of range, a plug-in was not loaded, or a path would not outlive the job that
            writes results there; the sentence begins with the full key.
    """
    _check(composed, ())
    loaded = OmegaConf.to_object(composed)
    for name in getattr(loaded, "plugins", ()):
        if name not in plugins.named():
            raise RequestError(
                f"plugins={name}: is set in a file, which is read after plug-ins are loaded; set it on the command "
                f"line, or set {plugins.NAMED}={name}"
            )
    submitted.check_places(flat(loaded), written=written)
    return loaded


def _check(node: Any, path: tuple[str, ...]) -> None:
    """Build each dataclass on its own, the innermost first, so that errors name the full key."""
    if not isinstance(node, DictConfig):
        return
    for name in node:
        if not OmegaConf.is_interpolation(node, name):
            _check(node[name], (*path, str(name)))
    try:
        OmegaConf.to_object(node)
    except ValueError as error:
        raise RequestError(".".join((*path, str(error)))) from error
