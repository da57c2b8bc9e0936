"""What MLflow (on a real SQLite file) knows of a run, told by hand what happens in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from mlflow.entities import Run

from amn_ray.core.artifacts import Artifact, Store, fingerprint
from amn_ray.core.events import (
    Event,
    RunBegan,
    RunEnded,
    RunFailed,
    Scored,
    StepBegan,
    StepEnded,
    StepIsMade,
    Warned,
)  # fmt: skip
from amn_ray.platform.tracking import TrackedRun, Tracker
from amn_ray.platform.tracking_config import TrackingConfig
from amn_ray.recipe import records
from amn_ray.reporting.results import FIGURES
from amn_ray.reporting.tracked import Tracking
from amn_ray.training.epochs import LogEpochs

SETTINGS = {"seed": 3, "maps.threshold": 0.15, "store": "somewhere", "rebuild": ["amn"], "plan": False, "run": None}


class Told:
    """A store with a tracker, and what a pipeline tells them."""

    def __init__(self, store: Store, tracker: Tracker, identity: str) -> None:
        self.store = store
        self.tracker = tracker
        self.identity = identity
        self.folder = records.folder(store).folder(identity)

    def tracking(self, study: TrackedRun | None = None) -> Tracking:
        return Tracking(self.tracker, "pipeline shapes", self.identity, {"dataset": "shapes"}, self.folder, study)

    def artifact(self, stage: str) -> Artifact:
        return self.store.artifact(stage, 1, {}, {})

    def step(self, name: str, stage: str, *, reused: bool = False, **manifest: Any) -> list[Event]:
        """A step that begins and ends."""
        made = self.artifact(stage)
        kept = {"metrics": {}, "seconds": 2.5, "spilled_gb": 0.0, **manifest}
        began = StepBegan(step=name, artifact=made, settings={"scales": [1.0], "precision": "fp32"})
        work: list[Event] = [] if reused else [StepIsMade(step=name, artifact=made)]
        return [began, *work, StepEnded(step=name, artifact=made, reused=reused, manifest=kept)]

    def ended(self, **summary: Mapping[str, float]) -> RunEnded:
        return RunEnded(artifacts={}, scores={}, manifests={}, summary=summary)

    def child(self, parent: TrackedRun | None, name: str) -> Run:
        """What MLflow has of a step of a run."""
        assert parent is not None
        (found,) = (run for run in self.children(parent) if run.info.run_name == name)
        return found

    def children(self, parent: TrackedRun) -> list[Run]:
        return self.tracker.tagged({"mlflow.parentRunId": parent.run_id})

    def run(self, run: TrackedRun | None) -> Run:
        assert run is not None
        return self.tracker.client.get_run(run.run_id)

    def history(self, run: Run, key: str) -> list[tuple[int, float]]:
        found = self.tracker.client.get_metric_history(run.info.run_id, key)
        return sorted((metric.step, metric.value) for metric in found)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Tracker]:
    """For all tests, since a fresh database costs seconds."""
    store = Store.open(str(tmp_path_factory.mktemp("store")))
    return store, Tracker(TrackingConfig(experiment="test"), store)


@pytest.fixture
def told(opened: tuple[Store, Tracker], request: pytest.FixtureRequest) -> Told:
    return Told(*opened, fingerprint(request.node.name))


def tell(observer: Tracking, *events: Event) -> None:
    for event in events:
        observer.notify(event)


def test_a_pipeline_is_a_run_with_a_child_per_step(told: Told) -> None:
    tracking = told.tracking()
    tell(
        tracking,
        RunBegan(settings=SETTINGS),
        *told.step("images", "images", reused=True, metrics={"images": 4}),
        *told.step("classifier", "classifier", metrics={"loss": 0.5}, spilled_gb=1.5,
                   history=[{"step": 1, "loss": 0.75, "time": 10.0}, {"step": 2, "loss": 0.5, "time": 10.0}]),
        Warned(step="classifier", sentence="something"),
        *told.step("maps", "cam"),
        Scored(step="maps", artifact=told.artifact("score"),
               manifest={"metrics": {"miou": 0.25}, "curve": {"tau": [0.0, 0.155, 1.0], "miou": [0.1, 0.25, 0.2]}}),
    )  # fmt: skip
    assert told.run(tracking.parent).info.status == "RUNNING"
    assert told.child(tracking.parent, "maps").info.status == "RUNNING", "its score is a part of it"
    assert told.child(tracking.parent, "classifier").info.status == "FINISHED"
    tell(
        tracking,
        *told.step("refined", "crf"),
        Scored(step="refined", artifact=told.artifact("score"), manifest={"metrics": {"miou": 0.5}}),
        told.ended(maps={"miou": 0.25}, refined={"miou": 0.5, "seconds": 2.5}, final_maps={"miou": 0.25}),
    )
    parent = told.run(tracking.parent)
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name == "pipeline shapes"
    assert parent.data.params == {"seed": "3", "maps.threshold": "0.15"}
    tags = {"dataset": "shapes", "store": told.store.url, "run": told.identity, "fingerprint": told.identity}
    assert {key: parent.data.tags[key] for key in tags} == tags
    metrics = {"maps/miou", "refined/miou", "refined/seconds", "final_maps/miou", "maps/miou_by_tau"}
    assert {key for key in parent.data.metrics if not key.startswith("system/")} == metrics
    assert told.history(parent, "maps/miou_by_tau") == [(0, 0.1), (155, 0.25), (1000, 0.2)]
    children = {run.info.run_name: run for run in told.children(tracking.parent)}  # type: ignore[arg-type]
    assert children.keys() == {"images", "classifier", "maps", "refined"}
    assert {run.info.status for run in children.values()} == {"FINISHED"}
    assert children["maps"].data.params == {"scales": "[1.0]", "precision": "fp32"}
    assert {name: run.data.tags["reused"] for name, run in children.items()} == {
        "images": "true", "classifier": "false", "maps": "false", "refined": "false",
    }  # fmt: skip
    assert {name: run.data.tags["stage"] for name, run in children.items()} == {
        "images": "images", "classifier": "classifier", "maps": "cam", "refined": "crf",
    }  # fmt: skip
    assert children["images"].data.metrics == {"images/images": 4, "images/seconds": 2.5}
    assert told.history(children["classifier"], "classifier/loss_curve") == [(1, 0.75), (2, 0.5)]
    assert children["classifier"].data.metrics["classifier/spilled_gb"] == 1.5
    assert "maps/spilled_gb" not in children["maps"].data.metrics
    assert told.history(children["maps"], "maps/miou_by_tau") == told.history(parent, "maps/miou_by_tau")
    assert children["refined"].data.metrics == {"refined/miou": 0.5, "refined/seconds": 2.5}


@pytest.mark.parametrize(("interrupted", "status"), [(False, "FAILED"), (True, "KILLED")])
def test_a_run_that_ends_early_is_marked_with_the_step_that_it_ended_in(
    told: Told, interrupted: bool, status: str
) -> None:
    tracking = told.tracking()
    began = StepBegan(step="classifier", artifact=told.artifact("classifier"), settings={})
    tell(tracking, RunBegan(settings=SETTINGS), *told.step("images", "images"), began)
    tell(tracking, RunFailed(interrupted=interrupted))
    assert told.run(tracking.parent).info.status == status
    assert told.child(tracking.parent, "classifier").info.status == status
    assert told.child(tracking.parent, "images").info.status == "FINISHED"


def test_a_run_that_fails_before_its_first_step_is_marked(told: Told) -> None:
    tracking = told.tracking()
    tell(tracking, RunBegan(settings=SETTINGS), RunFailed(interrupted=False))
    assert told.run(tracking.parent).info.status == "FAILED"


def test_the_same_command_continues_its_run_and_its_steps(told: Told) -> None:
    first, again = told.tracking(), told.tracking()
    steps = told.step("maps", "cam", history=[{"step": 1, "loss": 0.5, "time": 10.0}])
    tell(first, RunBegan(settings=SETTINGS), *steps, RunFailed(interrupted=True))
    moved = SETTINGS | {"store": "elsewhere", "rebuild": [], "run": told.identity}
    tell(again, RunBegan(settings=moved), *told.step("maps", "cam", reused=True), told.ended(maps={"seconds": 2.5}))
    assert first.parent is not None
    assert again.parent is not None
    assert again.parent.run_id == first.parent.run_id
    assert told.run(again.parent).info.status == "FINISHED"
    assert told.child(again.parent, "maps").data.tags["reused"] == "true"
    assert told.history(told.child(again.parent, "maps"), "maps/loss_curve") == [(1, 0.5)]


def test_steps_that_are_one_artifact_are_two_children(told: Told) -> None:
    """Without IRN, the pseudo-masks are the refined seeds."""
    tracking = told.tracking()
    tell(tracking, RunBegan(settings=SETTINGS), *told.step("refined", "crf"))
    tell(tracking, *told.step("pseudo_masks", "crf", reused=True, seconds=0.0), told.ended())
    assert tracking.parent is not None
    assert {run.info.run_name for run in told.children(tracking.parent)} == {"refined", "pseudo_masks"}


def test_a_trial_is_a_child_of_its_study(told: Told) -> None:
    with told.tracker.run("study", told.identity, {}) as study:
        tracking = told.tracking(told.tracker.known(study.run_id))
        tell(tracking, RunBegan(settings=SETTINGS), told.ended())
        assert told.run(tracking.parent).data.tags["mlflow.parentRunId"] == study.run_id
        assert told.run(tracking.parent).info.status == "FINISHED"
        assert told.run(study).info.status == "RUNNING"


def test_the_files_of_a_run_are_logged_at_its_end_but_not_its_record(told: Told) -> None:
    for name in (records.SUMMARY, records.RECORD, f"{FIGURES}/curve.png"):
        told.folder.write(name, b"content")
    tracking = told.tracking()
    tell(tracking, RunBegan(settings=SETTINGS), told.ended())
    assert tracking.parent is not None
    logged = told.tracker.client.list_artifacts(tracking.parent.run_id)
    assert sorted(item.path for item in logged) == ["curve.png", "summary.json"]


def test_epochs_are_logged_to_the_child_of_their_step(told: Told) -> None:
    tracking = told.tracking()
    began = StepBegan(step="classifier", artifact=told.artifact("classifier"), settings={})
    tell(tracking, RunBegan(settings=SETTINGS), began)
    (callback,) = tracking.callbacks("classifier")
    assert isinstance(callback, LogEpochs)
    child = told.child(tracking.parent, "classifier")
    assert (callback.uri, callback.run_id, callback.step) == (told.tracker.uri, child.info.run_id, "classifier")
    tell(tracking, RunFailed(interrupted=True))
