"""Configurations as a job's command line makes them, without a job."""

from __future__ import annotations

import copy
from functools import lru_cache

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from amn_ray.cli.overrides import as_meant
from amn_ray.cli.schemas import register
from amn_ray.recipe.composition import load
from amn_ray.recipe.config import PipelineConfig
from tests.conftest import ROOT


def composed(*overrides: str, job: str = "pipeline") -> DictConfig:
    """What Hydra makes of a command line."""
    register(job)
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return hydra.compose(job, as_meant(job, overrides))


def configured(*overrides: str) -> PipelineConfig:
    """The settings of a pipeline."""
    return copy.deepcopy(_configured(overrides))


@lru_cache
def _configured(overrides: tuple[str, ...]) -> PipelineConfig:
    return load(composed(*overrides), written="store")
