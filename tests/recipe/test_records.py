"""The records of runs, on real files: what is written of a run that ended, and what is read of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from amn_ray.core.artifacts import Artifact, Store
from amn_ray.core.errors import RequestError
from amn_ray.core.events import RunBegan, RunEnded, RunFailed, StepBegan
from amn_ray.recipe import records
from amn_ray.recipe.records import RECORD, SUMMARY, Recorder

SETTINGS = {"seed": 3, "maps.threshold": 0.15, "maps.scales": [1.0], "tracking.uri": None}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def made(store: Store, stage: str, **inputs: Artifact) -> Artifact:
    artifact = store.artifact(stage, 1, {}, inputs)
    artifact.commit(config={}, inputs=inputs, code={}, seconds=1, result={})
    return artifact


def record(store: Store, name: str, artifacts: dict[str, Artifact], **ended: Any) -> None:
    recorder = Recorder(records.folder(store).folder(name), lambda: "id", ["seed=3"])
    recorder.notify(RunBegan(settings=SETTINGS))
    parts = {"scores": {}, "manifests": {}, "summary": {}} | ended
    recorder.notify(RunEnded(artifacts=artifacts, **parts))


def test_what_a_run_made_is_found_again_in_the_order_in_which_it_was_made(store: Store) -> None:
    images = made(store, "images")
    maps = made(store, "cam", images=images)
    score = made(store, "score", images=images, maps=maps)
    summary = {"images": {"images": 4}, "maps": {"miou": 0.5}, "final_maps": {"miou": 0.5}}
    record(store, "one", {"images": images, "maps": maps}, scores={"maps": score}, summary=summary)
    (run,) = records.every(store)
    assert (run.folder.name, run.mlflow_run, run.settings, run.command) == ("one", "id", SETTINGS, ["seed=3"])
    assert list(run.artifacts.items()) == [("images", images), ("maps", maps)]
    assert run.scores == {"maps": score}
    assert run.images_of("maps") == images
    assert run.step("maps", needed_by="export") == maps
    with pytest.raises(RequestError, match=r"export: the run one made images, maps only.* until refined"):
        run.step("refined", needed_by="export")
    assert json.loads(run.folder.read(SUMMARY)) == summary


def test_the_id_of_the_run_in_mlflow_is_asked_at_the_end(store: Store) -> None:
    """MLflow may have been away when the run began."""
    ids = [""]
    recorder = Recorder(records.folder(store).folder("one"), lambda: ids[-1])
    recorder.notify(RunBegan(settings={}))
    ids.append("known by now")
    recorder.notify(RunEnded(artifacts={}, scores={}, manifests={}, summary={}))
    (run,) = records.every(store)
    assert run.mlflow_run == "known by now"


@pytest.mark.parametrize("interrupted", [True, False])
def test_a_run_that_failed_has_no_record_and_leaves_that_of_an_earlier_one(store: Store, interrupted: bool) -> None:
    images = made(store, "images")
    record(store, "ended", {"images": images})
    before = records.folder(store).folder("ended").read(RECORD)
    for name in ("ended", "failed"):
        recorder = Recorder(records.folder(store).folder(name), lambda: "id")
        recorder.notify(RunBegan(settings={}))
        recorder.notify(StepBegan(step="images", artifact=images, settings={}))
        recorder.notify(RunFailed(interrupted=interrupted))
    assert [run.folder.name for run in records.every(store)] == ["ended"]
    assert records.folder(store).folder("ended").read(RECORD) == before
    assert not records.folder(store).folder("failed").exists()


def test_the_run_that_ended_last_of_those_that_made_the_step_is_found(store: Store) -> None:
    images = made(store, "images")
    maps = made(store, "cam", images=images)
    record(store, "b", {"images": images, "maps": maps})
    record(store, "a", {"images": images, "maps": maps})
    record(store, "c", {"images": images})
    assert [run.folder.name for run in records.every(store)] == ["c", "a", "b"]
    assert records.find(store, None, "maps").folder.name == "a"
    assert records.find(store, "b", "maps").folder.name == "b"
    assert records.find(store, None, "refined").folder.name == "c", "which says that it has not made it"


def test_runs_of_another_version_are_passed_over_with_a_line_and_refused_by_name(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    record(store, "now", {"images": made(store, "images")})
    for name, content in {"older": {"steps": {}}, "newer": {"format": records.FORMAT + 1}}.items():
        records.folder(store).folder(name).write(RECORD, json.dumps(content).encode())
    assert [run.folder.name for run in records.every(store)] == ["now"]
    assert "2 runs in" in capsys.readouterr().out
    for name in ("older", "newer"):
        with pytest.raises(RequestError, match=f"{name}/run.json: was written by an? {name} version of amn-ray"):
            records.named(store, [name])
    with pytest.raises(RequestError, match=r"run=nonesuch: not found in .*, which holds newer, now, older"):
        records.named(store, ["nonesuch"])


@dataclass(kw_only=True)
class Maps:
    scales: list[float]
    threshold: float = 0.5
    precision: str | None = None


def test_a_node_of_its_settings_is_a_dataclass_again(store: Store) -> None:
    record(store, "one", {})
    (run,) = records.every(store)
    assert run.node(Maps, "maps") == Maps(scales=[1.0], threshold=0.15)
