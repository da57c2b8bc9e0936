"""The types behind the YAML of conf/: each job has one root configuration, and registers no other job's."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping

from hydra.core.config_store import ConfigStore

ROOTS: Mapping[str, str] = {
    "pipeline": "amn_ray.recipe.config:PipelineConfig",
    "sweep": "amn_ray.tuning.config:SweepConfig",
    "report": "amn_ray.reporting.config:ReportConfig",
    "export": "amn_ray.inference.export:ExportConfig",
    "predict": "amn_ray.inference.predict:PredictConfig",
}
"""By job: the dataclass of its configuration."""
PLANS = ("pipeline", "sweep")
"""Jobs whose configuration has data sets and methods."""


def root(job: str) -> type:
    """The dataclass of a job's configuration."""
    module, _, name = ROOTS[job].partition(":")
    found: type = getattr(importlib.import_module(module), name)
    return found


def register(job: str) -> None:
    """Make a job's dataclasses known to Hydra, as the schemas that conf/ names.

    Raises:
        RequestError: the YAML of a method does not fit its dataclasses.
    """
    store = ConfigStore.instance()
    store.store(name=f"{job}_schema", node=root(job))
    if job not in PLANS:
        return
    from amn_ray.data.registry import kinds
    from amn_ray.recipe.composition import register_methods

    for kind in kinds():
        store.store(group="schema/dataset", name=kind.name, node=kind.config)
        if not kind.config.__module__.startswith("amn_ray."):  # ours have files in conf/dataset/
            defaults = [{"/schema/dataset@dataset": kind.name}, {"override /recipe": kind.recipe}]
            choice = {"defaults": defaults, "dataset": {"name": kind.name}}
            store.store(group="dataset", name=kind.name, node=choice, package="_global_")
    register_methods()


def schemas(job: str) -> Iterator[tuple[str, type]]:
    """All settings of a job: (prefix of the keys, dataclass)."""
    yield "", root(job)
    if job in PLANS:
        from amn_ray.data.registry import kinds
        from amn_ray.stages import methods

        yield from (("dataset.", kind.config) for kind in kinds())
        for method in methods.all_methods():
            yield from ((f"{step}.", stage.config) for step, stage in method.stages.items())
