"""MLflow, on a real SQLite file and a real server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient

from amn_ray.core.artifacts import Store
from amn_ray.platform import tracking
from amn_ray.platform.tracking import RunStates, Tracker, log_curve
from amn_ray.platform.tracking_config import TrackingConfig
from amn_ray.training.epochs import LogEpochs, PrintEpochs
from tests.conftest import free_port

REPORT = {
    "epoch": 2,
    "epochs": 5,
    "loss": 0.25,
    "images_per_second": 10.0,
    "seconds": 40.0,
    "points": [{"step": 7, "loss": 0.2, "time": 10.0}],
}


@pytest.fixture
def tracker(tmp_path: Path) -> Tracker:
    return Tracker(TrackingConfig(experiment="test"), Store.open(str(tmp_path)))


def test_the_same_fingerprint_continues_the_same_run(tracker: Tracker) -> None:
    with tracker.run("pipeline", "f1", {"dataset": "shapes"}) as first:
        first.params({"classifier.epochs": 3})
    with tracker.run("pipeline", "f1", {}) as again:
        again.params({"classifier.epochs": 3})
    with tracker.run("pipeline", "f2", {}) as other:
        pass
    assert first.run_id == again.run_id != other.run_id
    run = tracker.client.get_run(first.run_id)
    assert run.data.params == {"classifier.epochs": "3"}
    assert run.data.tags["dataset"] == "shapes"
    assert run.info.status == "FINISHED"


def test_children_belong_to_their_parent(tracker: Tracker) -> None:
    with (
        tracker.run("p", "f1", {}) as one,
        tracker.run("p", "f2", {}) as two,
        tracker.run("classifier", "same", {}, one) as child,
        tracker.run("classifier", "same", {}, two) as cousin,
    ):
        pass
    assert child.run_id != cousin.run_id
    assert tracker.client.get_run(child.run_id).data.tags["mlflow.parentRunId"] == one.run_id


NAMES = ["Bob's parts", 'a "quoted" name', "a,b", "US$ and `x`", "a|b = 'c'", "#1 and 50%", "猫", "x" * 300, " ", "a\\"]


def test_runs_and_experiments_of_any_name_are_found_again(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    for name in NAMES:
        config = TrackingConfig(experiment=f"of {name}"[:256])
        tracker = Tracker(config, store)
        with tracker.run(name, "f", {"dataset": name}) as first, tracker.run(name, "f", {}, first) as child:
            first.params({"dataset.name": name})
        again = Tracker(config, store)
        with again.run(name, "f", {}) as run, again.run(name, "f", {}, run) as same:
            run.params({"dataset.name": name})
        assert (run.run_id, same.run_id) == (first.run_id, child.run_id)
        found = tracker.client.get_run(run.run_id)
        assert found.data.params == {"dataset.name": name}
        assert found.data.tags["dataset"] == name
        assert found.info.run_name == name or (len(name) > len(found.info.run_name) and name.startswith("xxx"))
    assert len(tracker.client.search_experiments()) == len(NAMES) + 1, "of each name, and MLflow's default one"


def test_runs_of_one_fingerprint_are_told_apart_by_names_of_any_length(tracker: Tracker) -> None:
    with tracker.run("x" * 300, "f", {}) as one, tracker.run("x" * 300 + "y", "f", {}) as other:
        pass
    assert one.run_id != other.run_id


def test_a_stopped_trial_of_any_name_is_marked(tracker: Tracker) -> None:
    with tracker.run("study", "s", {}) as study:
        for name in NAMES:
            with tracker.run(name, tracking.fingerprint(name), {}, study):
                pass
        with tracker.run("other", "o", {}, study):
            pass
        tracker.end_running(study.run_id, NAMES)
    stopped = [run for run in tracker.tagged({"mlflow.parentRunId": study.run_id}) if "stopped" in run.data.tags]
    assert len(stopped) == len(NAMES)


@pytest.mark.parametrize("name", ["", "  ", "x" * 257])
def test_an_experiment_that_mlflow_cannot_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"experiment=.*requires a name of 1 to 256 characters; set it, or dataset"):
        TrackingConfig(experiment=name)


@pytest.mark.parametrize("alias", ["", "my best", "latest", "v1", "a'b"])
def test_an_alias_that_mlflow_would_refuse_at_the_end_is_refused_at_the_start(alias: str) -> None:
    with pytest.raises(ValueError, match="alias="):
        TrackingConfig(alias=alias)


TELEMETRY = """
import os, amn_ray.platform.tracking, mlflow.telemetry
print(mlflow.telemetry.get_telemetry_client() is not None, os.environ["RAY_USAGE_STATS_ENABLED"])
"""


@pytest.mark.parametrize("wish", [None, "false"])
def test_usage_data_is_sent_only_where_the_user_turns_it_on(wish: str | None) -> None:
    # MLflow sends none from machines that it takes for those of a test or of a CI.
    kept = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME")}
    wished = {} if wish is None else {"MLFLOW_DISABLE_TELEMETRY": wish, "RAY_USAGE_STATS_ENABLED": "1"}
    # Nothing can be sent: the telemetry's own threads only fetch what they may do, from a proxy that is not there.
    closed = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", TELEMETRY]
    told = subprocess.run(command, env=kept | wished | closed, capture_output=True, text=True, check=True, timeout=120)
    assert told.stdout.split() == (["False", "0"] if wish is None else ["True", "1"])


def test_a_failed_run_is_marked_and_can_be_continued(tracker: Tracker) -> None:
    with pytest.raises(ZeroDivisionError), tracker.run("p", "f", {}) as run:
        _ = 1 / 0
    assert tracker.client.get_run(run.run_id).info.status == "FAILED"
    with tracker.run("p", "f", {}) as again:
        assert tracker.client.get_run(again.run_id).info.status == "RUNNING"
    assert again.run_id == run.run_id


def test_a_curve_is_never_logged_twice(tracker: Tracker) -> None:
    with tracker.run("p", "f", {}) as run:
        run.curve("classifier/loss_curve", [(1, 0.5, 10.0), (2, 0.4, 11.0)])
        run.curve("classifier/loss_curve", [(1, 0.5, 10.0), (2, 0.4, 11.0), (3, 0.3, 12.0)])
    history = tracker.client.get_metric_history(run.run_id, "classifier/loss_curve")
    assert sorted((metric.step, metric.value) for metric in history) == [(1, 0.5), (2, 0.4), (3, 0.3)]


def test_a_point_that_two_processes_log_at_once_is_stored_once(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [(1, 0.5, 10.0), (2, 0.4, 11.0)]
    with tracker.run("p", "f", {}) as run:
        monkeypatch.setattr(MlflowClient, "get_metric_history", lambda *arguments: [])  # neither sees the other's
        for part in (points, [*points, (3, 0.3, 12.0)]):
            log_curve(MlflowClient(tracker.uri), run.run_id, "classifier/loss_curve", part)
        monkeypatch.undo()
    history = tracker.client.get_metric_history(run.run_id, "classifier/loss_curve")
    assert sorted((metric.step, metric.value) for metric in history) == [(1, 0.5), (2, 0.4), (3, 0.3)]


def test_long_curves_are_split_into_batches(tracker: Tracker) -> None:
    with tracker.run("p", "f", {}) as run:
        run.curve("c", [(step, 0.0, 10.0) for step in range(2500)])
    assert len(tracker.client.get_metric_history(run.run_id, "c")) == 2500


def test_an_epoch_is_logged_and_told(tracker: Tracker, capsys: pytest.CaptureFixture[str]) -> None:
    with tracker.run("p", "f", {}) as run:
        for callback in (PrintEpochs("classifier"), LogEpochs(tracker.uri, run.run_id, "classifier")):
            callback.after_report(None, [REPORT], None)
    assert "epoch 2/5  loss 0.2500  10.0 images/s  about 2 min left" in capsys.readouterr().out
    deadline = time.monotonic() + 10
    while not (found := MlflowClient(tracker.uri).get_metric_history(run.run_id, "classifier/loss_curve")):
        assert time.monotonic() < deadline
    assert found[0].step == 7


class Gate:
    """A way to a server that can be shut: then nobody listens at its address, as where a server is down."""

    def __init__(self, uri: str) -> None:
        self.server = ("127.0.0.1", int(uri.rpartition(":")[2]))
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.open()

    def open(self) -> None:
        self.door = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self.door,), daemon=True).start()

    def shut(self) -> None:
        self.door.shutdown(socket.SHUT_RDWR)
        self.door.close()

    def _accept(self, door: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = door.accept()
                far = socket.create_connection(self.server)
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(door, source, sink), daemon=True).start()

    def _carry(self, door: socket.socket, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while (data := source.recv(65536)) and door.fileno() >= 0:
                sink.sendall(data)
        for end in (source, sink):
            end.close()


@pytest.fixture
def gate(mlflow_server: str, monkeypatch: pytest.MonkeyPatch) -> Gate:
    monkeypatch.setattr(tracking, "RETRY_S", 0.2)
    monkeypatch.setattr(tracking, "PATIENCE_S", 1.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return Gate(mlflow_server)


def test_what_an_unreachable_server_missed_is_delivered_later(
    gate: Gate, mlflow_server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = Tracker(TrackingConfig(uri=gate.uri, experiment="outage"), Store.open(str(tmp_path)))
    with tracker.run("p", "f", {}) as parent:
        gate.shut()
        with tracker.run("classifier", "c", {}, parent) as child:
            child.params({"epochs": 3})
            child.curve("classifier/loss_curve", [(1, 0.5, 10.0)])
            child.artifact("note.txt", b"kept")
        assert child.run_id == ""
        gate.open()
    assert "does not answer" in (told := capsys.readouterr().out)
    assert "answers again" in told
    client = MlflowClient(mlflow_server)
    found = client.get_run(child.run_id)
    assert (found.info.status, found.data.params) == ("FINISHED", {"epochs": "3"})
    assert found.data.tags["mlflow.parentRunId"] == parent.run_id
    assert client.get_metric_history(child.run_id, "classifier/loss_curve")[0].value == 0.5
    assert [item.path for item in client.list_artifacts(child.run_id)] == ["note.txt"]
    assert client.get_run(parent.run_id).info.status == "FINISHED"


def test_a_run_ends_well_although_its_server_never_comes_back_and_says_what_was_not_delivered(
    gate: Gate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = Tracker(TrackingConfig(uri=gate.uri, experiment="gone"), Store.open(str(tmp_path)))
    with tracker.run("p", "f", {}) as parent:
        gate.shut()
        parent.metrics({"maps/miou": 0.5})
    assert "2 record(s) were not delivered; run the same command again to deliver them" in capsys.readouterr().out
    gate.open()
    again = Tracker(TrackingConfig(uri=gate.uri, experiment="gone"), Store.open(str(tmp_path)))
    with again.run("p", "f", {}) as resumed:
        resumed.metrics({"maps/miou": 0.5})
    assert resumed.run_id == parent.run_id
    assert again.client.get_run(parent.run_id).data.metrics == {"maps/miou": 0.5}


def test_training_does_not_wait_for_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        LogEpochs(uri, "nowhere", "classifier").after_report(None, [REPORT], None)
        assert time.monotonic() - started < 5  # MLflow gives up after 20 s


def test_what_mlflow_refuses_is_told_and_holds_nothing_up(tracker: Tracker, capsys: pytest.CaptureFixture[str]) -> None:
    with tracker.run("p", "f", {}) as run:
        run.params({"classifier.epochs": 3})
        run.params({"classifier.epochs": 4})  # a parameter never changes
        run.metrics({"maps/miou": 0.5})
    assert "refused a record" in capsys.readouterr().out
    found = tracker.client.get_run(run.run_id)
    assert (found.info.status, found.data.metrics) == ("FINISHED", {"maps/miou": 0.5})


def test_an_artifact_store_that_is_away_holds_up_neither_numbers_nor_states(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "RETRY_S", 0.1)
    monkeypatch.setattr(tracking, "PATIENCE_S", 0.3)
    store = Store.open(str(tmp_path))
    Path(store.at("mlartifacts")).write_text("a file where a folder should be")
    tracker = Tracker(TrackingConfig(), store)
    with tracker.run("p", "f", {}) as run:
        run.artifact("summary.json", b"{}")
        run.metrics({"maps/miou": 0.5})
    assert not tracker.all_delivered
    assert "1 record(s) were not delivered" in capsys.readouterr().out
    found = tracker.client.get_run(run.run_id)
    assert (found.info.status, found.data.metrics) == ("FINISHED", {"maps/miou": 0.5})
    Path(store.at("mlartifacts")).unlink()
    tracker.deliver()
    assert tracker.all_delivered
    assert [item.path for item in tracker.client.list_artifacts(run.run_id)] == ["summary.json"]


@pytest.mark.parametrize(("status", "final"), [(413, True), (403, True), (429, False), (408, False), (503, False)])
def test_an_upload_that_a_proxy_refuses_is_not_tried_again(status: int, final: bool) -> None:
    response = requests.Response()
    response.status_code = status
    with pytest.raises(requests.HTTPError) as told:
        response.raise_for_status()
    assert tracking._is_final(told.value) == final


def test_a_run_whose_password_is_not_recorded_or_that_mlflow_never_knew_is_told_so() -> None:
    assert RunStates("http://***@127.0.0.1:1").of("abc") == "MLflow asks for a password, which is not recorded"
    assert RunStates("http://127.0.0.1:1").of("") == "not in MLflow, which did not answer"


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(15)])
def test_a_run_that_is_interrupted_or_terminated_is_marked_killed(tracker: Tracker, stop: BaseException) -> None:
    with pytest.raises(type(stop)), tracker.run("p", "f", {}) as run:
        raise stop
    assert tracker.client.get_run(run.run_id).info.status == "KILLED"


def test_mlflow_keeps_its_records_in_a_store_of_any_name(tmp_path: Path) -> None:
    store = Store.open(f"{tmp_path}/a #%20?b")
    tracker = Tracker(TrackingConfig(), store)
    with tracker.run("pipeline", "f", {}) as run:
        run.artifact("note.txt", b"1")
    assert tracker.all_delivered
    assert RunStates(tracker.uri).of(run.run_id) == run.run_id
    assert {path.name for path in Path(store.path).iterdir()} >= {"mlflow.db", "mlartifacts"}
    assert len(list(Path(store.path).rglob("note.txt"))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a #%20?b"]
