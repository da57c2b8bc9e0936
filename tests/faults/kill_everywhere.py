"""kill -9 in the middle of every step, of workers and of the driver: all tables must be those of a run left alone.

Not a part of `make test`, because it takes as long as a dozen pipelines:
`python -m tests.faults.kill_everywhere FOLDER`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from amn_ray.core.artifacts import MODEL, TABLE

ROOT = Path(__file__).parent.parent.parent
SETTINGS = [
    "dataset.num_train=96", "dataset.num_val=32", "dataset.rows_per_shard=8", "precision=fp32",
    "classifier.epochs=3", "maps.scales=[1.0,1.5,2.0]", "amn.epochs=3", "amn_maps.scales=[1.0,1.5,2.0]",
    "irn.epochs=3", "segmenter.iterations=45",
]  # fmt: skip


@dataclass(frozen=True)
class Moment:
    """The middle of a step."""

    name: str
    stage: str
    before: int
    """Artifacts of the stage that are finished by then (CRF refines two seeds)."""
    training: bool

    def reached(self, store: Path) -> bool:
        """Whether a first epoch, or a first shard, is there."""
        if len(list(store.glob(f"{self.stage}/*/manifest.json"))) != self.before:
            return False
        begun = "train/checkpoint_*/progress.json" if self.training else f"{TABLE}/*.parquet"
        for folder in store.glob(f"{self.stage}/*"):
            if not (folder / "manifest.json").exists():
                return any(folder.glob(begun)) and not (folder / MODEL).exists()
        return False


MOMENTS = [
    Moment("classifier", "classifier", 0, True), Moment("maps", "cam", 0, False), Moment("refined", "crf", 0, False),
    Moment("amn", "amn", 0, True), Moment("amn_maps", "amn_maps", 0, False), Moment("amn_refined", "crf", 1, False),
    Moment("irn", "irn", 0, True), Moment("pseudo_masks", "walk", 0, False),
    Moment("segmenter", "deeplabv2", 0, True), Moment("predictions", "deeplabv2_predictions", 0, False),
    Moment("predictions_refined", "prediction_crf", 0, False),
]  # fmt: skip


def start(store: Path) -> subprocess.Popen[bytes]:
    store.parent.mkdir(parents=True, exist_ok=True)
    with store.with_suffix(".txt").open("ab") as log:
        command = [sys.executable, "jobs/pipeline.py", f"store={store}", *SETTINGS]
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def wait(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    while not ready():
        assert process.poll() is None, "the pipeline ended before the moment came; see its log"
        time.sleep(0.02)


def victims(process: subprocess.Popen[bytes], training: bool) -> list[psutil.Process]:
    """Training workers, or the actors of a Ray Data stage."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            title = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if title.startswith("ray::RayTrainWorker" if training else "ray::MapWorker"):
            found.append(child)
    return found


def kill_workers(store: Path) -> None:
    """One run, in which a worker dies at every moment."""
    process = start(store)
    for moment in MOMENTS:
        wait(process, lambda: moment.reached(store) and bool(victims(process, moment.training)))  # noqa: B023
        victims(process, moment.training)[0].kill()
        print(f"killed a worker in {moment.name}", flush=True)
    assert process.wait() == 0


def kill_driver(store: Path) -> None:
    """A run for every moment at which the driver dies; what was finished must not be touched again."""
    finished: dict[Path, int] = {}
    for moment in MOMENTS:
        process = start(store)
        wait(process, lambda: moment.reached(store))  # noqa: B023
        assert {path: path.stat().st_mtime_ns for path in finished} == finished
        finished = {path: path.stat().st_mtime_ns for path in store.glob("*/*/manifest.json")}
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        print(f"killed the driver in {moment.name}", flush=True)
        time.sleep(6)  # its Ray processes notice
    assert start(store).wait() == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def tables(store: Path) -> dict[str, pa.Table]:
    """All tables; ids must be unique and as many as the manifest says."""
    found = {}
    for manifest in sorted(store.glob("*/*/manifest.json")):
        if (manifest.parent / TABLE).is_dir():
            table = pq.read_table(manifest.parent / TABLE, partitioning=None).sort_by("image_id")
            ids = table.column("image_id").to_pylist()
            assert len(ids) == len(set(ids)) == json.loads(manifest.read_text())["rows"]
            found[str(manifest.parent.relative_to(store))] = table
    return found


def main(folder: Path) -> None:
    assert start(folder / "quiet").wait() == 0
    kill_workers(folder / "workers")
    kill_driver(folder / "driver")
    expected = tables(folder / "quiet")
    for name in ("workers", "driver"):
        assert tables(folder / name) == expected
    print(f"{len(expected)} tables are equal after {2 * len(MOMENTS)} kills")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
