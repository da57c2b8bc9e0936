"""The observer that logs to MLflow: one parent run per pipeline, one child run per step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from amn_ray.core.events import (
    Event,
    Observer,
    RunBegan,
    RunEnded,
    RunFailed,
    Scored,
    StepBegan,
    StepEnded,
)  # fmt: skip
from amn_ray.core.folders import Folder
from amn_ray.platform.tracking import TrackedRun, Tracker
from amn_ray.recipe.records import RECORD
from amn_ray.reporting.results import FIGURES
from amn_ray.training.epochs import LogEpochs

NO_SETTINGS = ("store", "rebuild", "run", "plan")
"""Settings of a command rather than of its result, or that may change, which MLflow parameters may not."""


class Tracking(Observer):
    """Logs an MLflow run for the pipeline and one for each of its steps."""

    def __init__(
        self,
        tracker: Tracker,
        name: str,
        identity: str,
        tags: Mapping[str, str],
        folder: Folder,
        study: TrackedRun | None = None,
    ) -> None:
        """Args:
        tracker: of the pipeline.
        name: the name of its run.
        identity: by which the same command finds its run again.
        tags: of the run and its children.
        folder: the run's folder in the store, whose files are logged at the end.
        study: the run of its study, if it is a trial.
        """
        self.tracker = tracker
        self.name = name
        self.identity = identity
        self.tags = tags
        self.folder = folder
        self.study = study
        self.parent: TrackedRun | None = None
        self.children: dict[str, TrackedRun] = {}
        self._open: TrackedRun | None = None

    def notify(self, event: Event) -> None:
        """See Observer."""
        match event:
            case RunBegan():
                self._begin(event)
            case StepBegan():
                self._begin_step(event)
            case StepEnded():
                self._end_step(event)
            case Scored():
                self._log_score(event)
            case RunEnded():
                self._end(event)
            case RunFailed():
                self._finish("KILLED" if event.interrupted else "FAILED")

    def callbacks(self, step: str) -> Sequence[Any]:
        """See Observer."""
        child = self.children[step]
        return [LogEpochs(self.tracker.uri, child.run_id, step)] if child.run_id else []

    def _begin(self, event: RunBegan) -> None:
        self.parent = self.tracker.begin(self.name, self.identity, self.tags, self.study)
        # Parameters are immutable, but a store may be moved, or given by another path.
        self.parent.params({key: value for key, value in event.settings.items() if key not in NO_SETTINGS})
        store = self.folder.path.removesuffix(f"/runs/{self.folder.name}")
        self.parent.tags({"store": Folder(self.folder.fs, store).url, "run": self.identity})
        self.parent.watch_machine()

    def _begin_step(self, event: StepBegan) -> None:
        self._finish_step("FINISHED")
        tags = {**self.tags, "stage": event.artifact.stage}
        child = self.tracker.begin(event.step, event.artifact.fingerprint, tags, self.parent)
        child.params(event.settings)
        self.children[event.step] = self._open = child

    def _end_step(self, event: StepEnded) -> None:
        child, manifest = self.children[event.step], event.manifest
        child.tags({"reused": str(event.reused).lower()})
        metrics = {**manifest["metrics"], "seconds": manifest["seconds"]}
        if not event.reused and manifest["spilled_gb"] > 0.01:
            metrics["spilled_gb"] = manifest["spilled_gb"]
        child.metrics({f"{event.step}/{name}": value for name, value in metrics.items()})
        points = [(int(point["step"]), point["loss"], point["time"]) for point in manifest.get("history", ())]
        if points:
            child.curve(f"{event.step}/loss_curve", points)

    def _log_score(self, event: Scored) -> None:
        child, manifest = self.children[event.step], event.manifest
        child.metrics({f"{event.step}/{name}": value for name, value in manifest["metrics"].items()})
        if "curve" in manifest:
            curve = manifest["curve"]
            # MLflow's steps are integers: τ in thousandths.
            now = time.time()
            points = [(round(1000 * tau), miou, now) for tau, miou in zip(curve["tau"], curve["miou"], strict=True)]
            assert self.parent is not None
            for run in (child, self.parent):  # the parents are where pipelines are compared
                run.curve(f"{event.step}/miou_by_tau", points)

    def _end(self, event: RunEnded) -> None:
        assert self.parent is not None
        self._finish_step("FINISHED")
        for name, content in _files(self.folder):
            self.parent.artifact(name, content)
        self.parent.metrics(
            {f"{step}/{name}": value for step, metrics in event.summary.items() for name, value in metrics.items()}
        )
        self._finish("FINISHED")

    def _finish_step(self, status: str) -> None:
        if self._open is not None:
            self.tracker.finish(self._open, status)
            self._open = None

    def _finish(self, status: str) -> None:
        self._finish_step(status)
        if self.parent is not None:
            self.tracker.finish(self.parent, status)


def _files(folder: Folder) -> Iterator[tuple[str, bytes]]:
    """The summary and the figures of a run."""
    for place in (folder, folder.folder(FIGURES)):
        for entry in place.entries():
            if entry.is_file and entry.base_name != RECORD:
                yield entry.base_name, place.read(entry.base_name)
