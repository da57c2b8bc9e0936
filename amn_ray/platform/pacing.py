"""Keeps Ray Data's scheduling loop from using a whole core while it waits.

If a consumer is slower than its stream, as training nearly always is, Ray 2.60's loop has no unfinished task to wait
for and spins: during a training on two cores it used 0.6 to 0.9 of one.
"""

from __future__ import annotations

import time

from ray.data import Dataset

from amn_ray.platform.ray_internals import ExecutionCallback

PAUSE_S = 0.02
"""Seconds between two iterations of the loop; each can start and collect any number of tasks."""


class Pause(ExecutionCallback):
    """Called by Ray Data at the end of every iteration of the scheduling loop."""

    def on_execution_step(self, executor: object) -> None:
        """See ray.data's ExecutionCallback."""
        time.sleep(PAUSE_S)


def paced(dataset: Dataset) -> Dataset:
    """The same dataset, executed without busy waiting."""
    dataset.context.custom_execution_callback_classes = [Pause]
    return dataset
