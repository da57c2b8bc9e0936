"""The stream of training examples from Ray Data, in an order determined by (seed, epoch).

Each global batch is a consecutive slice of the epoch's permutation. A block holds one worker's part of a batch, and
blocks go to the workers in turn. So the global batches are the same for any number of workers, and a restart
resumes with the next epoch's permutation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import ray.data

from amn_ray.core.artifacts import Artifact, common_ids
from amn_ray.data.transforms import epoch_order, generator
from amn_ray.platform.cluster import LIGHT_TASK_CPUS
from amn_ray.platform.mapping import numbers
from amn_ray.platform.pacing import paced

Example = dict[str, np.ndarray]
STEP = "step"
"""The column with the training step (0, 1, …) of an example."""


@dataclass(frozen=True, kw_only=True)
class TrainStream:
    """The columns to read per image, and how to make a training example from them."""

    sources: Sequence[tuple[Artifact, Sequence[str]]]
    """(artifact, columns of its table) that are joined on `image_id`; an image that one of them lacks is left out."""
    example: Callable[[dict, np.random.Generator], Example]
    """(row, generator) -> arrays of fixed shapes: decoding and augmentation, a pure function."""
    seed: int
    batch_size: int
    """Global batch size; the last incomplete batch of an epoch is dropped."""
    loaders: int
    """The number of concurrent tasks that make examples."""

    @property
    def ids(self) -> tuple[str, ...]:
        return common_ids(*(artifact for artifact, _ in self.sources))

    @property
    def steps_per_epoch(self) -> int:
        return len(self.ids) // self.batch_size

    def dataset(self, start_epoch: int, num_steps: int, num_workers: int) -> ray.data.Dataset:
        """The examples from `start_epoch` to step `num_steps`, in order, one block per worker and step."""
        steps = max(0, num_steps - start_epoch * self.steps_per_epoch)  # the last epoch may be shorter
        first = start_epoch * self.steps_per_epoch * self.batch_size
        blocks = max(1, steps * num_workers)
        max_concurrency = min(self.loaders, blocks)
        positions = numbers(steps * self.batch_size, blocks, max_concurrency)
        return paced(
            positions.map_batches(
                self._load,
                fn_kwargs={"first": first},
                batch_size=None,
                num_cpus=LIGHT_TASK_CPUS,
                concurrency=max_concurrency,
            )
        )

    def _load(self, batch: dict[str, np.ndarray], first: int) -> Example:
        ids = self.ids
        rows_per_epoch = self.steps_per_epoch * self.batch_size
        examples = []
        for position in batch["id"] + first:
            epoch, offset = divmod(int(position), rows_per_epoch)
            image_id = ids[epoch_order(len(ids), self.seed, epoch)[offset]]
            row: dict = {}
            for artifact, columns in self.sources:
                row |= artifact.table().take([image_id], columns)[0]
            example = self.example(row, generator(self.seed, epoch, image_id))
            examples.append(example | {STEP: np.int64(position // self.batch_size)})
        return {name: np.stack([example[name] for example in examples]) for name in examples[0]}
