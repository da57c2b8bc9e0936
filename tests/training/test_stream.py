"""The stream of training examples, on a real Ray."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray.data import Dataset

from amn_ray.core.artifacts import TABLE, Store
from amn_ray.data.labelled_crop import LabelledCrop
from amn_ray.data.pixels import DEFAULT
from amn_ray.platform.cluster import Cluster, Resources
from amn_ray.training.stream import TrainStream
from tests.conftest import encode, noise

IMAGES, BATCH, STEPS = 10, 4, 5
"""Two batches in an epoch, so the third epoch is cut short."""


@pytest.fixture
def stream(tmp_path: Path) -> TrainStream:
    images = Store.open(str(tmp_path)).artifact("images", 1, {}, {})
    Path(images.at(TABLE)).mkdir(parents=True)
    rows = [{"image_id": f"{i}", "image": encode(noise(20, 24, i)), "labels": [1 + i % 3]} for i in range(IMAGES)]
    pq.write_table(pa.Table.from_pylist(rows), Path(images.at(TABLE)) / "0.parquet")
    example = LabelledCrop((16, 24), 16, 3, DEFAULT)
    return TrainStream(sources=[(images, ("image", "labels"))], example=example, seed=0, batch_size=BATCH, loaders=2)


class Holder:
    """A training worker of another job."""

    def hold(self) -> None:
        """Returns once it is there."""


def batches(dataset: Dataset, workers: int) -> list[np.ndarray]:
    """What each worker gets in each step, dealt as Ray Train deals it: blocks in turn."""
    dataset.context.execution_options.preserve_order = True  # as the driver tells Ray Train
    blocks = [block["image"] for block in dataset.iter_batches(batch_size=BATCH // workers)]
    return [np.concatenate(blocks[start : start + workers]) for start in range(0, len(blocks), workers)]


def test_any_number_of_workers_sees_the_same_global_batches(cluster: Cluster, stream: TrainStream) -> None:
    one, two = (batches(stream.dataset(0, STEPS, workers), workers) for workers in (1, 2))
    assert len(one) == len(two) == STEPS
    for first, second in zip(one, two, strict=True):
        np.testing.assert_array_equal(first, second)
    assert (one[0] != one[2]).any(), "another epoch, another order and augmentation"


def test_examples_are_made_also_while_models_hold_all_processors(cluster: Cluster, stream: TrainStream) -> None:
    resources = Resources(1, cpus=ray.cluster_resources()["CPU"])
    holder = ray.remote(num_cpus=resources.reserved_cpus)(Holder).remote()
    ray.get(holder.hold.remote())
    assert len(batches(stream.dataset(0, STEPS, 1), 1)) == STEPS


def test_a_restart_goes_on_with_the_next_epoch(cluster: Cluster, stream: TrainStream) -> None:
    whole, rest = batches(stream.dataset(0, STEPS, 1), 1), batches(stream.dataset(1, STEPS, 1), 1)
    for first, second in zip(whole[2:], rest, strict=True):
        np.testing.assert_array_equal(first, second)


def test_after_the_last_epoch_nothing_is_left_although_it_was_cut_short(cluster: Cluster, stream: TrainStream) -> None:
    assert stream.dataset(3, STEPS, 1).count() == 0
