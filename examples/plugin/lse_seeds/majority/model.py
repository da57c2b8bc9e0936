"""Majority vote. Legend: H W = pixels, K = classes of the image; local labels are 0 = background, 1…K its classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import convolve1d

from amn_ray.data.maps import combined_seed, hard_labels
from lse_seeds.majority.config import MajorityConfig


def majority(labels_HW: np.ndarray, num_labels: int, window: int) -> np.ndarray:
    """The label that most pixels of a square around each pixel have; the smallest of several.

    Args:
        labels_HW: integers 0…num_labels−1; beyond the border lies its nearest pixel.
        num_labels: how many there are.
        window: side of the square.

    Returns:
        int32 (H, W).
    """
    ones = np.ones(window, np.int32)
    best_HW, winner_HW = np.full(labels_HW.shape, -1, np.int32), np.zeros(labels_HW.shape, np.int32)
    for label in range(num_labels):
        votes_HW = (labels_HW == label).astype(np.int32)
        for axis in (0, 1):
            votes_HW = convolve1d(votes_HW, ones, axis, mode="nearest")
        winner_HW[votes_HW > best_HW] = label
        best_HW = np.maximum(best_HW, votes_HW)
    return winner_HW


def majority_seed(maps_KHW: np.ndarray, keys: Sequence[int], config: MajorityConfig) -> np.ndarray:
    """The seed of an image: the vote on the labels at each of two thresholds.

    Args:
        maps_KHW: float32 maps of the classes `keys`, at the image's size.
        keys: K labels 1…N.
        config: thresholds and window.

    Returns:
        uint8 (H, W), see amn_ray.data.maps.combined_seed.
    """
    sure_HW, any_HW = (
        majority(hard_labels(maps_KHW, threshold), len(keys) + 1, config.window)
        for threshold in (config.conf_fg, config.conf_bg)
    )
    return combined_seed(sure_HW, any_HW, keys)
