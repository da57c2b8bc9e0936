"""A pipeline's record: which artifact each step made. Written by the pipeline, read by the jobs that use its results.

It is `run.json` in the run's folder `<store>/runs/<run>/`, beside `summary.json` and the figures.
"""

from __future__ import annotations

import dataclasses
import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from amn_ray.artifacts import Artifact, Store
from amn_ray.errors import RequestError
from amn_ray.stages.crf.config import KernelConfig

RECORD = "run.json"


@dataclass(frozen=True)
class Run:
    """A pipeline that ended well."""

    folder: Path
    artifacts: Mapping[str, Artifact]
    """By step, in the order in which they were made."""
    crf: KernelConfig
    """Of the CRF after DeepLab, also where the run stopped before it."""

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


def record(folder: Path, artifacts: Mapping[str, Artifact], crf: KernelConfig) -> None:
    """Write the record of a run that ended."""
    steps = {step: f"{artifact.stage}/{artifact.fingerprint}" for step, artifact in artifacts.items()}
    (folder / RECORD).write_text(json.dumps({"steps": steps, "crf": dataclasses.asdict(crf)}, indent=2))


def find(store: Store, name: str | None, step: str) -> Run:
    """The run of that name in the store; without a name, the one that ended last of those that made `step`.

    Where none of them made it, the one that ended last: `Run.step` will say so.

    Raises:
        RequestError: there is no run, or none of that name.
    """
    folder = Path(store.root) / "runs"
    records = sorted(folder.glob(f"*/{RECORD}"), key=lambda path: path.stat().st_mtime, reverse=True)
    if name is not None:
        known = {path.parent.name: path for path in records}
        if name not in known:
            raise RequestError(f"run={name}: not found in {folder}, which holds {', '.join(sorted(known)) or 'none'}")
        return _read(store, known[name])
    runs = [_read(store, path) for path in records]
    if not runs:
        raise RequestError(f"{folder}: holds no finished run; start jobs/pipeline.py, or set store= to where it ran")
    return next((run for run in runs if step in run.artifacts), runs[0])


def _read(store: Store, path: Path) -> Run:
    content = json.loads(path.read_text())
    artifacts = {step: _artifact(store, place) for step, place in content["steps"].items()}
    return Run(path.parent, artifacts, KernelConfig(**content["crf"]))


def _artifact(store: Store, place: str) -> Artifact:
    stage, fingerprint = place.split("/")
    return Artifact(store.fs, posixpath.join(store.root, place), stage, fingerprint)
