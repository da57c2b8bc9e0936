"""MLflow, on a real SQLite file."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from amn_ray.artifacts import Store
from amn_ray.config import TrackingConfig
from amn_ray.tracking import EpochCallback, Tracker


@pytest.fixture
def tracker(tmp_path: Path) -> Tracker:
    return Tracker(TrackingConfig(experiment="test"), Store.open(str(tmp_path)))


def test_the_same_fingerprint_continues_the_same_run(tracker: Tracker) -> None:
    with tracker.run("pipeline", "f1", {"dataset": "shapes"}) as first:
        first.params({"cam.epochs": 3})
    with tracker.run("pipeline", "f1", {}) as again:
        again.params({"cam.epochs": 3})
    with tracker.run("pipeline", "f2", {}) as other:
        pass
    assert first.run_id == again.run_id != other.run_id
    run = tracker.client.get_run(first.run_id)
    assert run.data.params == {"cam.epochs": "3"}
    assert run.data.tags["dataset"] == "shapes"
    assert run.info.status == "FINISHED"


def test_children_belong_to_their_parent(tracker: Tracker) -> None:
    with (
        tracker.run("p", "f1", {}) as one,
        tracker.run("p", "f2", {}) as two,
        tracker.run("cam", "same", {}, one) as child,
        tracker.run("cam", "same", {}, two) as cousin,
    ):
        pass
    assert child.run_id != cousin.run_id
    assert tracker.client.get_run(child.run_id).data.tags["mlflow.parentRunId"] == one.run_id


def test_a_failed_run_is_marked_and_can_be_continued(tracker: Tracker) -> None:
    with pytest.raises(ZeroDivisionError), tracker.run("p", "f", {}) as run:
        _ = 1 / 0
    assert tracker.client.get_run(run.run_id).info.status == "FAILED"
    with tracker.run("p", "f", {}) as again:
        assert tracker.client.get_run(again.run_id).info.status == "RUNNING"
    assert again.run_id == run.run_id


def test_a_curve_is_never_logged_twice(tracker: Tracker) -> None:
    with tracker.run("p", "f", {}) as run:
        run.curve("cam/loss_curve", [(1, 0.5), (2, 0.4)])
        run.curve("cam/loss_curve", [(1, 0.5), (2, 0.4), (3, 0.3)])
    history = tracker.client.get_metric_history(run.run_id, "cam/loss_curve")
    assert sorted((metric.step, metric.value) for metric in history) == [(1, 0.5), (2, 0.4), (3, 0.3)]


def test_long_curves_are_split_into_batches(tracker: Tracker) -> None:
    with tracker.run("p", "f", {}) as run:
        run.curve("c", [(step, 0.0) for step in range(2500)])
    assert len(tracker.client.get_metric_history(run.run_id, "c")) == 2500


def test_an_epoch_is_logged_and_told(tracker: Tracker, capsys: pytest.CaptureFixture[str]) -> None:
    with tracker.run("p", "f", {}) as run:
        report = {
            "epoch": 2,
            "epochs": 5,
            "loss": 0.25,
            "images_per_second": 10.0,
            "points": [{"step": 7, "loss": 0.2}],
        }
        EpochCallback(tracker.uri, run.run_id, "cam").after_report(None, [report], None)
    assert "epoch 2/5" in capsys.readouterr().out
    assert MlflowClient(tracker.uri).get_metric_history(run.run_id, "cam/loss_curve")[0].step == 7
