"""A pipeline's record: which artifact each step made. Written by the pipeline, read by the jobs that use its results.

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
"""Of a record; 0.1 wrote none."""


@dataclass(frozen=True)
class Run:
    """A pipeline that ended well."""

    folder: Folder
    artifacts: Mapping[str, Artifact]
    """By step, in the order in which they were made."""
    scores: Mapping[str, Artifact]
    """By step, where it was scored."""
    settings: Mapping[str, Any]
    """The whole configuration, as one level of dotted keys."""
    mlflow_run: str
    command: Sequence[str] = ()
    """The overrides that were typed for it, without passwords."""

    def step(self, name: str, *, needed_by: str) -> Artifact:
        """What a step made.

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
        """A part of its settings as a dataclass: those fields of the node `name` that `kind` has."""
        keys = [item.name for item in dataclasses.fields(kind)]  # type: ignore[arg-type]
        return build(kind, {key: self.settings[f"{name}.{key}"] for key in keys if f"{name}.{key}" in self.settings})

    def images_of(self, step: str) -> Artifact:
        """The image table that a step's maps or masks belong to."""
        wanted = self.artifacts[step].manifest()["inputs"]["images"]
        return next(artifact for artifact in self.artifacts.values() if artifact.fingerprint == wanted)


def folder(store: Store) -> Folder:
    """Where the records of all runs of a store are."""
    return store.folder("runs")


class Recorder(Observer):
    """The observer that writes the record and the summary of a run that ended."""

    def __init__(self, folder: Folder, mlflow_run: Callable[[], str], command: Sequence[str] = ()) -> None:
        """Args:
        folder: of the run.
        mlflow_run: tells the id of its run in MLflow.
        command: the overrides that were typed.
        """
        self.folder = folder
        self.command = [without_secrets(typed) for typed in command]
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
    """The run of that name in the store; without a name, the one that ended last of those that made `step`.

    Where none of them made it, the one that ended last: `Run.step` will say so.

    Raises:
        RequestError: there is no run, or none of that name.
    """
    if name is not None:
        return named(store, [name])[0]
    runs = every(store)
    return next((run for run in runs if step in run.artifacts), runs[0])


def every(store: Store) -> list[Run]:
    """All runs of the store, the one that ended last first; those of an older version are left out.

    Raises:
        RequestError: there is none.
    """
    contents = [(json.loads(run.read(RECORD)), run) for run in _recorded(store)]
    ended = [(content["ended"], run) for content, run in contents if content.get("format") == FORMAT]
    if len(ended) < len(contents):
        log("runs", f"{len(contents) - len(ended)} runs in {folder(store).url} are of another version, and passed over")
    found = [_read(store, run) for _, run in sorted(ended, key=lambda pair: pair[0], reverse=True)]
    if not found:
        raise RequestError(
            f"{folder(store).url}: holds no finished run; start jobs/pipeline.py, or set store= to where it ran"
        )
    return found


def named(store: Store, names: Sequence[str]) -> list[Run]:
    """The runs of these names.

    Raises:
        RequestError: one is not there.
    """
    for name in names:
        if not folder(store).folder(name).exists(RECORD):
            known = ", ".join(run.name for run in _recorded(store)) or "none"
            raise RequestError(f"run={name}: not found in {folder(store).url}, which holds {known}")
    return [_read(store, folder(store).folder(name)) for name in names]


def _recorded(store: Store) -> list[Folder]:
    """The folders of the runs that ended, by name."""
    found = [folder(store).folder(entry.base_name) for entry in folder(store).entries()]
    return [run for run in found if run.exists(RECORD)]


def _read(store: Store, run: Folder) -> Run:
    content = json.loads(run.read(RECORD))
    version = content.get("format", 1)
    if version != FORMAT:
        raise RequestError(
            f"{run.url}/{RECORD}: was written by {'an older' if version < FORMAT else 'a newer'} version of amn-ray; "
            "give that run's command again, or use that version"
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
