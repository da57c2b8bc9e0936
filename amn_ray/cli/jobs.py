"""The jobs: each runs its work for a composed configuration, and prints the results."""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from amn_ray.cli import entry
from amn_ray.platform.address import names_cluster
from amn_ray.recipe.composition import load


def pipeline(composed: DictConfig) -> None:
    """Run a pipeline."""
    from amn_ray.inference.observers import run_observed
    from amn_ray.platform.tracking import default_uri
    from amn_ray.recipe import pipeline
    from amn_ray.recipe.records import SUMMARY
    from amn_ray.reporting import console, results

    config = load(composed, written="store")
    if config.plan:
        if names_cluster():
            console.log("plan", "for this machine; the cluster at RAY_ADDRESS is not queried")
        console.plan_table(pipeline.look_ahead(config))
        return
    prepared = pipeline.prepare(config)
    ended, _ = run_observed(prepared, command=HydraConfig.get().overrides.task)
    console.summary_table(ended.summary)
    folder = prepared.folder.url
    uri = config.tracking.uri or default_uri(prepared.store)
    console.where_to_look(f"{folder}/{SUMMARY}", f"{folder}/{results.FIGURES}", uri)


def prepare(composed: DictConfig) -> None:
    """Build the image tables only."""
    composed.until = "images"
    pipeline(composed)


def sweep(composed: DictConfig) -> None:
    """Run a study."""
    from amn_ray.tuning.sweep import sweep

    overrides = list(HydraConfig.get().overrides.task)
    sweep(load(composed, written="store"), overrides, lambda extra: entry.compose("sweep", [*overrides, *extra]))


def report(composed: DictConfig) -> None:
    """Write a page about runs."""
    from amn_ray.reporting.report import report

    report(load(composed, written="out"))


def export(composed: DictConfig) -> None:
    """Write a finished run's masks."""
    from amn_ray.inference.export import export

    export(load(composed, written="out"))


def predict(composed: DictConfig) -> None:
    """Segment new images."""
    from amn_ray.inference.predict import predict

    predict(load(composed, written="out"))
