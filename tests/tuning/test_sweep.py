"""Studies across processes, as a user starts them: shared work, kills, early stops, failures.

The maps are given ones, so that only the trials that train start processes with PyTorch.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import ray
import yaml
from mlflow import MlflowClient
from pyarrow.fs import LocalFileSystem
from ray.util import placement_group_table

from amn_ray.core.folders import Folder
from amn_ray.platform.cluster import Cluster
from amn_ray.tuning import sweep
from amn_ray.tuning.records import Records
from tests.conftest import encode, noise
from tests.tiny import SETTINGS, finish, kill_when, start

Job = Callable[..., tuple[int, str]]
STUDIES = {
    "thresholds": {
        "metric": "refined/selection_miou",
        "columns": ["refined/report_miou"],
        "space": {"refined.conf_fg": [0.2, 0.4], "refined.conf_bg": [0.05]},
    },
    "others": {"metric": "refined/selection_miou", "space": {"refined.conf_fg": [0.3]}},
    "contradictions": {
        "metric": "refined/selection_miou",
        "search": "optuna",
        "num_trials": 3,
        "space": {"refined.conf_fg": [0.1, 0.5], "refined.conf_bg": {"uniform": [0.01, 0.5]}},
    },
    "rates": {
        "metric": "amn_maps/selection_miou",
        "columns": ["amn_maps/report_miou"],
        "search": "optuna",
        "num_trials": 2,
        "space": {"amn.lr_head": {"log_uniform": [1e-4, 1e-1]}},
        "asha": {"grace": 1, "reduction": 2},
    },
}


def write_halves(root: Path) -> Path:
    """16 images that are full of two classes: whichever way a network sees them, its mIoU is a number of its own.

    With maps of both.
    """
    for folder in ("images", "masks", "maps"):
        (root / folder).mkdir(parents=True)
    mask = np.ones((48, 64), np.uint8)
    mask[:, 32:], mask[:2] = 2, 0
    for number in range(16):
        image = noise(48, 64, number) // 2
        image[:, :32, 0] += 100
        (root / "images" / f"{number}.png").write_bytes(encode(image))
        (root / "masks" / f"{number}.png").write_bytes(encode(mask))
        cam = (
            np.stack([mask == label for label in (1, 2)])[:, ::4, ::4] * np.float32(0.7)
            + noise(12, 16, number)[..., 0] / 900
        )
        np.save(root / "maps" / f"{number}.npy", {"keys": np.arange(2), "cam": cam.astype(np.float32)})  # type: ignore[arg-type]
    (root / "labels.csv").write_text("image,labels\n" + "".join(f"{number}.png,left;right\n" for number in range(16)))
    return root


class Studies:
    """A store, and studies of one small data set, on the Ray of all tests."""

    def __init__(self, folder: Path, images: Path) -> None:
        self.address = ray.get_runtime_context().gcs_address
        self.store = folder / "store"
        self.images = images
        self.maps = ["maps=given", f"maps.files={images}/maps"]
        self.configs = folder / "mine"
        (self.configs / "study").mkdir(parents=True)
        for name, settings in STUDIES.items():
            content = yaml.safe_dump({"study": {"name": name, **settings}}, sort_keys=False)
            (self.configs / "study" / f"{name}.yaml").write_text("# @package _global_\n" + content)

    def start(self, name: str, *overrides: str):
        until = "until=amn_maps" if name == "rates" else "until=refined"
        flag = f"--config-dir={self.configs}"  # after the settings: Hydra's parser wants these in one piece
        settings = [f"study={name}", until, *self.maps, *overrides, flag]
        return start(self.images, self.store, *settings, job="sweep", address=self.address)

    def run(self, job: Job, name: str, *overrides: str) -> tuple[int, str]:
        """The same in this process, on the Ray of all tests: (exit code, standard error)."""
        until = "until=amn_maps" if name == "rates" else "until=refined"
        settings = [f"dataset.root={self.images}", f"store={self.store}", *SETTINGS, until, f"study={name}"]
        return job("sweep", *settings, *self.maps, *overrides, f"--config-dir={self.configs}")

    def started(self, name: str) -> dict[str, float]:
        """When each trial began last."""
        (folder,) = self.store.glob(f"studies/{name}-*")
        return {
            record.trial.label: record.started
            for record in Records(Folder(LocalFileSystem(), str(folder / "trials"))).all()
        }

    def trials(self, name: str) -> pd.DataFrame:
        (folder,) = self.store.glob(f"studies/{name}-*")
        trials = pd.read_csv(folder / "trials.csv")
        assert pd.read_parquet(folder / "trials.parquet")["trial"].tolist() == trials["trial"].tolist()
        return trials.set_index("trial")

    def records(self) -> dict[str, int]:
        """When each run ended last."""
        return {path.parent.name: path.stat().st_mtime_ns for path in self.store.glob("runs/*/run.json")}


@pytest.fixture(scope="module")
def killed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Studies, dict[str, int], str, str, str]:
    """Two studies start at once on one cluster; one is killed after its first trial and started again.

    (studies, runs that had ended at the kill, outputs of the study that went on, before the kill and after it)
    """
    folder = tmp_path_factory.mktemp("studies")
    studies = Studies(folder, write_halves(folder / "images"))
    first, other = studies.start("thresholds"), studies.start("others")
    kill_when(first, lambda: len(studies.records()) >= 1)
    before = studies.records()
    quiet = finish(other)
    interrupted = first.communicate()[0]
    return studies, before, quiet, interrupted, finish(studies.start("thresholds"))


def test_each_shared_artifact_is_made_once(killed: tuple[Studies, dict[str, int], str, str, str]) -> None:
    studies, _, *outputs = killed
    for stage in ("images", "truth", "given_maps"):
        folders = {path.parent.name for path in studies.store.glob(f"{stage}/*/manifest.json")}
        made = re.findall(rf"→ {stage}/(\w+)", "".join(outputs))
        assert set(made) == folders
        # The killed study may have been the builder: then another one took over what it left.
        assert all(made.count(folder) <= 2 for folder in folders)
    assert len(list(studies.store.glob("given_maps/*"))) == 1
    assert not list(studies.store.glob("claims/*"))


def test_a_killed_study_goes_on_and_finished_trials_are_not_repeated(
    killed: tuple[Studies, dict[str, int], str, str, str],
) -> None:
    studies, before, _, _, after = killed
    trials = studies.trials("thresholds")
    assert trials["state"].tolist() == ["finished"] * 2
    assert set(trials["run"]) >= before.keys() & set(trials["run"])
    assert set(re.findall(r"trial  (.*) starts", after)) <= set(trials.index)
    again = finish(studies.start("thresholds"))
    assert not re.findall(r"trial  (.*) starts", again), "a finished study starts nothing"
    assert studies.trials("thresholds").equals(trials)


def test_the_table_of_a_study_holds_its_trials_metrics(killed: tuple[Studies, dict[str, int], str, str, str]) -> None:
    studies, *_ = killed
    trials = studies.trials("thresholds")
    for _, trial in trials.iterrows():
        summary = json.loads((studies.store / "runs" / trial["run"] / "summary.json").read_text())
        assert trial["objective"] == summary["refined"]["selection_miou"]
        assert trial["refined/report_miou"] == summary["refined"]["report_miou"]
    (folder,) = studies.store.glob("studies/thresholds-*")
    settings = pd.read_csv(folder / "settings.csv")
    assert settings["refined/selection_miou"].is_monotonic_decreasing
    assert set(settings["setting"]) == {trial.removesuffix(" seed=0") for trial in trials.index}
    assert (folder / "study.png").stat().st_size > 5000
    assert not list(folder.glob("**/*.pkl")), "nothing of Ray's is pickled there, with the secrets of its URLs"


def test_mlflow_holds_a_parent_per_study_and_a_child_per_trial(
    killed: tuple[Studies, dict[str, int], str, str, str],
) -> None:
    studies, *_ = killed
    client = MlflowClient(f"sqlite:///{studies.store}/mlflow.db")
    found = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    parents = {run.info.run_name: run for run in found if "mlflow.parentRunId" not in run.data.tags}
    assert {"study thresholds", "study others"} <= parents.keys()
    study = parents["study thresholds"]
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == study.info.run_id]
    assert {run.info.run_name for run in children} == set(studies.trials("thresholds").index)
    assert {run.info.status for run in [study, *children]} == {"FINISHED"}
    for run in children:
        assert run.info.run_name == f"refined.conf_fg={run.data.params['refined.conf_fg']} refined.conf_bg=0.05 seed=0"
        assert "refined/selection_miou" in run.data.metrics
        assert len(client.get_metric_history(run.info.run_id, "maps/miou_by_tau")) >= 101
    names = {item.path for item in client.list_artifacts(study.info.run_id)}
    assert {"trials.csv", "trials.parquet", "settings.csv", "settings.parquet", "study.png"} <= names


def test_trials_that_fail_are_listed_and_run_again_only_on_request(
    killed: tuple[Studies, dict[str, int], str, str, str], job: Job, cluster: Cluster
) -> None:
    studies, *_ = killed
    code, told = studies.run(job, "contradictions")
    trials = studies.trials("contradictions")
    failed = trials[trials["state"] == "failed"]
    assert code == 1
    assert 1 <= len(failed) < 3, "the seed draws good and bad ones"
    assert failed["error"].str.contains("must not be above conf_fg=0.1").all()
    assert f"error: {len(failed)} of 3 trials failed" in told
    assert "retry_failed=true" in told

    before = studies.started("contradictions")
    code, again = studies.run(job, "contradictions")
    assert (code, again.splitlines()[-1]) == (1, told.splitlines()[-1])
    assert studies.started("contradictions") == before, "nothing is run again"
    assert studies.run(job, "contradictions", "retry_failed=true")[0] == 1
    after = studies.started("contradictions")
    assert {label for label in before if after[label] != before[label]} == set(failed.index)


def test_asha_stops_trials_early_and_leaves_nothing_running(
    killed: tuple[Studies, dict[str, int], str, str, str], job: Job, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(sweep, "log", lambda step, text: lines.append(text))
    studies, *_ = killed
    code, told = studies.run(job, "rates")
    assert code == 0, told
    trials = studies.trials("rates")
    stopped = trials[trials["state"] == "stopped"]
    assert set(trials["state"]) == {"finished", "stopped"}
    reports = [re.fullmatch(r"(.*): epoch (\d+), mIoU (.*)", line) for line in lines]
    for _, trial in stopped.iterrows():
        epoch = str(int(trial["stopped_after_epoch"]))
        rivals = [float(report[3]) for report in reports if report is not None and report[2] == epoch]
        assert round(trial["objective"], 4) < max(rivals)
    client = MlflowClient(f"sqlite:///{studies.store}/mlflow.db")
    found = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert not [run.info.run_name for run in found if run.info.status == "RUNNING"]
    by_name = {run.info.run_name: run for run in found}
    for label in stopped.index:
        assert by_name[label].info.status == "KILLED"
        assert by_name[label].data.tags["stopped"] == "true"

    deadline = time.monotonic() + 90  # Ray's cleaner looks every few seconds
    while ray.available_resources()["CPU"] < ray.cluster_resources()["CPU"] and time.monotonic() < deadline:
        time.sleep(0.5)
    assert ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"]
    assert not [group for group in placement_group_table().values() if group["state"] != "REMOVED"]


def test_more_trials_at_once_than_the_cluster_holds_are_refused(job: Job, cluster: Cluster, tmp_path: Path) -> None:
    code, error = job("sweep", "study=lc_placement", f"store={tmp_path}", "cluster.trials_at_once=64")
    assert code == 2
    assert "cluster.trials_at_once=64" in error
    assert "core(s)" in error
