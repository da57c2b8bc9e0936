"""The pipeline across processes: resumed after kill -9, blind to ground truth, the same every time.

Two small pipelines run as a user starts them. The first keeps its ground truth. The second has none, and its driver is
killed in the middle of training before the command is given again. Both must end with the same tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from PIL import Image

from amn_ray.artifacts import Artifact, Store
from amn_ray.cluster import Cluster
from amn_ray.nn.config import BackboneConfig
from amn_ray.pipeline import METRICS
from amn_ray.runs import find
from amn_ray.stages.amn import stage as amn
from amn_ray.stages.amn.config import AmnConfig
from amn_ray.testing import Recorded
from amn_ray.tuning.probe import AmnProbe
from tests.tiny import finish, kill_when, start, write_folder


def manifests(store: Path) -> dict[str, dict[str, Any]]:
    return {str(path.parent): json.loads(path.read_text()) for path in store.glob("*/*/manifest.json")}


def runs_of(store: Path) -> Mapping[str, Artifact]:
    """What each step of the store's last run made."""
    return find(Store.open(str(store)), None, "seed").artifacts


def table(store: Path, step: str) -> dict[str, Any]:
    """The maps or masks of a step."""
    artifact = runs_of(store)[step]
    (folder,) = (artifact.at(name) for name in ("maps", "masks") if artifact.exists(name))
    return pq.read_table(folder).sort_by("image_id").to_pydict()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """(store of the quiet run, store of the killed run without masks, output of the quiet run)."""
    folder = tmp_path_factory.mktemp("pipelines")
    quiet, killed = folder / "quiet", folder / "killed"
    output = finish(start(write_folder(folder / "with", masks=True), quiet))

    blind = write_folder(folder / "without", masks=False)
    # In the middle of training: one epoch's checkpoint is there, the weights are not.
    first = start(blind, killed, "until=seed")
    kill_when(first, lambda: any(killed.glob("cam/*/train/checkpoint_*/progress.json")))
    assert not list(killed.glob("cam/*/model.safetensors"))
    finish(start(blind, killed, "until=seed"))
    return quiet, killed, output


def test_a_killed_run_without_ground_truth_ends_with_the_same_tables(runs: tuple[Path, Path, str]) -> None:
    quiet, killed, _ = runs
    for step in ("cam", "seed"):
        first, second = table(quiet, step), table(killed, step)
        assert len(set(first["image_id"])) == len(first["image_id"]) == 24
        assert first == second


def test_amn_without_ground_truth_makes_the_same_maps_while_a_probe_with_it_looks_on(
    runs: tuple[Path, Path, str], cluster: Cluster, tmp_path: Path
) -> None:
    quiet, killed, _ = runs
    found = runs_of(killed)
    store = Store.open(str(tmp_path))
    output = store.artifact("amn", 1, {}, {})
    settings = next(iter(m for m in manifests(quiet).values() if m["stage"] == "amn"))["config"]
    backbone = BackboneConfig(**settings.pop("backbone"))
    config = AmnConfig(backbone=backbone, **settings)
    known = runs_of(quiet)
    ids = [name for name, mask in known["images"].table("rows").column("mask").items() if mask is not None][:6]
    seen = tmp_path / "seen"
    amn.run(
        config,
        {"images": found["images"], "seeds": found["seed"]},
        output,
        cluster,
        probe=Recorded(AmnProbe(config, known["images"], known["seed"], ids), str(seen)),
    )
    assert pq.read_table(output.at("maps")).sort_by("image_id").to_pydict() == table(quiet, "amn")
    assert len(seen.read_text().split()) == config.epochs, "each epoch was probed"


def test_the_same_command_again_makes_nothing_anew(runs: tuple[Path, Path, str]) -> None:
    quiet, _, _ = runs
    before = manifests(quiet)
    stamps = {path: path.stat().st_mtime_ns for path in quiet.glob("*/*/manifest.json")}
    output = finish(start(quiet.parent / "with", quiet))
    assert manifests(quiet) == before
    assert {path: path.stat().st_mtime_ns for path in quiet.glob("*/*/manifest.json")} == stamps
    assert "is there already" in output
    assert "→" not in output


def test_a_store_named_in_another_way_is_the_same_store(runs: tuple[Path, Path, str]) -> None:
    _, killed, _ = runs
    other = killed.parent / "elsewhere" / ".." / killed.name
    (killed.parent / "elsewhere").mkdir()
    output = finish(start(killed.parent / "without", other, "until=seed"))
    assert "→" not in output


def test_the_summary_names_every_step_and_its_metrics(runs: tuple[Path, Path, str]) -> None:
    quiet, _, output = runs
    (path,) = quiet.glob("runs/*/summary.json")
    summary = json.loads(path.read_text())
    assert str(path) in output
    for step, metrics in METRICS.items():
        assert summary[step].keys() == {*metrics, "seconds"}, step
    figures = {figure.name for figure in path.parent.glob("figures/*.png")}
    assert figures == {
        "miou_by_threshold.png", "best_threshold.png", "class_iou.png", "confusion.png", "examples.png",
        "predictions.png",
    }  # fmt: skip
    for figure in path.parent.glob("figures/*.png"):
        with Image.open(figure) as picture:
            assert np.asarray(picture.convert("L")).std() > 5, f"{figure} is blank"


def test_mlflow_holds_one_parent_and_a_child_per_step(runs: tuple[Path, Path, str]) -> None:
    quiet, killed, _ = runs
    for store in (quiet, killed):
        client = MlflowClient(f"sqlite:///{store}/mlflow.db")
        experiment = client.get_experiment_by_name("folder")
        assert experiment is not None
        found = client.search_runs([experiment.experiment_id])
        parents = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
        assert len(parents) == 1, "a resumed pipeline continues its own run"
        names = sorted(run.info.run_name for run in found if run.data.tags.get("mlflow.parentRunId"))
        steps = ["images", "images_val", "cam", "seed"]
        assert names == sorted(
            [*steps, "amn", "amn_seed", "irn", "deeplab", "deeplab_crf"] if store == quiet else steps
        )
        assert {run.info.status for run in found} == {"FINISHED"}
        children = {run.info.run_name: run for run in found}
        history = client.get_metric_history(children["cam"].info.run_id, "cam/loss_curve")
        assert sorted(point.step for point in history) == [1, 2, 3, 4, 5, 6]
        assert parents[0].data.params["cam.epochs"] == "2"
        assert children["cam"].data.params["epochs"] == "2"
        assert {"dataset", "git_commit", "fingerprint"} <= parents[0].data.tags.keys()
        if store == quiet:
            assert "model_uri" in children["deeplab"].data.tags
    scored = {name: run for name, run in children.items() if any(key.endswith("miou") for key in run.data.metrics)}
    assert not scored, "without ground truth nothing is scored"


def test_the_val_split_is_what_the_segmentation_network_is_judged_on(runs: tuple[Path, Path, str]) -> None:
    quiet, _, _ = runs
    for step in ("deeplab", "deeplab_crf"):
        ids = table(quiet, step)["image_id"]
        assert len(ids) == 6
        assert all(image_id.startswith("val") for image_id in ids)
    assert len(table(quiet, "irn")["image_id"]) == 24
