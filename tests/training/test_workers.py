"""Train workers: two with half of each batch are one with all of it, and none is lost for want of room."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from ray.exceptions import OutOfMemoryError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from safetensors.torch import load

from amn_ray.core.artifacts import MODEL, TABLE, Artifact, Store
from amn_ray.core.errors import RunError
from amn_ray.data.images import MASK_SCHEMA, mask_row
from amn_ray.data.pixels import DEFAULT
from amn_ray.nn.config import BackboneConfig
from amn_ray.platform.cluster import Cluster, ClusterConfig, Resources
from amn_ray.platform.memory import MemoryFull, Shortage, Work
from amn_ray.stages.amn import stage as amn
from amn_ray.stages.amn.config import AmnConfig
from amn_ray.stages.amn.example import AmnExample
from amn_ray.testing import Breakable, Counted, DiesOnce
from amn_ray.training import driver
from amn_ray.training.job import HISTORY, Probe, TrainJob
from tests.conftest import encode, noise
from tests.platform.test_memory import page

IMAGES, BATCH, SIZE = 80, 4, 48
"""One epoch of 20 steps."""
CONFIG = AmnConfig(
    backbone=BackboneConfig(name="resnet18", weights=None, batchnorm="running"),
    epochs=1, batch_size=BATCH, crop=SIZE, dropout=0, precision="fp32", lr_backbone=1e-4, lr_head=1e-3,
)  # fmt: skip


def put(artifact: Artifact, rows: list[dict], schema: pa.Schema | None = None) -> Artifact:
    Path(artifact.at(TABLE)).mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), artifact.at(f"{TABLE}/0.parquet"))
    artifact.commit(config={}, inputs={}, code={}, seconds=0, result={"rows": len(rows)})
    return artifact


def losses(
    store: Store,
    images: Artifact,
    seeds: Artifact,
    workers: int = 1,
    config: AmnConfig = CONFIG,
    worker: Callable[[dict], None] = amn._train_worker,
    probe: Probe | None = None,
) -> list[float]:
    trained = driver.train(
        worker,
        config,
        network(store, workers, config, probe),
        Cluster(ClusterConfig(train_workers=workers)),
        sources=[(images, ("image", "labels")), (seeds, ("mask",))],
        example=AmnExample(config, 3, DEFAULT),
        num_classes=3,
        backbone=None,
        epochs=config.epochs,
        probe=probe,
    )
    return [point["loss"] for point in trained["history"]]


def network(store: Store, workers: int = 1, config: AmnConfig = CONFIG, probe: Probe | None = None) -> Artifact:
    """Where `losses` writes the weights."""
    return store.artifact("amn", workers, {"config": asdict(config), "probed": probe is not None}, {})


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
    images = put(store.artifact("images", 1, {}, {}), rows)
    # Undefined pixels in very different numbers, which a mean over each worker's own would weigh wrongly.
    masks = [
        np.where(rng.random((SIZE, SIZE)) < rng.random(), 255, rng.choice([0, 1 + seed % 3])).astype(np.uint8)
        for seed in range(IMAGES)
    ]
    rows = [mask_row(name, mask) for name, mask in zip(names, masks, strict=True)]
    seeds = put(store.artifact("crf", 1, {}, {}), rows, MASK_SCHEMA)
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

    def log(step: str, text: str) -> None:
        lines.append(text)
        ray.kill(other)
        monkeypatch.delenv(patience)

    monkeypatch.setattr(driver, "log", log)
    averaged = replace(CONFIG, ema=0.9)
    one, two = (losses(*sources, workers, averaged) for workers in (1, 2))
    assert lines == ["waits for free resources: 1 × 2 CPUs"]
    assert len(one) == 20
    assert max(one) > 1.2 * min(one), "it learns, or does something at least"
    # Sums are rounded in another order, and Adam divides by what is nearly nothing: the noise grows step by step.
    np.testing.assert_allclose(two[:10], one[:10], rtol=5e-5)
    np.testing.assert_allclose(two, one, rtol=3e-3)
    first, second = (load(network(sources[0], workers, averaged).read(MODEL)) for workers in (1, 2))
    for name, value in first.items():
        path = 20 * (CONFIG.lr_backbone if name.startswith("backbone") else CONFIG.lr_head)  # at most, with Adam
        assert (second[name].float() - value.float()).abs().mean() < 0.02 * path, name


def test_averaged_weights_are_the_same_to_the_bit_if_a_worker_dies_and_starts_again(
    cluster: Cluster, sources: tuple[Store, Artifact, Artifact], tmp_path: Path
) -> None:
    config = replace(CONFIG, epochs=2, batch_size=20, ema=0.9)
    dies = DiesOnce(str(tmp_path / "calls"), at=2)
    assert losses(*sources, config=config) == losses(*sources, config=config, probe=dies)
    assert len((tmp_path / "calls").read_text().splitlines()) == 3, "the second epoch is trained twice"
    undisturbed, resumed = (load(network(sources[0], 1, config, probe).read(MODEL)) for probe in (None, dies))
    assert all(torch.equal(resumed[name], value) for name, value in undisturbed.items())
    last = replace(config, ema=None)
    losses(*sources, config=last)
    plain = load(network(sources[0], 1, last).read(MODEL))
    same = {name for name, value in plain.items() if torch.equal(undisturbed[name], value)}
    assert same == {name for name in plain if "running_" in name or name.endswith("num_batches_tracked")}


def test_a_loss_that_is_no_number_ends_the_training_at_once_and_says_what_to_do(
    cluster: Cluster, sources: tuple[Store, Artifact, Artifact], tmp_path: Path
) -> None:
    hot = replace(CONFIG, batch_size=20, lr_backbone=1e30, lr_head=1e30)
    with pytest.raises(RunError, match=r"^amn: the loss became \S+ at step \d \(epoch 0\); lower the learning rate"):
        losses(*sources, config=hot, worker=Counted(amn._train_worker, str(tmp_path / "starts")))
    assert (tmp_path / "starts").read_text() == "started\n"


def end(output: Artifact) -> None:
    """A training ends well."""
    output.write(HISTORY, b'{"history": [{"step": 1, "loss": 0.5, "time": 10.0}], "images_per_second": 1.0}')
    output.write(MODEL, b"")


def test_gpus_that_have_gone_are_waited_for_and_not_replaced_by_processors(
    sources: tuple[Store, Artifact, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = iter([Resources(2, cpus=1, gpus=1), Resources(1, cpus=8), Resources(1, cpus=1, gpus=1)])
    tried: list[Resources] = []

    def fit(worker: object, job: TrainJob, callbacks: object) -> None:
        tried.append(job.resources)
        if len(tried) < 3:
            raise WorkerGroupStartupTimeoutError(job.resources.count)
        end(job.output)

    monkeypatch.setattr(driver, "_fit", fit)
    monkeypatch.setattr(Cluster, "train_share", lambda self, batch_size: next(there))
    monkeypatch.setattr(Cluster, "loaders", lambda self, beside: 1)
    losses(*sources)
    assert [(resources.count, resources.gpus) for resources in tried] == [(2, 1), (2, 1), (1, 1)]


def test_workers_that_ray_killed_for_want_of_memory_are_not_started_again_at_once() -> None:
    callback = driver._NotAgain(Work("amn", "amn.crop", 0))
    with pytest.raises(MemoryFull, match=r"^amn: a worker on node .* it held 9.1 GiB.*; lower amn.crop") as told:
        callback.after_exception(None, {0: ValueError("collateral"), 1: OutOfMemoryError(page(9.05))})
    assert pickle.loads(pickle.dumps(told.value)).shortage == told.value.shortage
    callback.after_exception(None, {0: ValueError("anything else")})


def test_a_training_whose_workers_are_killed_for_want_of_memory_goes_on_from_its_last_epoch(
    sources: tuple[Store, Artifact, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = iter(["full", "full", "model"])
    epochs = iter([1, 2])
    waited: list[float] = []

    def fit(worker: object, job: TrainJob, callbacks: object) -> None:
        if next(ends) == "full":
            raise MemoryFull("amn: full", Shortage(node="there", used=1, limit=1, threshold=1, held=1))
        end(job.output)

    monkeypatch.setattr(driver, "_fit", fit)
    monkeypatch.setattr(driver, "_finished_epochs", lambda output: next(epochs))
    monkeypatch.setattr(Cluster, "wait_for_memory", lambda cluster, shortage, at_most_s: waited.append(at_most_s))
    monkeypatch.setattr(Cluster, "train_share", lambda self, batch_size: Resources(1, cpus=1))
    monkeypatch.setattr(Cluster, "loaders", lambda self, beside: 1)
    losses(*sources)
    assert waited == [60, 60], "each epoch may find memory full"
