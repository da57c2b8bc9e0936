"""What a driver tells its training workers. Importable without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amn_ray.artifacts import Artifact
from amn_ray.cluster import Share
from amn_ray.training.feed import Feed

MODEL = "model.safetensors"
HISTORY = "history.json"
BACKBONE = "backbone.safetensors"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a driver tells its workers."""

    config: Any
    """The stage's own configuration; the loop reads its `precision`."""
    num_classes: int
    """N, without the background."""
    output: Artifact
    backbone: Artifact | None
    """Where the initial weights are; None starts from random ones."""
    feed: Feed
    share: Share
    """How many workers there are, and what each gets."""

    @property
    def steps_per_epoch(self) -> int:
        return self.feed.steps_per_epoch

    @property
    def num_steps(self) -> int:
        return self.feed.epochs * self.feed.steps_per_epoch
