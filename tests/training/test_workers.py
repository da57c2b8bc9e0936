"""Train workers: two with half of each batch are one with all of it, and none is lost for want of room."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray.exceptions import OutOfMemoryError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

from amn_ray.artifacts import Artifact, Store
from amn_ray.cluster import Cluster, ClusterConfig, Share
from amn_ray.data.images import MASK_SCHEMA, mask_row
from amn_ray.data.pixels import DEFAULT
from amn_ray.errors import RunError
from amn_ray.memory import Shortage
from amn_ray.nn.config import BackboneConfig
from amn_ray.stages.amn import stage as amn
from amn_ray.stages.amn.config import AmnConfig
from amn_ray.stages.amn.example import AmnExample
from amn_ray.testing import Breakable, Counted
from amn_ray.training import driver
from amn_ray.training.job import HISTORY, MODEL, Job
from tests.conftest import encode, noise
from tests.test_memory import page

IMAGES, BATCH, SIZE = 80, 4, 48
"""One epoch of 20 steps."""
CONFIG = AmnConfig(
    backbone=BackboneConfig(name="resnet18", weights=None, batchnorm="running"),
    epochs=1, batch_size=BATCH, crop=SIZE, dropout=0, precision="fp32", lr_backbone=1e-4, lr_head=1e-3,
)  # fmt: skip


def put(artifact: Artifact, table: str, rows: list[dict], schema: pa.Schema | None = None) -> Artifact:
    Path(artifact.at(table)).mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), artifact.at(f"{table}/0.parquet"))
    return artifact


def losses(
    store: Store,
    images: Artifact,
    seeds: Artifact,
    workers: int = 1,
    config: AmnConfig = CONFIG,
    worker: Callable[[dict], None] = amn._train_worker,
) -> list[float]:
    history = driver.train(
        worker,
        config,
        store.artifact("amn", workers, config, {}),
        Cluster(ClusterConfig(train_workers=workers)),
        sources=[(images, "rows", ("image", "labels")), (seeds, "masks", ("mask",))],
        example=AmnExample(config, 3, DEFAULT),
        num_classes=3,
        backbone=None,
    )
    return [point["loss"] for point in history]


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Store, Artifact, Artifact]:
    """Images and seeds in a store."""
    store = Store.open(str(tmp_path))
    rng = np.random.default_rng(0)
    names = [f"{number:03d}" for number in range(IMAGES)]
    rows = [
        {"image_id": name, "image": encode(noise(SIZE, SIZE, seed)), "labels": [1 + seed % 3]}
        for seed, name in enumerate(names)
    ]
    images = put(store.artifact("images", 1, {}, {}), "rows", rows)
    # Undefined pixels in very different numbers, which a mean over each worker's own would weigh wrongly.
    masks = [
        np.where(rng.random((SIZE, SIZE)) < rng.random(), 255, rng.choice([0, 1 + seed % 3])).astype(np.uint8)
        for seed in range(IMAGES)
    ]
    seeds = put(
        store.artifact("crf", 1, {}, {}), "masks", [mask_row(*pair) for pair in zip(names, masks, strict=True)],
        MASK_SCHEMA,
    )  # fmt: skip
    return store, images, seeds


def test_amn_on_two_workers_has_the_loss_curve_of_one_also_if_it_has_to_wait_for_room(
    cluster: Cluster,
    sources: tuple[Store, Artifact, Artifact],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The first training finds a processor taken, by another job as it were, until it says that it waits.
    patience = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
    monkeypatch.setenv(patience, "0.5")
    other = ray.remote(num_cpus=1)(Breakable).remote(log="")
    ray.get(other.__ray_ready__.remote())
    lines: list[str] = []

    def say(step: str, text: str) -> None:
        lines.append(text)
        ray.kill(other)
        monkeypatch.delenv(patience)

    monkeypatch.setattr(driver, "say", say)
    one, two = (losses(*sources, workers) for workers in (1, 2))
    assert lines == ["waits until there is room for 1 × 2 CPUs"]
    assert len(one) == 20
    assert max(one) > 1.2 * min(one), "it learns, or does something at least"
    # Sums are rounded in another order, and Adam divides by what is nearly nothing: the noise grows step by step.
    np.testing.assert_allclose(two[:10], one[:10], rtol=5e-5)
    np.testing.assert_allclose(two, one, rtol=3e-3)


def test_a_loss_that_is_no_number_ends_the_training_at_once_and_says_what_to_do(
    cluster: Cluster, sources: tuple[Store, Artifact, Artifact], tmp_path: Path
) -> None:
    hot = replace(CONFIG, batch_size=20, lr_backbone=1e30, lr_head=1e30)
    with pytest.raises(RunError, match=r"^amn: the loss became \S+ at step \d \(epoch 0\); lower the learning rate"):
        losses(*sources, config=hot, worker=Counted(amn._train_worker, str(tmp_path / "starts")))
    assert (tmp_path / "starts").read_text() == "started\n"


def test_gpus_that_have_gone_are_waited_for_and_not_replaced_by_processors(
    sources: tuple[Store, Artifact, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = iter([Share(2, cpus=1, gpus=1), Share(1, cpus=8), Share(1, cpus=1, gpus=1)])
    tried: list[Share] = []

    def fit(worker: object, job: Job, callbacks: object) -> None:
        tried.append(job.share)
        if len(tried) < 3:
            raise WorkerGroupStartupTimeoutError(job.share.count)
        job.output.write(HISTORY, b"[]")
        job.output.write(MODEL, b"")

    monkeypatch.setattr(driver, "_fit", fit)
    monkeypatch.setattr(Cluster, "train_share", lambda self, batch_size: next(there))
    monkeypatch.setattr(Cluster, "loaders", lambda self, beside: 1)
    losses(*sources)
    assert [(share.count, share.gpus) for share in tried] == [(2, 1), (2, 1), (1, 1)]


FULL = Shortage(node="192.0.2.2", used=22.4, limit=23.5, threshold=22.3, held=9.05)


class Machine:
    """A training whose workers are killed for want of memory after the epochs that are told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *epochs: int) -> None:
        self.left, self.epoch = list(epochs), 0
        self.waited: list[float] = []
        self.lines: list[str] = []
        monkeypatch.setattr(driver, "_fit", self.fit)
        monkeypatch.setattr(driver, "_finished_epochs", lambda output: self.epoch)
        monkeypatch.setattr(driver, "say", lambda step, text: self.lines.append(text))
        monkeypatch.setattr(Cluster, "wait_for_memory", lambda cluster, shortage, at_most_s: self.wait(at_most_s))
        monkeypatch.setattr(Cluster, "train_share", lambda cluster, size: Share(1, cpus=1, setting="cluster.count"))
        monkeypatch.setattr(Cluster, "loaders", lambda cluster, beside: 1)

    def fit(self, worker: object, job: Job, callbacks: object) -> None:
        if self.left:
            self.epoch = self.left.pop(0)
            raise driver.MemoryFull(FULL)
        job.output.write(HISTORY, b"[]")
        job.output.write(MODEL, b"")

    def wait(self, at_most_s: float) -> None:
        self.waited.append(at_most_s)


def test_a_worker_that_was_killed_for_want_of_memory_waits_for_it_and_goes_on_from_its_last_epoch(
    sources: tuple[Store, Artifact, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, 0, 2, 2, 3, 4, 5)  # each epoch may find memory full a few times
    losses(*sources)
    assert machine.waited == [60, 60, 120, 60, 60, 60]
    assert machine.lines[1] == (
        "a worker on node 192.0.2.2 was killed because memory was full; it held 9.1 GiB, all processes there 22.4 of "
        "23.5 GiB; goes on from epoch 2 when there is room, but lower amn.batch_size, amn.crop or cluster.count, or "
        "make room there"
    )


def test_a_training_that_never_fits_into_memory_ends_with_what_to_lower(
    sources: tuple[Store, Artifact, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, *[1] * 9)
    with pytest.raises(
        RunError, match=r"^amn: a worker on node .*, 4 times; lower amn.batch_size, amn.crop or cluster.count$"
    ):
        losses(*sources)
    assert len(machine.left) == 5


def test_workers_that_ray_killed_for_want_of_memory_are_not_started_again_at_once() -> None:
    with pytest.raises(driver.MemoryFull) as told:
        driver._NotAgain().after_exception(None, {0: ValueError("collateral"), 1: OutOfMemoryError(page(9.05))})
    assert told.value.shortage.held == 9.05
    assert pickle.loads(pickle.dumps(told.value)).shortage == told.value.shortage
    driver._NotAgain().after_exception(None, {0: ValueError("anything else")})
