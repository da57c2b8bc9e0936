"""The pipeline across processes: resumed after SIGTERM, blind to ground truth, the same every time.

Two small pipelines run at once, as a user starts them. The first has its ground truth and its store on disk, and starts
a Ray of its own. The second has no ground truth, joins a Ray that is there, and its store is in an object store; it is
terminated in the middle of training before the command is given again. Both must end with the same tables.
"""

from __future__ import annotations

import json
import re
import signal
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image
from pyarrow.fs import FileSelector

from amn_ray.core.artifacts import MODEL, TABLE, Store
from amn_ray.core.settings import build
from amn_ray.platform.cluster import Cluster, ClusterConfig
from amn_ray.recipe.records import find
from amn_ray.stages.amn.config import AmnConfig, AmnMapsConfig
from amn_ray.stages.amn.stage import AMN, AMN_MAPS
from amn_ray.stages.score.stage import score_names
from amn_ray.stages.stage import Context
from amn_ray.testing import Recorded
from amn_ray.tuning.amn_probe import AmnProbe
from tests.conftest import SECRET
from tests.tiny import finish, kill_when, start, write_folder

TRAINED = {"loss", "images_per_second"}
MAPS = {"images_per_second", *score_names(of_maps=True)}
MASKS = {"images_per_second", *score_names(of_maps=False)}
METRICS = {
    "images": {"images"}, "truth": {"masks"}, "images_val": {"images"}, "truth_val": {"masks"},
    "classifier": TRAINED | {"mean_average_precision"}, "maps": MAPS, "refined": MASKS,
    "amn": TRAINED, "amn_maps": MAPS, "amn_refined": MASKS,
    "irn": TRAINED, "pseudo_masks": MASKS,
    "segmenter": TRAINED, "predictions": MASKS, "predictions_refined": MASKS,
}  # fmt: skip
"""The steps of the method, and what they report besides their seconds."""
BLIND_STEPS = ["images", "images_val", "classifier", "maps", "refined"]
"""Without ground truth, until the first seeds."""


@dataclass(frozen=True)
class Runs:
    """Two pipelines on the same images."""

    images: Path
    quiet: Store
    """On disk, left alone, with ground truth."""
    output: str
    """What the quiet run printed."""
    stopped: Store
    """In an object store, tracked by a server; without ground truth; terminated on its way."""
    server: str
    """The MLflow server of the stopped run."""
    terminated: str
    """What the stopped run printed when it was terminated."""
    state: set[str]
    """How MLflow called it and its step then."""


def manifests(store: Store) -> dict[str, dict[str, Any]]:
    return {str(path.parent): json.loads(path.read_text()) for path in Path(store.path).glob("*/*/manifest.json")}


def table(store: Store, step: str) -> dict[str, Any]:
    """The maps or masks of a step of the store's last run."""
    artifact = find(store, None, step).artifacts[step]
    return pq.read_table(artifact.at(TABLE), filesystem=store.fs).sort_by("image_id").to_pydict()


def is_there(store: Store, *path: str) -> bool:
    """Whether there is such a file or folder; * is any name."""
    first, *rest = path
    names = [entry.base_name for entry in store.entries()] if first == "*" else [first]
    if not rest:
        return any(store.exists(name) for name in names)
    return any(is_there(Store(store.fs, store.at(name)), *rest) for name in names)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster, bucket: str, mlflow_server: str) -> Runs:
    folder = tmp_path_factory.mktemp("pipelines")
    images = write_folder(folder / "with", masks=True)
    quiet = start(images, folder / "quiet")

    blind = write_folder(folder / "without", masks=False)
    url = f"{bucket}/stopped"
    stopped = Store.open(url)
    address = ray.get_runtime_context().gcs_address
    uri = mlflow_server.replace("://", f"://tests:{SECRET}@")
    command = [url, "until=refined", f"tracking.uri={uri}", "tracking.experiment=stopped"]
    # In the middle of training: one epoch's checkpoint is there, the weights are not.
    ready = partial(is_there, stopped, "classifier", "*", "train", "*", "progress.json")
    terminated = kill_when(start(blind, *command, address=address), ready, signal.SIGTERM)
    assert not is_there(stopped, "classifier", "*", MODEL)
    found = {run.info.run_name: run.info.status for run in tracked(mlflow_server, "stopped")}
    finish(start(blind, *command, address=address))
    return Runs(
        images, Store.open(str(folder / "quiet")), finish(quiet), stopped, mlflow_server, terminated,
        {found["pipeline folder"], found["classifier"]},
    )  # fmt: skip


def tracked(uri: str, experiment: str) -> list[Run]:
    """All MLflow runs of an experiment."""
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id]))


def test_a_run_in_an_object_store_terminated_and_without_ground_truth_ends_with_the_same_tables(
    runs: Runs,
) -> None:
    for step in ("maps", "refined"):
        first, second = table(runs.quiet, step), table(runs.stopped, step)
        assert len(set(first["image_id"])) == len(first["image_id"]) == 24
        assert first == second


def test_amn_without_ground_truth_makes_the_same_maps_while_a_probe_with_it_looks_on(
    runs: Runs, cluster: Cluster, tmp_path: Path
) -> None:
    blind, known = find(runs.stopped, None, "refined").artifacts, find(runs.quiet, None, "amn_maps").artifacts
    assert "truth" not in blind
    config = build(AmnConfig, known["amn"].manifest()["config"])
    maps_config = build(AmnMapsConfig, known["amn_maps"].manifest()["config"])
    seen = tmp_path / "seen"
    probe = AmnProbe(maps_config, known["images"], known["truth"], known["refined"], known["truth"].table().ids()[:6])
    cluster = Cluster(ClusterConfig(worker_cpus=1))  # as in tiny.SETTINGS: another number of threads, another last bit
    store = Store.open(str(tmp_path))
    weights, maps = (store.artifact(name, 1, {}, {}) for name in ("amn", "amn_maps"))
    inputs = {"images": blind["images"], "refined": blind["refined"]}
    result = AMN.run(config, inputs, weights, Context(cluster=cluster, probe=Recorded(probe, str(seen))))
    weights.commit(config=config, inputs=inputs, code={}, seconds=0, result=result)
    AMN_MAPS.run(maps_config, {**inputs, "amn": weights}, maps, Context(cluster=cluster))
    assert pq.read_table(maps.at(TABLE)).sort_by("image_id").to_pydict() == table(runs.quiet, "amn_maps")
    assert len(seen.read_text().split()) == config.epochs, "each epoch was probed"


def test_terminated_as_by_ray_job_stop_a_run_says_so_and_is_killed_in_mlflow(runs: Runs) -> None:
    assert runs.terminated.rstrip().endswith("error: terminated; run the same command again to resume")
    assert runs.state == {"KILLED"}


def test_no_credential_of_the_store_is_printed_recorded_or_tracked(runs: Runs) -> None:
    names = [runs.stopped.fs.get_file_info(FileSelector(runs.stopped.path, recursive=True))]
    texts = [info.path for info in names[0] if info.path.endswith((".json", ".csv"))]
    assert len(texts) > 5
    told = [runs.stopped.fs.open_input_stream(path).read().decode() for path in texts]
    told += [str(run.to_dictionary()) for run in tracked(runs.server, "stopped")]
    assert not [text for text in [*told, runs.terminated] if SECRET in text]


def test_the_same_command_again_makes_nothing_anew_also_if_the_store_is_named_in_another_way(runs: Runs) -> None:
    before = manifests(runs.quiet)
    root = Path(runs.quiet.path)
    stamps = {path: path.stat().st_mtime_ns for path in root.glob("*/*/manifest.json")}
    (root.parent / "elsewhere").mkdir()
    output = finish(start(runs.images, root.parent / "elsewhere" / ".." / root.name))
    assert manifests(runs.quiet) == before
    assert {path: path.stat().st_mtime_ns for path in root.glob("*/*/manifest.json")} == stamps
    assert " exists (" in output
    assert "→" not in output


def test_the_summary_names_every_step_and_its_metrics(runs: Runs) -> None:
    (path,) = Path(runs.quiet.path).glob("runs/*/summary.json")
    summary = json.loads(path.read_text())
    assert str(path) in runs.output
    finals = {"final_maps": "amn_maps", "final_refined": "amn_refined"}
    assert list(summary) == [*METRICS, *finals]
    for step, metrics in METRICS.items():
        assert summary[step].keys() == {*metrics, "seconds"}, step
    assert all(summary[name] == summary[step] for name, step in finals.items())
    figures = {figure.name for figure in path.parent.glob("figures/*.png")}
    assert figures == {
        "miou_by_threshold.png", "best_threshold.png", "class_iou.png", "confusion.png", "examples.png",
        "predictions.png",
    }  # fmt: skip
    for figure in path.parent.glob("figures/*.png"):
        with Image.open(figure) as picture:
            assert np.asarray(picture.convert("L")).std() > 5, f"{figure} is blank"


def test_what_a_job_prints_has_no_control_characters_where_it_is_no_terminal(runs: Runs) -> None:
    assert not re.findall(r"[\x00-\x08\x0b-\x1f\x7f]", runs.output)


def test_mlflow_holds_one_parent_and_a_child_per_step(runs: Runs) -> None:
    database = f"sqlite:///{runs.quiet.path}/mlflow.db"
    for uri, experiment in ((database, "folder"), (runs.server, "stopped")):
        client, found = MlflowClient(uri), tracked(uri, experiment)
        parents = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
        assert len(parents) == 1, "a resumed pipeline continues its own run"
        names = sorted(run.info.run_name for run in found if run.data.tags.get("mlflow.parentRunId"))
        assert names == sorted(METRICS if uri == database else BLIND_STEPS)
        assert {run.info.status for run in found} == {"FINISHED"}
        children = {run.info.run_name: run for run in found}
        history = client.get_metric_history(children["classifier"].info.run_id, "classifier/loss_curve")
        assert sorted(point.step for point in history) == [1, 2, 3, 4, 5, 6]
        assert parents[0].data.params["classifier.epochs"] == "2"
        assert children["classifier"].data.params["epochs"] == "2"
        assert {"dataset", "git_commit", "fingerprint"} <= parents[0].data.tags.keys()
        if uri == database:
            assert "model_uri" in children["segmenter"].data.tags
        assert parents[0].data.metrics["system/system_memory_usage_megabytes"] > 0
    scored = {name: run for name, run in children.items() if any(key.endswith("miou") for key in run.data.metrics)}
    assert not scored, "without ground truth nothing is scored"


def test_the_val_split_is_what_the_segmentation_network_is_judged_on(runs: Runs) -> None:
    for step in ("predictions", "predictions_refined"):
        ids = table(runs.quiet, step)["image_id"]
        assert len(ids) == 6
        assert all(image_id.startswith("val") for image_id in ids)
    assert len(table(runs.quiet, "pseudo_masks")["image_id"]) == 24
