"""A pipeline's record: the artifact of each step. Written by the pipeline, read by jobs that use its results.

It is `run.json` in the run's folder `<store>/runs/<run>/`, beside `summary.json` and the figures.
"""

from __future__ import annotations

import dataclasses
import json
import posixpath
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from amn_ray.core.artifacts import Artifact, Store
from amn_ray.core.console import log
from amn_ray.core.errors import RequestError
from amn_ray.core.events import Event, Observer, RunBegan, RunEnded
from amn_ray.core.folders import Folder
from amn_ray.core.places import without_secrets
from amn_ray.core.settings import build

C = TypeVar("C")
RECORD = "run.json"
SUMMARY = "summary.json"
FORMAT = 2
"""The format number of records; version 0.1 wrote none."""


@dataclass(frozen=True)
class Run:
    """A pipeline that finished."""

    folder: Folder
    artifacts: Mapping[str, Artifact]
    """By step, in execution order."""
    scores: Mapping[str, Artifact]
    """By scored step."""
    settings: Mapping[str, Any]
    """The whole configuration, flattened to dotted keys."""
    mlflow_run: str
    command: Sequence[str] = ()
    """Its overrides, without passwords."""

    def step(self, name: str, *, needed_by: str) -> Artifact:
        """The artifact of a step.

        Raises:
            RequestError: the run stopped before that step.
        """
        if name not in self.artifacts:
            raise RequestError(
                f"{needed_by}: the run {self.folder.name} made {', '.join(self.artifacts)} only; run jobs/pipeline.py "
                f"until {name}, or name another run"
            )
        return self.artifacts[name]

    def node(self, kind: type[C], name: str) -> C:
        """The settings of the node `name` as a dataclass `kind`; other fields are dropped."""
        keys = [item.name for item in dataclasses.fields(kind)]  # type: ignore[arg-type]
        return build(kind, {key: self.settings[f"{name}.{key}"] for key in keys if f"{name}.{key}" in self.settings})

    def images_of(self, step: str) -> Artifact:
        """The table of all images of the split of which a step made maps or masks."""
        by_fingerprint = {artifact.fingerprint: artifact for artifact in self.artifacts.values()}
        images = self.artifacts[step]
        while "images" in images.manifest()["inputs"]:  # selected images are some of the images
            images = by_fingerprint[images.manifest()["inputs"]["images"]]
        return images


def folder(store: Store) -> Folder:
    """The folder with the records of all runs of a store."""
    return store.folder("runs")


class Recorder(Observer):
    """The observer that writes the record and the summary of a finished run."""

    def __init__(self, folder: Folder, mlflow_run: Callable[[], str], command: Sequence[str] = ()) -> None:
        """Args:
        folder: the run's folder.
        mlflow_run: returns its MLflow run id.
        command: its overrides.
        """
        self.folder = folder
        self.command = [without_secrets(override) for override in command]
        self.mlflow_run = mlflow_run
        self.settings: Mapping[str, Any] = {}

    def notify(self, event: Event) -> None:
        """See Observer."""
        if isinstance(event, RunBegan):
            self.settings = event.settings
        if isinstance(event, RunEnded):
            content = {
                "format": FORMAT,
                "steps": {step: _place(artifact) for step, artifact in event.artifacts.items()},
                "scores": {step: _place(artifact) for step, artifact in event.scores.items()},
                "settings": dict(self.settings),
                "command": self.command,
                "mlflow_run": self.mlflow_run(),
                "ended": time.time(),
            }
            self.folder.write(RECORD, json.dumps(content, indent=2).encode())
            self.folder.write(SUMMARY, json.dumps(event.summary, indent=2).encode())


def _place(artifact: Artifact) -> str:
    return f"{artifact.stage}/{artifact.fingerprint}"


def find(store: Store, name: str | None, step: str) -> Run:
    """The run of that name in the store; without a name, the latest one with `step`.

    If no run has the step, the latest one: `Run.step` then raises the error.

    Raises:
        RequestError: there is no run, or none of that name.
    """
    if name is not None:
        return named(store, [name])[0]
    runs = every(store)
    return next((run for run in runs if step in run.artifacts), runs[0])


def every(store: Store) -> list[Run]:
    """All runs of the store, the latest first, without those of another version.

    Raises:
        RequestError: there is none.
    """
    contents = [(json.loads(run.read(RECORD)), run) for run in _recorded(store)]
    ended = [(content["ended"], run) for content, run in contents if content.get("format") == FORMAT]
    if len(ended) < len(contents):
        log("runs", f"{len(contents) - len(ended)} runs in {folder(store).url} are of another version and were skipped")
    finished = [_read(store, run) for _, run in sorted(ended, key=lambda pair: pair[0], reverse=True)]
    if not finished:
        raise RequestError(
            f"{folder(store).url}: holds no finished run; start jobs/pipeline.py, or set store= to where it ran"
        )
    return finished


def named(store: Store, names: Sequence[str]) -> list[Run]:
    """The runs of these names.

    Raises:
        RequestError: one does not exist.
    """
    for name in names:
        if not folder(store).folder(name).exists(RECORD):
            existing = ", ".join(run.name for run in _recorded(store)) or "none"
            raise RequestError(f"run={name}: not found in {folder(store).url}, which holds {existing}")
    return [_read(store, folder(store).folder(name)) for name in names]


def _recorded(store: Store) -> list[Folder]:
    """The folders of finished runs, sorted by name."""
    folders = [folder(store).folder(entry.base_name) for entry in folder(store).entries()]
    return [run for run in folders if run.exists(RECORD)]


def _read(store: Store, run: Folder) -> Run:
    content = json.loads(run.read(RECORD))
    version = content.get("format", 1)
    if version != FORMAT:
        raise RequestError(
            f"{run.url}/{RECORD}: was written by {'an older' if version < FORMAT else 'a newer'} version of amn-ray; "
            "repeat that run's command, or use that version"
        )
    return Run(
        run,
        artifacts={step: _artifact(store, place) for step, place in content["steps"].items()},
        scores={step: _artifact(store, place) for step, place in content["scores"].items()},
        settings=content["settings"],
        mlflow_run=content["mlflow_run"],
        command=content["command"],
    )


def _artifact(store: Store, place: str) -> Artifact:
    stage, fingerprint = place.split("/")
    return Artifact(store.fs, posixpath.join(store.path, place), stage, fingerprint).opened()
