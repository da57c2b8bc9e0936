"""A pipeline's record: which artifact each step made. Written by the pipeline, read by the jobs that use its results.

It is `run.json` in the run's folder `<store>/runs/<run>/`, beside `summary.json` and the figures.
"""

from __future__ import annotations

import dataclasses
import json
import posixpath
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amn_ray.core.artifacts import Artifact, Store
from amn_ray.core.errors import RequestError
from amn_ray.core.folders import Folder
from amn_ray.stages.crf.config import KernelConfig

RECORD = "run.json"
_SCORE = "_score"


@dataclass(frozen=True)
class Run:
    """A pipeline that ended well."""

    folder: Folder
    artifacts: Mapping[str, Artifact]
    """By step, in the order in which they were made."""
    scores: Mapping[str, Artifact]
    """By step, where it was scored."""
    crf: KernelConfig
    """Of the CRF after DeepLab, also where the run stopped before it."""
    settings: Mapping[str, Any]
    """The whole configuration, as one level of dotted keys."""
    mlflow_run: str

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


def folder(store: Store) -> Folder:
    """Where the records of all runs of a store are."""
    return store.folder("runs")


def record(
    folder: Folder,
    *,
    settings: Mapping[str, Any],
    artifacts: Mapping[str, Artifact],
    crf: KernelConfig,
    mlflow_run: str,
) -> None:
    """Write the record of a run that ended."""
    places = {step: f"{artifact.stage}/{artifact.fingerprint}" for step, artifact in artifacts.items()}
    content = {
        "steps": {step: place for step, place in places.items() if not step.endswith(_SCORE)},
        "scores": {step.removesuffix(_SCORE): place for step, place in places.items() if step.endswith(_SCORE)},
        "crf": dataclasses.asdict(crf),
        "settings": dict(settings),
        "mlflow_run": mlflow_run,
        "ended": time.time(),
    }
    folder.write(RECORD, json.dumps(content, indent=2).encode())


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
    ended = [(json.loads(run.read(RECORD)).get("ended"), run) for run in _recorded(store)]
    known = [(when, run) for when, run in ended if when is not None]
    found = [_read(store, run) for _, run in sorted(known, key=lambda pair: pair[0], reverse=True)]
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
    if "ended" not in content:
        raise RequestError(
            f"{run.url}/{RECORD}: was written by an older version; give that run's command again, which takes seconds"
        )
    return Run(
        run,
        artifacts={step: _artifact(store, place) for step, place in content["steps"].items()},
        scores={step: _artifact(store, place) for step, place in content["scores"].items()},
        crf=KernelConfig(**content["crf"]),
        settings=content["settings"],
        mlflow_run=content["mlflow_run"],
    )


def _artifact(store: Store, place: str) -> Artifact:
    stage, fingerprint = place.split("/")
    return Artifact(store.fs, posixpath.join(store.path, place), stage, fingerprint)
