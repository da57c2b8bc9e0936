"""The training specification sent from the driver to every worker. Importable without PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from amn_ray.core.artifacts import Artifact
from amn_ray.platform.cluster import Resources
from amn_ray.training.stream import TrainStream

TRAINING_METRICS = ("loss", "images_per_second")
"""Metrics of the last epoch, reported by every training stage."""
HISTORY = "history.json"
BACKBONE = "backbone.safetensors"
MAX_CHECKPOINTS = 100
"""The maximum number of checkpoints of one training."""
Probe = Callable[..., dict[str, float]]
"""Measures a network during its training, without changing it: (network in eval mode, its device, rank, number of
workers) -> metrics. All workers call it."""


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """The specification of one training."""

    config: Any
    """The stage's own configuration."""
    num_classes: int
    """N, without the background."""
    output: Artifact
    backbone: Artifact | None
    """Holds the initial weights; None starts from random ones."""
    stream: TrainStream
    num_steps: int
    """Optimizer steps in total; the last epoch may be shorter."""
    resources: Resources
    """The number of workers and the resources of each."""
    probe: Probe | None = None
    """Called after each reported epoch; its metrics are added to the report."""

    @property
    def num_epochs(self) -> int:
        return math.ceil(self.num_steps / self.stream.steps_per_epoch)

    @property
    def epochs_per_checkpoint(self) -> int:
        """1, or more if there are many short epochs."""
        return math.ceil(self.num_epochs / MAX_CHECKPOINTS)

    def steps_of(self, epoch: int) -> int:
        """The number of steps of an epoch (0, 1, …)."""
        return min(self.stream.steps_per_epoch, self.num_steps - epoch * self.stream.steps_per_epoch)
