"""Kill everything that can be killed, on a cluster: `python -m tests.faults.on_a_cluster FOLDER [NAME…]`.

Half an hour for all: "CAM training", "CAM maps", "CRF", "walk", "job stop", "late node", "disk full".

The cluster is a head without CPUs and two nodes, each started with `ray start` on this machine, with token
authentication. For each stage the pipeline is given again with that stage missing; something is killed when the stage
is half done. The table must be that of a run left alone; what is printed is how much work was done twice and how much
longer it took.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow import MlflowClient
from safetensors.numpy import load_file, save_file

from tests.conftest import serving_mlflow
from tests.nodes import RAY, Nodes
from tests.platform.test_tracking import Gate

ROOT = Path(__file__).parent.parent.parent
SETTINGS = [
    "dataset.num_train=128", "dataset.num_val=8", "dataset.rows_per_shard=8", "precision=fp32",
    "cam.epochs=4", "cam.scales=[1.0,1.5,2.0]", "amn.epochs=1", "irn.epochs=1",
]  # fmt: skip


def fill(nodes: Nodes) -> None:
    """Two nodes beside the head, whatever was killed."""
    while len(nodes.others) < 2:
        nodes.add(num_cpus=1)


@dataclass(frozen=True)
class Stage:
    """A part of a stage that can be interrupted."""

    name: str
    step: str
    folder: str
    """Its stage in the store."""
    table: str
    training: bool
    actor: str
    """The title of the processes that do the work."""

    def half_done(self, store: Path, rows: int) -> bool:
        """Whether two epochs, or half of the rows, are there."""
        for place in store.glob(f"{self.folder}/*"):
            if (place / "manifest.json").exists():
                continue
            if self.training:
                return len(self.epochs(place)) >= 1 and self.progress(place) >= 2
            return written(place / self.table) >= rows / 2
        return False

    def epochs(self, place: Path) -> list[Path]:
        return list(place.glob("train/checkpoint_*/progress.json"))

    def progress(self, place: Path) -> int:
        try:
            return max((json.loads(path.read_text())["epoch"] for path in self.epochs(place)), default=0)
        except (OSError, ValueError):
            return 0


STAGES = [
    Stage("CAM training", "cam", "cam", "maps", True, "RayTrainWorker"),
    Stage("CAM maps", "cam", "cam", "maps", False, "MapWorker"),
    Stage("CRF", "seed", "crf", "masks", False, "MapWorker"),
    Stage("walk", "irn", "irn", "masks", False, "MapWorker"),
]


def written(table: Path) -> int:
    """Rows of the finished shards."""
    total = 0
    for path in table.glob("*.parquet"):
        try:
            total += pq.ParquetFile(path).metadata.num_rows
        except (OSError, pa.ArrowInvalid):
            continue
    return total


def pipeline(store: Path, uri: str, until: str, log: Path) -> subprocess.Popen[bytes]:
    """The job, on the cluster."""
    command = [sys.executable, "jobs/pipeline.py", f"store={store}", f"until={until}", f"tracking.uri={uri}", *SETTINGS]
    with log.open("ab") as stream:
        return subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream)


def finish(process: subprocess.Popen[bytes], log: Path) -> None:
    assert process.wait(timeout=900) == 0, log.read_text()[-3000:]


def table_of(store: Path, stage: Stage) -> pa.Table:
    """The table of the stage's artifact."""
    (place,) = (
        manifest.parent
        for manifest in store.glob(f"{stage.folder}/*/manifest.json")
        if stage.folder != "crf" or is_first_crf(json.loads(manifest.read_text()), store)
    )
    read = pq.read_table(place / stage.table, partitioning=None).sort_by("image_id")
    ids = read.column("image_id").to_pylist()
    assert len(ids) == len(set(ids)), "a row twice"
    return read


def without(quiet: Path, store: Path, stage: Stage) -> None:
    """A copy of the quiet store in which the stage has still to be done."""
    shutil.copytree(quiet, store)
    for manifest in store.glob("*/*/manifest.json"):
        content = json.loads(manifest.read_text())
        if content["stage"] == stage.folder and (stage.folder != "crf" or is_first_crf(content, store)):
            if stage.training or stage.folder != "cam":
                shutil.rmtree(manifest.parent)
                continue
            manifest.unlink()  # CAM's maps: the network is there
            shutil.rmtree(manifest.parent / stage.table)
    if stage.name == "walk":
        trained = next(iter(quiet.glob("irn/*")))
        shutil.copytree(trained, store / "irn" / trained.name)
        (store / "irn" / trained.name / "manifest.json").unlink()
        shutil.rmtree(store / "irn" / trained.name / stage.table)
        network = store / "irn" / trained.name / "model.safetensors"
        state = load_file(network)
        state["displacement_mean"][:] = 0  # it was measured by the walk that is to be done
        save_file(state, network)


def is_first_crf(content: dict, store: Path) -> bool:
    return (store / "cam" / content["inputs"]["maps"]).exists()


def case(
    nodes: Nodes, quiet: Path, folder: Path, stage: Stage, fault: str, strike: Callable[[], None] | None, uri: str
) -> float:
    """Run the stage, strike when it is half done, compare; returns the seconds of the whole job."""
    fill(nodes)
    store, log = folder / fault.replace(" ", "-") / stage.name.replace(" ", "-"), folder / "log.txt"
    without(quiet, store, stage)
    rows = table_of(quiet, stage).num_rows
    started = time.monotonic()
    process = pipeline(store, uri, stage.step, log)
    before: dict[str, int] = {}
    if strike is not None:
        while not stage.half_done(store, rows):
            assert process.poll() is None, log.read_text()[-3000:]
            time.sleep(0.05)
        place = next(place for place in store.glob(f"{stage.folder}/*") if not (place / "manifest.json").exists())
        # Whether the newest one is finished may not have been told to anybody yet; then it is part of what is lost.
        told = time.time_ns() - 10**9
        stamps = {path.name: path.stat().st_mtime_ns for path in (place / stage.table).glob("*.parquet")}
        before = {name: stamp for name, stamp in stamps.items() if stamp < told}
        strike()
    finish(process, log)
    seconds = time.monotonic() - started
    assert table_of(store, stage) == table_of(quiet, stage), f"{fault} in {stage.name}: another table"
    after = {path.name: path.stat().st_mtime_ns for path in store.glob(f"{stage.folder}/*/{stage.table}/*.parquet")}
    assert before.items() <= after.items(), "a finished shard was made again"
    shutil.rmtree(store)
    return seconds


def away_for_a_minute(gate: Gate) -> None:
    """Nobody listens at MLflow's address for 60 seconds."""
    gate.shut()
    threading.Timer(60, gate.open).start()


def unfinished(uri: str) -> dict[str, str]:
    """The runs that MLflow does not call FINISHED, and what it calls them."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("shapes")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    return {run.info.run_name: run.info.status for run in found if run.info.status != "FINISHED"}


def stopped_job(nodes: Nodes, quiet: Path, folder: Path, uri: str) -> None:
    """`ray job stop` in the middle of training; the same command goes on."""
    fill(nodes)
    stage, store = STAGES[0], folder / "stopped"
    without(quiet, store, stage)
    name = f"stop-{time.time_ns()}"
    address = ["--address", f"http://127.0.0.1:{nodes.dashboard}"]
    # No --working-dir: nodes of one machine share Ray's folder, and unpack it there under each other's feet.
    script = str(ROOT / "jobs" / "pipeline.py")
    job = [sys.executable, script, f"store={store}", "until=cam", f"tracking.uri={uri}", *SETTINGS]
    submit = [RAY, "job", "submit", *address]
    first = [*submit, "--no-wait", "--submission-id", name, "--", *job]
    subprocess.run(first, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not stage.half_done(store, 0):
        assert time.monotonic() < deadline, "the submitted job does not train"
        time.sleep(0.1)
    assert nodes.workers("RayTrainWorker")
    subprocess.run([RAY, "job", "stop", *address, name], check=True, stdout=subprocess.DEVNULL)
    assert unfinished(uri) == {"pipeline shapes": "KILLED", "cam": "KILLED"}
    deadline = time.monotonic() + 30
    while nodes.workers("RayTrainWorker"):
        assert time.monotonic() < deadline, "processes of a stopped job"
        time.sleep(0.5)
    subprocess.run([*submit, "--", *job], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert table_of(store, stage) == table_of(quiet, stage)
    assert not unfinished(uri)


def late_node(nodes: Nodes, folder: Path, uri: str) -> float:
    """A node joins in the middle of CRF; returns the seconds from its `ray start` to its first work."""
    fill(nodes)
    settings = ["dataset.num_train=512", "dataset.size=256", "cam.epochs=1", "cam.crop=64", "cam.scales=[0.5]"]
    store, log = folder / "late", folder / "log.txt"
    command = [
        sys.executable, "jobs/pipeline.py", f"store={store}", f"tracking.uri={uri}", *SETTINGS, *settings,
    ]  # fmt: skip
    subprocess.run([*command, "until=cam"], cwd=ROOT, check=True, stdout=log.open("ab"), stderr=subprocess.STDOUT)
    nodes.kill(next(iter(nodes.others)))
    process = subprocess.Popen([*command, "until=seed"], cwd=ROOT, stdout=log.open("ab"), stderr=subprocess.STDOUT)
    while written_of(store, "crf/*/masks") < 16:
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.1)
    before = nodes.raylets()
    started = time.monotonic()
    nodes.add(num_cpus=1)
    (late,) = nodes.raylets() - before
    while not any(works(worker) for worker in nodes.workers("MapWorker") if of_node(worker, late)):
        assert process.poll() is None, "the late node was not used"
        time.sleep(0.1)
    seconds = time.monotonic() - started
    assert process.wait() == 0
    assert written_of(store, "crf/*/masks") == 512
    return seconds


def works(actor: psutil.Process) -> bool:
    """Whether it is in the middle of a batch: Ray names the method that runs."""
    return ".submit" in " ".join(actor.cmdline())


def of_node(worker: psutil.Process, raylet: int) -> bool:
    return raylet in {parent.pid for parent in worker.parents()}


def written_of(store: Path, pattern: str) -> int:
    return sum(written(place) for place in store.glob(pattern))


def disk_full(quiet: Path, folder: Path, uri: str) -> str:
    """The store's disk is too small for a checkpoint, then it is enlarged; returns what the first run said."""
    store, log = folder / "small", folder / "full.txt"
    store.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m", "none", str(store)], check=True)
    try:
        process = pipeline(store, uri, "cam", log)
        assert process.wait(timeout=600) == 1, log.read_text()[-3000:]
        told = log.read_text().strip().splitlines()[-1]
        subprocess.run(["mount", "-o", "remount,size=2g", str(store)], check=True)
        finish(pipeline(store, uri, "cam", log), log)
        assert table_of(store, STAGES[0]) == table_of(quiet, STAGES[0])
    finally:
        subprocess.run(["umount", "--lazy", str(store)], check=False)
    return told


def main(folder: Path, names: Collection[str]) -> None:
    """All faults; prints a line for each."""
    folder.mkdir(parents=True)
    os.environ |= {"RAY_AUTH_MODE": "token", "PYTHONUNBUFFERED": "1"}
    os.environ.pop("RAY_ADDRESS", None)
    subprocess.run([RAY, "get-auth-token", "--generate"], stdout=subprocess.DEVNULL, check=True)
    nodes, quiet = Nodes(num_cpus=0), folder / "quiet"
    fill(nodes)
    os.environ["RAY_ADDRESS"] = nodes.address

    def wanted(name: str) -> bool:
        return not names or name in names

    try:
        with serving_mlflow(folder) as uri:
            stages = [stage for stage in STAGES if wanted(stage.name)]
            furthest = stages[-1].step if stages else "cam"
            finish(pipeline(quiet, uri, furthest, folder / "log.txt"), folder / "log.txt")
            for stage in stages:
                alone = case(nodes, quiet, folder, stage, "nothing", None, uri)
                print(f"{stage.name}: {alone:.0f} s when nothing happens", flush=True)
                strikes: dict[str, Callable[[], None]] = {
                    "worker killed": lambda stage=stage: nodes.workers(stage.actor)[0].kill(),
                    "node killed": lambda stage=stage: nodes.kill_node_of(nodes.workers(stage.actor)[0]),
                }
                if stage.training:
                    strikes["controller killed"] = lambda: nodes.workers("TrainController")[0].kill()
                for fault, strike in strikes.items():
                    seconds = case(nodes, quiet, folder, stage, fault, strike, uri)
                    print(f"  {fault}: equal table, {seconds - alone:+.0f} s", flush=True)
                if stage.training:
                    gate = Gate(uri)
                    strike = partial(away_for_a_minute, gate)
                    seconds = case(nodes, quiet, folder, stage, "mlflow away", strike, gate.uri)
                    assert not unfinished(uri)
                    print(f"  MLflow away for a minute: equal table, all told, {seconds - alone:+.0f} s", flush=True)
            if wanted("job stop"):
                stopped_job(nodes, quiet, folder, uri)
                print("ray job stop: KILLED in MLflow, no worker left, the same command goes on", flush=True)
            if wanted("late node"):
                print(f"late node: works after {late_node(nodes, folder, uri):.0f} s", flush=True)
            if wanted("disk full"):
                print(f"disk full: {disk_full(quiet, folder, uri)!r}; equal table once there is room", flush=True)
    finally:
        nodes.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2:])
