"""Average precision against a sum by hand, a brute force and its properties."""

from __future__ import annotations

import numpy as np
import pytest

from amn_ray.evaluation.ranking import average_precision, mean_average_precision


def test_average_precision_of_a_list_that_was_computed_by_hand() -> None:
    # Ranked: true, false, true, false. Precision at the true ones 1/1 and 2/3, each a half of the recall.
    scores, is_true = np.array([0.9, 0.8, 0.7, 0.1]), np.array([True, False, True, False])
    assert average_precision(scores, is_true) == pytest.approx((1 + 2 / 3) / 2)


def test_a_perfect_ranking_is_1_and_a_class_that_does_not_occur_is_no_number() -> None:
    scores = np.array([3.0, 2.0, 1.0])
    assert average_precision(scores, np.array([True, True, False])) == 1
    assert np.isnan(average_precision(scores, np.zeros(3, bool)))


def test_images_of_equal_score_count_together_in_whatever_order_they_come() -> None:
    scores, is_true = np.array([1.0, 1.0, 0.0]), np.array([False, True, True])
    expected = 0.5 * (1 / 2) + 0.5 * (2 / 3)
    for order in ([0, 1, 2], [1, 0, 2], [2, 1, 0]):
        assert average_precision(scores[order], is_true[order]) == pytest.approx(expected)


def brute_force(scores: np.ndarray, is_true: np.ndarray) -> float:
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        chosen = scores >= threshold
        recall = (chosen & is_true).sum() / is_true.sum()
        total += (recall - before) * (chosen & is_true).sum() / chosen.sum()
        before = recall
    return total


def test_it_equals_a_brute_force_over_all_thresholds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores, is_true = rng.integers(0, 8, 20).astype(float), rng.random(20) < 0.4
        if is_true.any():
            assert average_precision(scores, is_true) == pytest.approx(brute_force(scores, is_true))


def test_the_mean_is_over_the_classes_that_occur() -> None:
    scores = np.array([[0.9, 0.1, 0.3], [0.2, 0.8, 0.5]])
    is_true = np.array([[True, True, False], [False, False, False]])
    assert mean_average_precision(scores, is_true) == pytest.approx((1 + 1 / 2) / 2)
    assert np.isnan(mean_average_precision(scores, np.zeros((2, 3), bool)))
