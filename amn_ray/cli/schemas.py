"""The types behind the YAML of conf/: one root configuration per job."""

from __future__ import annotations

from collections.abc import Mapping

from hydra.core.config_store import ConfigStore

from amn_ray.data.coco import CocoConfig
from amn_ray.data.folder import FolderConfig
from amn_ray.data.shapes import ShapesConfig
from amn_ray.data.voc import VocConfig
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
    for name, node in (("shapes", ShapesConfig), ("voc", VocConfig), ("coco", CocoConfig), ("folder", FolderConfig)):
        store.store(group="schema/dataset", name=name, node=node)
    register_methods()
