"""Measurements with several processes: CRF on actors, and the memory of a pipeline's steps."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import ray

from amn_ray.data.images import encode_png
from amn_ray.inference.predict import PredictConfig, predict
from amn_ray.platform.cluster import Cluster, ClusterConfig
from amn_ray.stages.crf.config import CrfConfig
from amn_ray.stages.crf.model import refined_seed
from benchmarks.numerics import Row, pictures, soft_maps
from benchmarks.timing import in_turn

IMAGES = 16
PREDICTED = 128


@ray.remote(num_cpus=1)
class CrfActor:
    """One process of the pool."""

    def seeds(self, scenes: list[tuple[np.ndarray, np.ndarray, list[int]]]) -> int:
        """Refine each of `scenes`; returns their number."""
        return len([refined_seed(image, maps, keys, CrfConfig()) for image, maps, keys in scenes])


def crf_actors() -> Iterator[Row]:
    """Two actors against one, on the same images."""
    Cluster(ClusterConfig(object_store_gb=0.3)).connect()
    scenes = [(image, soft_maps(truth, keys), keys) for image, truth, keys in pictures(IMAGES) if keys]
    actors = [CrfActor.remote() for _ in range(2)]

    def run(count: int) -> None:
        # One by one, as Ray Data distributes its batches, so that uneven halves do not matter.
        pending = {actors[i].seeds.remote([scenes[i]]): actors[i] for i in range(count)}
        following = count
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            actor = pending.pop(done)
            if following < len(scenes):
                pending[actor.seeds.remote([scenes[following]])] = actor
                following += 1

    seconds = in_turn({"one": lambda: run(1), "two": lambda: run(2)}, rounds=3)
    ray.shutdown()
    yield "CRF on 2 actors", "on 1 actor", seconds["one"] / seconds["two"], "≥ 1.8"


def predict_actors(store: Path) -> Iterator[Row]:
    """`predict` with the demo's network, from the first image to the last mask, including the start of actors."""
    folder = store / "pictures"
    folder.mkdir()
    for index, (image, _, _) in enumerate(pictures(PREDICTED)):
        (folder / f"{index}.png").write_bytes(encode_png(image))

    def run(actors: int) -> None:
        cluster = ClusterConfig(object_store_gb=0.3, map_actors=actors)
        predict(
            PredictConfig(images=str(folder), out=str(store / "out"), store=str(store), overwrite=True, cluster=cluster)
        )

    seconds = in_turn({"one": lambda: run(1), "two": lambda: run(2)}, rounds=1)
    ray.shutdown()
    for name in ("one", "two"):
        yield f"predict with CRF, {name} actor(s): images/s", "", PREDICTED / seconds[name], ""


def memory(store: Path) -> Iterator[tuple[str, float]]:
    """(step, GiB): the largest memory of all processes together while the demo makes each step."""
    command = [sys.executable, "-u", "jobs/pipeline.py", f"store={store}"]
    process = subprocess.Popen(command, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, text=True)
    step, peaks = "start", {"start": 0.0}

    def sample() -> None:
        while process.poll() is None:
            peaks[step] = max(peaks.get(step, 0), tree_bytes(process.pid) / 2**30)
            time.sleep(0.5)

    watcher = threading.Thread(target=sample)
    watcher.start()
    assert process.stdout is not None
    for line in process.stdout:
        name, arrow, _ = (*line.split(), "", "", "")[:3]
        if arrow == "→":
            step = name
    watcher.join()
    yield from peaks.items()


def tree_bytes(pid: int) -> float:
    """Memory of a process and its descendants; shared pages count once (PSS)."""
    total = 0.0
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for member in family:
        try:
            total += member.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total
