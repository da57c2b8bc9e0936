"""The inside of a training worker, as far as it needs no cluster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from amn_ray.training.loop import Loop
from amn_ray.training.stream import STEP


def stream(*steps: list[int]) -> Iterator[dict[str, Tensor]]:
    """Batches whose examples are for these steps."""
    return iter([{STEP: torch.tensor(batch)} for batch in steps])


@pytest.fixture
def loop() -> Loop:
    """One that has not begun."""
    return object.__new__(Loop)


def test_the_batches_of_each_step_come_in_turn(loop: Loop) -> None:
    batches = stream([0, 0], [1, 1], [2, 2])
    assert [loop._batch(batches, step)[STEP].tolist() for step in range(3)] == [[0, 0], [1, 1], [2, 2]]


def test_a_feed_that_began_at_an_older_checkpoint_is_caught_up_with(loop: Loop) -> None:
    batches = stream([0, 0], [1, 1], [2, 2], [3, 3])
    assert loop._batch(batches, 2)[STEP].tolist() == [2, 2]
    assert loop._batch(batches, 3)[STEP].tolist() == [3, 3]


@pytest.mark.parametrize("batch", [[3, 3], [1, 2], [2, 3]])
def test_a_feed_that_is_ahead_or_mixes_steps_is_noticed(loop: Loop, batch: list[int]) -> None:
    told = ", ".join(map(str, sorted(set(batch))))
    with pytest.raises(RuntimeError, match=rf"^step 2 received the examples of {told}$"):
        loop._batch(stream(batch), 2)


def test_a_feed_that_ends_early_is_told_in_a_sentence(loop: Loop) -> None:
    with pytest.raises(RuntimeError, match=r"^the stream of examples ended before step 1$"):
        loop._batch(stream([0, 0]), 1)
