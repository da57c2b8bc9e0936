"""One node of one core against two of them: `python -m benchmarks.nodes FOLDER [IMAGES [RUN…]]` (20 minutes, 2 cores).

Each node is a `ray start` on one core; the head's core also runs the driver. In a third run the head has no CPUs, as
clusters are usually set up, and the one node that works has the other core. This compares the tables, which must be
equal, the images per second of maps and CRF, and the time of the same work without Ray, in a loop on one core that
reads and writes the same shards.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from amn_ray.core.artifacts import Artifact, Store
from amn_ray.core.settings import build
from amn_ray.data.pixels import Pixels
from amn_ray.platform.mapping import BATCH
from amn_ray.recipe.records import find
from amn_ray.stages.cam.config import CamConfig
from amn_ray.stages.cam.infer import MakeCam
from amn_ray.stages.crf.config import CrfConfig
from amn_ray.stages.crf.infer import MakeSeed
from tests.conftest import serving_mlflow
from tests.nodes import Nodes

ROOT = Path(__file__).parent.parent
SETTINGS = [
    "dataset.num_val=1", "dataset.size=192", "dataset.rows_per_shard=16", "until=refined",
    "classifier.epochs=1", "classifier.crop=64", "maps.scales=[1.0,0.5,1.5,2.0]",
]  # fmt: skip

RUNS = {"one node": (1,), "two nodes": (1, 1), "a node beside the head": (0, 1)}
"""CPUs of the nodes, the head first; each node has its own core."""


def run(folder: Path, cpus: tuple[int, ...], images: int, uri: str) -> dict[str, Any]:
    """The pipeline on such nodes, its driver on the head's core; returns its summary."""
    nodes = Nodes(num_cpus=cpus[0], core=0)
    try:
        for core, number in enumerate(cpus[1:], start=1):
            nodes.add(num_cpus=number, core=core)
        command = [sys.executable, "jobs/pipeline.py", f"store={folder}", f"tracking.uri={uri}", *SETTINGS]
        done = subprocess.run(
            ["taskset", "-c", "0", *command, f"dataset.num_train={images}", f"cluster.nodes={sum(cpus)}"],
            cwd=ROOT, env=os.environ | {"RAY_ADDRESS": nodes.address}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    finally:
        nodes.end()
    if done.returncode != 0:
        raise SystemExit(done.stdout[-3000:])
    (summary,) = folder.glob("runs/*/summary.json")
    return json.loads(summary.read_text())


def loop(store: str) -> None:
    """The same maps and refined seeds in this process; prints the seconds of both as JSON."""
    import torch

    torch.set_num_threads(1)
    made = find(Store.reading(store), None, "refined").artifacts
    images, maps, refined = made["images"], made["maps"], made["refined"]
    classes, pixels = len(images.manifest()["classes"]), Pixels.of(images.manifest())
    make_cam = MakeCam(build(CamConfig, maps.manifest()["config"]), classes, pixels, made["classifier"], 1)
    make_seed = MakeSeed(build(CrfConfig, refined.manifest()["config"]), pixels, maps)
    seconds = {
        "maps": _map(make_cam, images, ["image", "labels"]),
        "refined": _map(make_seed, images, ["image"]),
    }
    print(json.dumps(seconds))


def _map(mapper: Any, images: Artifact, columns: list[str]) -> float:
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for number, shard in enumerate(images.table().files):
            rows = pq.read_table(shard, columns=["image_id", *columns], partitioning=None)
            for start in range(0, rows.num_rows, BATCH):
                made = mapper(rows.slice(start, BATCH))
                pq.write_table(made, f"{folder}/{number}-{start}.parquet", compression="zstd")
    return time.monotonic() - started


def main(folder: Path, images: int = 512, names: Sequence[str] = tuple(RUNS)) -> None:
    """Measure, compare, print."""
    os.environ |= {
        "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0",
        "MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**34),
        "RAY_idle_worker_killing_time_threshold_ms": "60000", "RAY_num_workers_soft_limit": "8",
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    places = {name: folder / name.replace(" ", "-") for name in names}
    with serving_mlflow(folder) as uri:
        summaries = {name: run(place, RUNS[name], images, uri) for name, place in places.items()}
    stores = [Store.open(str(place)) for place in places.values()]
    for step in ("images", "maps", "refined") * (len(stores) > 1):
        tables = (find(store, None, "refined").artifacts[step].table() for store in stores)
        first, *others = (pq.read_table(table.path).sort_by("image_id") for table in tables)
        print(
            f"{step}: {first.num_rows} rows, " + ("equal" if all(first == other for other in others) else "DIFFERENT")
        )
    alone = subprocess.run(
        ["taskset", "-c", "1", sys.executable, "-m", "benchmarks.nodes", stores[0].path, "loop"],
        cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    for step, seconds in json.loads(alone.stdout.splitlines()[-1]).items():
        print(f"{step}: {seconds:.0f} s in a loop without Ray on one core")
        speeds = {name: summary[step]["images_per_second"] for name, summary in summaries.items()}
        for name, speed in speeds.items():
            taken = images / speed
            print(
                f"  {name}: {speed:.2f} images/s, {speed / speeds[names[0]]:.2f} × {names[0]}; {taken:.0f} s"
                + (f", {taken / seconds - 1:+.1%} beyond the loop" if sum(RUNS[name]) == 1 else "")
            )


if __name__ == "__main__":
    if sys.argv[2:] == ["loop"]:
        loop(sys.argv[1])
    else:
        main(Path(sys.argv[1]).resolve(), *map(int, sys.argv[2:3]), *([sys.argv[3:]] if sys.argv[3:] else []))
