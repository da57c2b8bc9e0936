"""From Hydra's YAML to checked dataclasses, and from methods to Hydra's groups."""

from __future__ import annotations

from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from amn_ray.core.errors import RequestError
from amn_ray.core.settings import flat
from amn_ray.platform import submitted
from amn_ray.stages import methods
from amn_ray.stages.methods import Method

GROUPS = ("dataset", "recipe", "cluster", *methods.GROUPS)
"""What is chosen by name on the command line, each with its settings."""
PARTNERS = ("dataset", "recipe")
"""The groups with which a method may have settings of a pair."""


def register_methods() -> None:
    """Make all methods known to Hydra, as choices of their groups.

    Raises:
        RequestError: the YAML of a method does not fit its dataclasses.
    """
    for method in methods.all_methods():
        _register(method)


def _register(method: Method) -> None:
    values, pairs = method.values()
    node = OmegaConf.create({"choices": {method.group: method.name}})
    for step, stage in method.stages.items():
        node[step] = OmegaConf.structured(stage.config)
    store = ConfigStore.instance()
    try:
        node = OmegaConf.merge(node, values)
        for condition, extra in pairs.items():
            partner, _, choice = condition.partition("=")
            if partner not in PARTNERS or not choice:
                raise ValueError(f"with: {condition}: must be recipe=NAME or dataset=NAME")
            store.store(
                group=f"pairs/{method.group}_{partner}",
                name=f"{method.name}-{choice}",
                node=OmegaConf.create(extra),
                package="_global_",
            )
    except (OmegaConfBaseException, ValueError) as error:
        raise RequestError(f"{method.settings}: {str(error).splitlines()[0]}") from error
    store.store(group=method.group, name=method.name, node=node, package="_global_")


def load(composed: DictConfig, written: str) -> Any:
    """The composed YAML as checked dataclasses, of the type that its schema names.

    Args:
        composed: by Hydra.
        written: the key of the place that the job writes to.

    Raises:
        RequestError: a value is out of its range, or a path would not last as long as the results that go there; the
            sentence begins with the full key.
    """
    _check(composed, ())
    loaded = OmegaConf.to_object(composed)
    submitted.check_places(flat(loaded), written=written)
    return loaded


def _check(node: Any, path: tuple[str, ...]) -> None:
    """Build each dataclass on its own, the innermost first, so that an error can be told with its full key."""
    if not isinstance(node, DictConfig):
        return
    for name in node:
        if not OmegaConf.is_interpolation(node, name):
            _check(node[name], (*path, str(name)))
    try:
        OmegaConf.to_object(node)
    except ValueError as error:
        raise RequestError(".".join((*path, str(error)))) from error
