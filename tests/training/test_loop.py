"""The inside of a training worker, as far as it needs no cluster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from amn_ray.training.loop import Loop, average
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


def test_averages_of_three_steps_are_those_computed_by_hand() -> None:
    """d = min(decay, (1 + t) / (10 + t)): 1/10, 2/11, 3/12; with a decay of 0.2 the third is 0.2."""
    averaged, model = nn.Linear(1, 1), nn.Linear(1, 1)
    weights = (4.0, 1.0, 7.0)
    for decay, shares in ((0.9, (1 / 10, 2 / 11, 3 / 12)), (0.2, (1 / 10, 2 / 11, 0.2))):
        expected = 2.0
        nn.init.constant_(averaged.weight, expected)
        for step, (weight, share) in enumerate(zip(weights, shares, strict=True)):
            nn.init.constant_(model.weight, weight)
            average(averaged, model, decay, step)
            expected = share * expected + (1 - share) * weight
            assert averaged.weight.item() == pytest.approx(expected)
    by_hand = 0.25 * (2 / 11 * (0.1 * 2 + 0.9 * 4) + 9 / 11 * 1) + 0.75 * 7
    nn.init.constant_(averaged.weight, 2.0)
    for step, weight in enumerate(weights):
        nn.init.constant_(model.weight, weight)
        average(averaged, model, 0.999, step)
    assert averaged.weight.item() == pytest.approx(by_hand)


def test_statistics_are_copied_and_not_averaged(loop: Loop) -> None:
    loop.plain_model, loop.averaged = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    loop.plain_model.running_mean.fill_(3.0)
    loop.plain_model.weight.data.fill_(5.0)
    stored = loop._result()
    assert stored.running_mean.tolist() == [3.0, 3.0]
    assert stored.weight.tolist() == [1.0, 1.0]
    loop.averaged = None
    assert loop._result() is loop.plain_model
