"""The observers of a pipeline that a user starts."""

from __future__ import annotations

from collections.abc import Sequence

from amn_ray.core.events import Observer, RunEnded
from amn_ray.core.provenance import git_commit
from amn_ray.core.settings import flat
from amn_ray.inference.logged import LoggedModel
from amn_ray.platform.tracking import Tracker
from amn_ray.recipe.method_names import FULLY_SUPERVISED, is_fully_supervised
from amn_ray.recipe.pipeline import Pipeline
from amn_ray.recipe.records import Recorder
from amn_ray.reporting.console import Console
from amn_ray.reporting.results import Figures
from amn_ray.reporting.tracked import Tracking

TRIAL_PATIENCE_S = 120
"""How long a trial waits for MLflow; a study that has started must not lose its trials."""


def run_observed(
    pipeline: Pipeline,
    *,
    name: str | None = None,
    study: str | None = None,
    others: Sequence[Observer] = (),
    command: Sequence[str] = (),
    since: float | None = None,
) -> tuple[RunEnded, bool]:
    """Run a pipeline, and report it to the console, the store's records and MLflow.

    Args:
        pipeline: the prepared pipeline.
        name: the name of its MLflow run; None uses the dataset's name.
        study: the id of the study's MLflow run, if this is a trial.
        others: further observers.
        command: the overrides of the command line, as `run=NAME` will repeat them.
        since: the start time, see Runner.

    Returns:
        The end of the run, and whether MLflow has received all of it.
    """
    config = pipeline.config
    tracker = Tracker(config.tracking, pipeline.store, patience_s=0 if study is None else TRIAL_PATIENCE_S)
    tags = {"dataset": config.dataset.name, "git_commit": git_commit()}
    supervised = is_fully_supervised(flat(config))
    tags |= {"supervision": FULLY_SUPERVISED} if supervised else {}
    parent = None if study is None else tracker.known(study)
    tracking = Tracking(
        tracker,
        name or f"pipeline {config.dataset.name}{f' ({FULLY_SUPERVISED})' * supervised}",
        pipeline.identity,
        tags,
        pipeline.folder,
        parent,
    )
    observers = [
        *others,
        Console(),
        Figures(pipeline.folder),
        Recorder(pipeline.folder, lambda: tracking.parent.run_id if tracking.parent else "", command),
        LoggedModel(pipeline.store, pipeline.identity, config.tracking, tracking),
        tracking,  # last, since it ends the run in MLflow
    ]
    ended = pipeline.run(observers, tracker.uri, since)
    return ended, tracker.all_delivered
