"""Kill everything that can be killed, on a cluster: `python -m tests.faults.on_a_cluster FOLDER` (half an hour).

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
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from tests.conftest import free_port, serving

ROOT = Path(__file__).parent.parent.parent
RAY = str(Path(sys.executable).parent / "ray")
SETTINGS = [
    "dataset.num_train=128", "dataset.num_val=8", "dataset.rows_per_shard=8", "precision=fp32",
    "cam.epochs=4", "cam.scales=[1.0,1.5,2.0]", "amn.epochs=1", "irn.epochs=1",
]  # fmt: skip


class Nodes:
    """A head and two nodes."""

    def __init__(self) -> None:
        self.port, self.dashboard = free_port(), free_port()
        self.start("--head", "--port", str(self.port), "--dashboard-port", str(self.dashboard), "--num-cpus", "0")
        self.head = self.raylets()
        self.fill()

    def start(self, *arguments: str) -> None:
        """One more node."""
        command = [RAY, "start", "--object-store-memory", "300000000", "--disable-usage-stats", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def fill(self) -> None:
        """Two nodes, whatever was killed."""
        while len(self.raylets() - self.head) < 2:
            self.start("--address", f"127.0.0.1:{self.port}", "--num-cpus", "2")

    def raylets(self) -> set[int]:
        """The processes that are the nodes of this cluster."""
        found = set()
        for process in psutil.process_iter(["cmdline"]):
            line = " ".join(process.info["cmdline"] or [])
            if "raylet/raylet" in line and f"127.0.0.1:{self.port}" in line:
                found.add(process.pid)
        return found

    def workers(self, title: str) -> list[psutil.Process]:
        """Ray's worker processes of this name."""
        found = []
        for raylet in self.raylets():
            for child in psutil.Process(raylet).children(recursive=True):
                try:
                    if " ".join(child.cmdline()).startswith(f"ray::{title}"):
                        found.append(child)
                except psutil.Error:
                    continue
        return found

    def kill_node_of(self, worker: psutil.Process) -> None:
        """kill -9 of a whole node: its raylet and all that it started."""
        raylet = next(parent for parent in worker.parents() if parent.pid in self.raylets())
        for process in (*raylet.children(recursive=True), raylet):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue


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
    """The table of the stage's artifact that was made last."""
    places = sorted(store.glob(f"{stage.folder}/*/manifest.json"), key=lambda path: path.stat().st_mtime)
    read = pq.read_table(places[-1].parent / stage.table, partitioning=None).sort_by("image_id")
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


def is_first_crf(content: dict, store: Path) -> bool:
    return (store / "cam" / content["inputs"]["maps"]).exists()


def case(
    nodes: Nodes, quiet: Path, folder: Path, stage: Stage, fault: str, strike: Callable[[], None] | None, uri: str
) -> float:
    """Run the stage, strike when it is half done, compare; returns the seconds of the whole job."""
    nodes.fill()
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
        before = {path.name: path.stat().st_mtime_ns for path in (place / stage.table).glob("*.parquet")}
        strike()
    finish(process, log)
    seconds = time.monotonic() - started
    assert table_of(store, stage) == table_of(quiet, stage), f"{fault} in {stage.name}: another table"
    after = {path.name: path.stat().st_mtime_ns for path in store.glob(f"{stage.folder}/*/{stage.table}/*.parquet")}
    assert before.items() <= after.items(), "a finished shard was made again"
    shutil.rmtree(store)
    return seconds


def main(folder: Path) -> None:
    """All faults; prints a line for each."""
    folder.mkdir(parents=True)
    os.environ |= {"RAY_AUTH_MODE": "token", "PYTHONUNBUFFERED": "1"}
    os.environ.pop("RAY_ADDRESS", None)
    subprocess.run([RAY, "get-auth-token", "--generate"], stdout=subprocess.DEVNULL, check=True)
    nodes, port = Nodes(), free_port()
    os.environ["RAY_ADDRESS"] = f"127.0.0.1:{nodes.port}"
    places = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/artifacts"]
    uri, quiet = f"http://127.0.0.1:{port}", folder / "quiet"
    try:
        with serving(port, "mlflow", "server", "--port", str(port), "--workers", "1", *places):
            finish(pipeline(quiet, uri, "irn", folder / "log.txt"), folder / "log.txt")
            for stage in STAGES:
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
    finally:
        subprocess.run([RAY, "stop", "--force"], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
