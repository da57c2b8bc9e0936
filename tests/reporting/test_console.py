"""What a person at the terminal reads of a run, told by hand what happens in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.train import UserCallback

from amn_ray.core.artifacts import Artifact, Store
from amn_ray.core.events import (
    Event,
    RunBegan,
    RunEnded,
    RunFailed,
    Scored,
    StepBegan,
    StepEnded,
    StepIsMade,
    StepWaits,
    Warned,
)  # fmt: skip
from amn_ray.reporting.console import Console, summary_table, where_to_look


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return Store.open(str(tmp_path)).artifact("cam", 1, {}, {})


def told(capsys: pytest.CaptureFixture[str], *events: Event) -> list[str]:
    """The lines that these events make."""
    observer = Console()
    for event in events:
        observer.notify(event)
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_a_step_that_is_made_is_told_with_its_place_its_warnings_and_its_scores(
    artifact: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"cam/{artifact.fingerprint}"
    metrics = {"miou": 0.4567, "best_miou": 0.5, "best_tau": 0.25}
    lines = told(
        capsys,
        RunBegan(settings={}),
        StepBegan(step="maps", artifact=artifact, settings={}),
        StepWaits(step="maps", artifact=artifact),
        StepIsMade(step="maps", artifact=artifact),
        Warned(step="maps", sentence="memory [is] :scarce:"),
        StepEnded(step="maps", artifact=artifact, reused=False, manifest={}),
        Scored(step="maps", artifact=artifact, manifest={"metrics": metrics}),
        Scored(step="refined", artifact=artifact, manifest={"metrics": {"miou": 0.5, "undefined": 0.1}}),
        Scored(step="classifier", artifact=artifact, manifest={"metrics": {"mean_average_precision": 0.5}}),
        Scored(step="amn_maps", artifact=artifact, manifest={"metrics": {}}),
        RunEnded(artifacts={}, scores={}, manifests={}, summary={}),
    )
    assert lines == [
        f"maps waiting for another run to finish {place}",
        f"maps → {place}",
        "maps warning: memory [is] :scarce:",
        "maps mIoU 45.7, best 50.0 at τ = 0.25",
        "refined mIoU 50.0",
        "classifier mean average precision of the val labels 50.0",
    ]


def test_a_step_that_is_there_is_told_also_where_other_code_made_it(
    artifact: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"cam/{artifact.fingerprint}"
    ended = [
        StepEnded(step="maps", artifact=artifact, reused=True, manifest={}, other_code=modules)
        for modules in ([], ["amn_ray.nn.resnet"], ["a", "b", "c", "d"])
    ]
    assert told(capsys, *ended) == [
        f"maps exists ({place})",
        f"maps exists ({place}), made by other code (amn_ray.nn.resnet); set rebuild=[maps] to rebuild it",
        f"maps exists ({place}), made by other code (a, b, c, …); set rebuild=[maps] to rebuild it",
    ]


@pytest.mark.parametrize("interrupted", [True, False])
def test_a_run_that_fails_leaves_the_words_to_the_error(interrupted: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, RunFailed(interrupted=interrupted)) == []


def test_epochs_are_told_under_the_name_of_their_step(capsys: pytest.CaptureFixture[str]) -> None:
    (callback,) = Console().callbacks("segmenter")
    assert isinstance(callback, UserCallback)
    report = {"epoch": 2, "epochs": 5, "loss": 0.25, "images_per_second": 10.0, "seconds": 4.0}
    callback.after_report(None, [report], None)  # type: ignore[arg-type]
    assert " ".join(capsys.readouterr().out.split()) == "segmenter epoch 2/5 loss 0.2500 10.0 images/s"


def test_the_summary_shows_the_steps_that_have_a_metric_once(capsys: pytest.CaptureFixture[str]) -> None:
    maps = {"miou": 0.456, "best_tau": 0.25}
    summary_table(
        {
            "maps": maps,
            "pseudo_masks": {},
            "classifier": {"mean_average_precision": 0.75, "loss": 1.5, "seconds": 12.4},
            "final_maps": dict(maps),
        }
    )
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert [row for row in rows if row] == [
        ["maps", "45.6", "–", "0.25", "–", "–", "–", "–", "–"],
        ["classifier", "–", "–", "–", "–", "75.0", "1.5000", "–", "12"],
    ]


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:///a b/mlflow.db", "mlflow ui --backend-store-uri 'sqlite:///a b/mlflow.db'"),
        ("https://me:SECRET@host:5000", "https://***@host:5000"),
    ],
)
def test_the_end_says_how_to_compare_runs_also_without_a_checkout(
    capsys: pytest.CaptureFixture[str], uri: str, shown: str
) -> None:
    where_to_look("summary.json", "figures", uri)
    printed = capsys.readouterr().out
    assert shown in printed
    assert "SECRET" not in printed
