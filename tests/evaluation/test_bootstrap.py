"""Differences against the noise: brute force, and what must hold for any data."""

from __future__ import annotations

import numpy as np
import pytest

from amn_ray.evaluation.bootstrap import (
    counts_by_label,
    mean_std,
    miou_of_counts,
    paired_difference,
)
from amn_ray.evaluation.confusion import mean_iou
from amn_ray.evaluation.selection import report_ids, selection_ids
from amn_ray.evaluation.thresholds import ImageCounts, confusion_curve

N = 4


def images(count: int, bins: int, seed: int = 0) -> list[ImageCounts]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        truth = np.sort(rng.choice(N + 1, rng.integers(1, 4), replace=False)).astype(np.int16)
        predicted = np.array(
            [0, *np.sort(rng.choice(np.arange(1, N + 1), rng.integers(0, 3), replace=False))], np.int16
        )
        counts = rng.integers(0, 50, (len(truth), len(predicted), bins)).astype(np.int32)
        if bins > 1:
            counts[:, 0, 1:] = 0  # the background is predicted where no map is above τ, not by a map of its own
        made.append(ImageCounts(truth, predicted, counts))
    return made


def test_counts_of_images_add_up_to_the_confusion_matrix_at_every_threshold() -> None:
    made = images(12, bins=6)
    curve = confusion_curve(made, N, 5)
    for index in range(5):
        total = sum(counts_by_label(image, N, index) for image in made)
        expected = [np.diagonal(curve[index]), curve[index].sum(1), curve[index].sum(0)]
        np.testing.assert_array_equal(total, expected)
        assert miou_of_counts(total) == pytest.approx(mean_iou(curve[index]))


def test_counts_of_masks_are_those_of_their_single_bin() -> None:
    (image,) = images(1, bins=1)
    counts = counts_by_label(image, N)
    assert counts[1].sum() == counts[2].sum() == image.counts.sum()
    hits = sum(
        int(image.counts[row, column, 0])
        for row, label in enumerate(image.truth)
        for column, other in enumerate(image.predicted)
        if label == other
    )
    assert counts[0].sum() == hits


def two_sides(seeds: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    first = [[counts_by_label(image, N) for image in images(count, 1, seed)] for seed in range(seeds)]
    second = [[counts_by_label(image, N) for image in images(count, 1, seed + 100)] for seed in range(seeds)]
    return np.array(first), np.array(second)


def test_the_interval_is_that_of_resampling_images_in_a_loop() -> None:
    first, second = two_sides(seeds=2, count=30)
    found = paired_difference(first, second)

    def difference(chosen: np.ndarray) -> float:
        sides = [np.mean([miou_of_counts(side[seed, chosen].sum(0)) for seed in range(2)]) for side in (first, second)]
        return float(sides[0] - sides[1])

    rng = np.random.default_rng(5)
    loop = [difference(rng.integers(0, 30, 30)) for _ in range(4000)]
    assert found.value == pytest.approx(difference(np.arange(30)))
    low, high = np.quantile(loop, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.1 * (high - low))
    assert found.high == pytest.approx(high, abs=0.1 * (high - low))
    assert found.images == 30
    sides = [[miou_of_counts(side[seed].sum(0)) for seed in range(2)] for side in (first, second)]
    assert found.by_seed == pytest.approx(np.subtract(*sides))


def test_equal_sides_differ_by_nothing_and_swapped_sides_by_the_opposite() -> None:
    first, second = two_sides(seeds=1, count=20)
    same = paired_difference(first, first)
    assert (same.value, same.low, same.high, same.beyond_noise) == (0, 0, 0, False)
    there, back = paired_difference(first, second), paired_difference(second, first)
    assert there.value == -back.value
    assert there.low == pytest.approx(-back.high)


def test_a_side_that_is_right_everywhere_is_better_beyond_the_noise() -> None:
    wrong, _ = two_sides(seeds=1, count=40)
    right = wrong.copy()
    right[:, :, 0] = right[:, :, 2] = right[:, :, 1]
    found = paired_difference(right, wrong)
    assert found.beyond_noise
    assert found.low > 0.3


def test_one_image_is_no_sample() -> None:
    first, second = two_sides(seeds=1, count=1)
    with pytest.raises(ValueError, match="at least two images"):
        paired_difference(first, second)


def test_mean_and_deviation_are_those_of_a_sample() -> None:
    assert mean_std([1.0, 2.0, 6.0]) == pytest.approx((3.0, np.sqrt(7)))
    mean, std = mean_std([0.5])
    assert mean == 0.5
    assert np.isnan(std)
    assert np.isnan(mean_std([])).all()


@pytest.mark.parametrize("count", [0, 1, 5, 23])
def test_images_either_select_or_report(count: int) -> None:
    ids = [f"{number:03}" for number in range(count)]
    selecting, reporting = selection_ids(reversed(ids)), report_ids(ids)
    assert sorted([*selecting, *reporting]) == ids
    assert len(selecting) == -(-count // 5)
