"""The types behind the YAML of conf/: one root configuration per job."""

from __future__ import annotations

from collections.abc import Mapping

from hydra.core.config_store import ConfigStore

from amn_ray.data.registry import kinds
from amn_ray.inference.export import ExportConfig
from amn_ray.inference.predict import PredictConfig
from amn_ray.recipe.composition import register_methods
from amn_ray.recipe.config import PipelineConfig
from amn_ray.reporting.config import ReportConfig
from amn_ray.tuning.config import SweepConfig

SCHEMAS: Mapping[str, type] = {
    "pipeline": PipelineConfig,
    "sweep": SweepConfig,
    "report": ReportConfig,
    "export": ExportConfig,
    "predict": PredictConfig,
}
"""The root configuration of each job in conf/."""


def register() -> None:
    """Make the dataclasses known to Hydra, as the schemas that conf/ names."""
    store = ConfigStore.instance()
    for job, node in SCHEMAS.items():
        store.store(name=f"{job}_schema", node=node)
    for kind in kinds():
        store.store(group="schema/dataset", name=kind.name, node=kind.config)
        if not kind.config.__module__.startswith("amn_ray."):  # ours have files in conf/dataset/
            defaults = [{"/schema/dataset@dataset": kind.name}, {"override /recipe": kind.recipe}]
            choice = {"defaults": defaults, "dataset": {"name": kind.name}}
            store.store(group="dataset", name=kind.name, node=choice, package="_global_")
    register_methods()
