"""The one-pass sweep against brute force, and the numbers that follow from it by hand."""

from __future__ import annotations

import numpy as np
import pytest

from amn_ray.evaluation.confusion import (
    class_iou,
    confusion_matrix,
    foreground_error_rates,
    foreground_precision_recall,
    mean_iou,
)
from amn_ray.evaluation.thresholds import (
    best_threshold,
    confusion_curve,
    confusion_from_bins,
    count_image,
    tau_width,
    threshold_grid,
)

N = 6


def scene(seed: int, keys: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Float16-grained maps, with many values that equal a threshold exactly, and a truth with 255."""
    rng = np.random.default_rng(seed)
    maps = rng.random((len(keys), 23, 31)).astype(np.float16).astype(np.float32)
    maps[maps < 0.2] = 0
    if len(keys):
        maps[0, :5] = threshold_grid(101)[rng.integers(0, 101, (5, 31))].astype(np.float32)
    truth = rng.choice([0, 0, 0, 2, 5, 255], (23, 31)).astype(np.uint8)
    return maps, truth


def brute_force(maps: np.ndarray, keys: list[int], truth: np.ndarray, tau: float) -> np.ndarray:
    """Threshold, label, count: one τ at a time."""
    prediction = np.zeros(truth.shape, np.uint8)
    if keys:
        prediction = np.where(maps.max(0) > tau, np.array(keys, np.uint8)[maps.argmax(0)], 0)
    confusion = np.zeros((N + 1, N + 1), np.int64)
    for t, p in zip(truth.ravel(), prediction.ravel(), strict=True):
        if t != 255:
            confusion[t, p] += 1
    return confusion


@pytest.mark.parametrize("grid", [threshold_grid(101), np.array([0.0, 0.1, 0.15, 0.7, 1.0]), np.array([0.33])])
def test_the_one_pass_sweep_equals_brute_force_at_every_threshold(grid: np.ndarray) -> None:
    images = [(0, [2]), (1, [2, 5]), (2, [1, 3, 6]), (3, [])]
    counts = [count_image(maps, keys, truth, grid) for seed, keys in images for maps, truth in [scene(seed, keys)]]
    curve = confusion_curve(counts, N, len(grid))
    for index, tau in enumerate(grid):
        expected = sum(
            brute_force(maps, keys, truth, tau) for seed, keys in images for maps, truth in [scene(seed, keys)]
        )
        np.testing.assert_array_equal(curve[index], expected)


def test_the_best_threshold_of_an_image_is_found_by_trying_all() -> None:
    grid = threshold_grid(21)
    maps, truth = scene(5, [2, 5])
    tau, miou = best_threshold(count_image(maps, [2, 5], truth, grid), grid)
    tried = [mean_iou(brute_force(maps, [2, 5], truth, candidate)) for candidate in grid]
    assert miou == pytest.approx(max(tried))
    assert tried[int(np.flatnonzero(grid == tau)[0])] == pytest.approx(max(tried))


def test_a_two_level_map_is_perfect_at_every_threshold_in_the_gap() -> None:
    truth = np.zeros((4, 4), np.uint8)
    truth[1:3, 1:3] = 1
    maps = np.where(truth == 1, 0.85, 0.15).astype(np.float32)[None]
    grid = threshold_grid(11)
    image = count_image(maps, [1], truth, grid)
    miou = mean_iou(confusion_from_bins(image.counts))
    np.testing.assert_array_equal(miou == 1, [0.15 < tau < 0.85 for tau in grid])
    assert best_threshold(image, grid)[0] == pytest.approx(0.5)


def test_confusion_counts_by_hand_and_ignores_undefined_truth() -> None:
    truth = np.array([[0, 1, 1], [2, 255, 0]], np.uint8)
    prediction = np.array([[0, 1, 0], [1, 1, 255]], np.uint8)
    expected = [[2, 0, 0], [1, 1, 0], [0, 1, 0]]
    np.testing.assert_array_equal(confusion_matrix(truth, prediction, 2), expected)


def test_iou_by_hand_with_a_class_that_does_not_occur() -> None:
    confusion = np.array([[2, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(class_iou(confusion), [2 / 3, 1 / 3, 0, np.nan])
    assert mean_iou(confusion) == pytest.approx((2 / 3 + 1 / 3) / 3)
    over, missed = foreground_error_rates(confusion)
    assert over == pytest.approx((1 / 3 + 0) / 2)
    assert missed == pytest.approx((1 / 3 + 1) / 2)
    # Class 1: 1 of 2 predicted and of 2 true pixels is hit. Class 2 is never hit. Class 3 does not occur.
    assert foreground_precision_recall(confusion) == pytest.approx((1 / 4, 1 / 4))
    never_predicted = np.array([[5, 0, 0], [1, 3, 0], [2, 0, 0]])
    assert foreground_precision_recall(never_predicted) == pytest.approx(((1 + 0) / 2, (3 / 4 + 0) / 2))
    assert all(np.isnan(foreground_precision_recall(np.array([[7, 0], [0, 0]]))))


def test_the_width_is_that_of_the_range_around_the_best_threshold_only() -> None:
    grid = threshold_grid(11)
    miou = np.array([50, 49, 30, 40, 59, 60, 58.5, 57.9, 20, 59, 10]) / 100
    assert tau_width(grid, miou, 2) == pytest.approx(0.2)
    assert tau_width(grid, miou, 1) == pytest.approx(0.1)
    assert tau_width(grid, np.full(11, 0.4), 1) == pytest.approx(1.0)
