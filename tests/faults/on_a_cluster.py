"""Kill everything that can be killed, on a cluster: `python -m tests.faults.on_a_cluster FOLDER [NAME…]`.

Half an hour for all: "classifier", "maps", "refined", "pseudo_masks", "job stop", "late node", "disk full".

The cluster is a head without CPUs and two nodes, each started with `ray start` on this machine, with token
authentication. For each step the pipeline is given again with that step missing; something is killed when the step is
half done. Its table or weights must be those of a run left alone; what is printed is how much longer it took.
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

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow import MlflowClient
from safetensors.numpy import load_file

from amn_ray.core.artifacts import MODEL, TABLE
from tests.conftest import serving_mlflow
from tests.nodes import RAY, Nodes
from tests.platform.test_tracking import Gate

ROOT = Path(__file__).parent.parent.parent
SETTINGS = [
    "dataset.num_train=128", "dataset.num_val=8", "dataset.rows_per_shard=8", "precision=fp32",
    "classifier.epochs=4", "maps.scales=[1.0,1.5,2.0]", "amn.epochs=1", "irn.epochs=1",
]  # fmt: skip


TRAINER, MAPPER = "RayTrainWorker", "MapWorker"


def fill(nodes: Nodes) -> None:
    """Two nodes beside the head, whatever was killed."""
    while len(nodes.others) < 2:
        nodes.add(num_cpus=1)


@dataclass(frozen=True)
class Step:
    """A step that can be interrupted."""

    name: str
    folder: str
    """Its stage in the store."""
    actor: str
    """The title of the processes that do the work."""
    input: str = "images"
    """The stage of an input, by which it is known among steps of the same stage."""

    @property
    def training(self) -> bool:
        return self.actor == TRAINER

    def half_done(self, store: Path, rows: int) -> bool:
        """Whether two epochs, or half of the rows, are there."""
        for place in store.glob(f"{self.folder}/*"):
            if (place / "manifest.json").exists():
                continue
            if self.training:
                return len(self.epochs(place)) >= 1 and self.progress(place) >= 2
            return written(place / TABLE) >= rows / 2
        return False

    def epochs(self, place: Path) -> list[Path]:
        return list(place.glob("train/checkpoint_*/progress.json"))

    def progress(self, place: Path) -> int:
        try:
            return max((json.loads(path.read_text())["epoch"] for path in self.epochs(place)), default=0)
        except (OSError, ValueError):
            return 0


STEPS = [
    Step("classifier", "classifier", TRAINER),
    Step("maps", "cam", MAPPER),
    Step("refined", "crf", MAPPER, input="cam"),
    Step("pseudo_masks", "walk", MAPPER),
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


def places_of(store: Path, step: Step) -> list[Path]:
    """The step's artifact, if it is there."""
    found = {path.parent: json.loads(path.read_text()) for path in store.glob(f"{step.folder}/*/manifest.json")}
    return [
        place
        for place, manifest in found.items()
        if any((store / step.input / source).exists() for source in manifest["inputs"].values())
    ]


def result_of(store: Path, step: Step) -> pa.Table | dict[str, np.ndarray]:
    """The rows of the step's artifact, by their ids, or its weights."""
    (place,) = places_of(store, step)
    if step.training:
        return load_file(place / MODEL)
    read = pq.read_table(place / TABLE, partitioning=None).sort_by("image_id")
    ids = read.column("image_id").to_pylist()
    assert len(ids) == len(set(ids)), "a row twice"
    return read


def equal(store: Path, quiet: Path, step: Step) -> bool:
    one, other = result_of(store, step), result_of(quiet, step)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)
    return one == other


def without(quiet: Path, store: Path, step: Step) -> None:
    """A copy of the quiet store in which the step has still to be done."""
    shutil.copytree(quiet, store)
    for place in places_of(store, step):
        shutil.rmtree(place)


def case(
    nodes: Nodes, quiet: Path, folder: Path, step: Step, fault: str, strike: Callable[[], None] | None, uri: str
) -> float:
    """Run the step, strike when it is half done, compare; returns the seconds of the whole job."""
    fill(nodes)
    store, log = folder / fault.replace(" ", "-") / step.name.replace(" ", "-"), folder / "log.txt"
    without(quiet, store, step)
    rows = sum(written(place / TABLE) for place in places_of(quiet, step))
    started = time.monotonic()
    process = pipeline(store, uri, step.name, log)
    before: dict[str, int] = {}
    if strike is not None:
        while not step.half_done(store, rows):
            assert process.poll() is None, log.read_text()[-3000:]
            time.sleep(0.05)
        place = next(place for place in store.glob(f"{step.folder}/*") if not (place / "manifest.json").exists())
        # Whether the newest one is finished may not have been told to anybody yet; then it is part of what is lost.
        told = time.time_ns() - 10**9
        stamps = {path.name: path.stat().st_mtime_ns for path in (place / TABLE).glob("*.parquet")}
        before = {name: stamp for name, stamp in stamps.items() if stamp < told}
        strike()
    finish(process, log)
    seconds = time.monotonic() - started
    assert equal(store, quiet, step), f"{fault} in {step.name}: another result"
    after = {path.name: path.stat().st_mtime_ns for path in store.glob(f"{step.folder}/*/{TABLE}/*.parquet")}
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
    step, store = STEPS[0], folder / "stopped"
    without(quiet, store, step)
    name = f"stop-{time.time_ns()}"
    address = ["--address", f"http://127.0.0.1:{nodes.dashboard}"]
    # No --working-dir: nodes of one machine share Ray's folder, and unpack it there under each other's feet.
    script = str(ROOT / "jobs" / "pipeline.py")
    job = [sys.executable, script, f"store={store}", f"until={step.name}", f"tracking.uri={uri}", *SETTINGS]
    submit = [RAY, "job", "submit", *address]
    first = [*submit, "--no-wait", "--submission-id", name, "--", *job]
    subprocess.run(first, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not step.half_done(store, 0):
        assert time.monotonic() < deadline, "the submitted job does not train"
        time.sleep(0.1)
    assert nodes.workers(TRAINER)
    subprocess.run([RAY, "job", "stop", *address, name], check=True, stdout=subprocess.DEVNULL)
    assert unfinished(uri) == {"pipeline shapes": "KILLED", step.name: "KILLED"}
    deadline = time.monotonic() + 30
    while nodes.workers(TRAINER):
        assert time.monotonic() < deadline, "processes of a stopped job"
        time.sleep(0.5)
    subprocess.run([*submit, "--", *job], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert equal(store, quiet, step)
    assert not unfinished(uri)


def late_node(nodes: Nodes, folder: Path, uri: str) -> float:
    """A node joins in the middle of CRF; returns the seconds from its `ray start` to its first work."""
    fill(nodes)
    settings = [
        "dataset.num_train=512",
        "dataset.size=256",
        "classifier.epochs=1",
        "classifier.crop=64",
        "maps.scales=[0.5]",
    ]
    store, log = folder / "late", folder / "log.txt"
    command = [
        sys.executable, "jobs/pipeline.py", f"store={store}", f"tracking.uri={uri}", *SETTINGS, *settings,
    ]  # fmt: skip
    subprocess.run([*command, "until=maps"], cwd=ROOT, check=True, stdout=log.open("ab"), stderr=subprocess.STDOUT)
    nodes.kill(next(iter(nodes.others)))
    process = subprocess.Popen([*command, "until=refined"], cwd=ROOT, stdout=log.open("ab"), stderr=subprocess.STDOUT)
    while written_of(store, f"crf/*/{TABLE}") < 16:
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.1)
    before = nodes.raylets()
    started = time.monotonic()
    nodes.add(num_cpus=1)
    (late,) = nodes.raylets() - before
    while not any(works(worker) for worker in nodes.workers(MAPPER) if of_node(worker, late)):
        assert process.poll() is None, "the late node was not used"
        time.sleep(0.1)
    seconds = time.monotonic() - started
    assert process.wait() == 0
    assert written_of(store, f"crf/*/{TABLE}") == 512
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
        process = pipeline(store, uri, STEPS[0].name, log)
        assert process.wait(timeout=600) == 1, log.read_text()[-3000:]
        told = log.read_text().strip().splitlines()[-1]
        subprocess.run(["mount", "-o", "remount,size=2g", str(store)], check=True)
        finish(pipeline(store, uri, STEPS[0].name, log), log)
        assert equal(store, quiet, STEPS[0])
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
            steps = [step for step in STEPS if wanted(step.name)]
            furthest = steps[-1].name if steps else STEPS[0].name
            finish(pipeline(quiet, uri, furthest, folder / "log.txt"), folder / "log.txt")
            for step in steps:
                alone = case(nodes, quiet, folder, step, "nothing", None, uri)
                print(f"{step.name}: {alone:.0f} s when nothing happens", flush=True)
                strikes: dict[str, Callable[[], None]] = {
                    "worker killed": lambda step=step: nodes.workers(step.actor)[0].kill(),
                    "node killed": lambda step=step: nodes.kill_node_of(nodes.workers(step.actor)[0]),
                }
                if step.training:
                    strikes["controller killed"] = lambda: nodes.workers("TrainController")[0].kill()
                for fault, strike in strikes.items():
                    seconds = case(nodes, quiet, folder, step, fault, strike, uri)
                    print(f"  {fault}: equal result, {seconds - alone:+.0f} s", flush=True)
                if step.training:
                    gate = Gate(uri)
                    strike = partial(away_for_a_minute, gate)
                    seconds = case(nodes, quiet, folder, step, "mlflow away", strike, gate.uri)
                    assert not unfinished(uri)
                    print(f"  MLflow away for a minute: equal result, all told, {seconds - alone:+.0f} s", flush=True)
            if wanted("job stop"):
                stopped_job(nodes, quiet, folder, uri)
                print("ray job stop: KILLED in MLflow, no worker left, the same command goes on", flush=True)
            if wanted("late node"):
                print(f"late node: works after {late_node(nodes, folder, uri):.0f} s", flush=True)
            if wanted("disk full"):
                print(f"disk full: {disk_full(quiet, folder, uri)!r}; equal weights once there is room", flush=True)
    finally:
        nodes.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2:])
