"""Every threshold in one pass over the maps, exactly (paper Figures 1a and 6).

A pixel's prediction depends on τ in one way only: it is the class of its largest map value v while v > τ, and
background from then on. So it is enough to count, for each (truth, best class), how many pixels have a v between two
neighbouring thresholds; cumulative sums then give the confusion matrix at each of them, without rounding.

Legend: H W = pixels, K = classes of the image, G = distinct truth labels in it, T = thresholds, N = classes without
background. Bin b of T+1 holds the pixels whose v lies above exactly b of the ascending thresholds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from amn_ray.data.source import IGNORE
from amn_ray.evaluation.confusion import mean_iou


def threshold_grid(count: int) -> np.ndarray:
    """`count` equidistant thresholds from 0 to 1."""
    return np.linspace(0, 1, count)


@dataclass(frozen=True)
class ImageCounts:
    """The pixels of one image by truth, best class and bin: all that evaluation needs."""

    truth: np.ndarray
    """int16 (G,): the truth labels that occur, ascending, without 255."""
    predicted: np.ndarray
    """int16 (P,): the labels that can be predicted; 0 comes first."""
    counts: np.ndarray
    """int32 (G, P, T+1)."""


def count_image(maps_KHW: np.ndarray, keys: Sequence[int], truth_HW: np.ndarray, grid: np.ndarray) -> ImageCounts:
    """One pass over an image.

    Args:
        maps_KHW: float32 maps of the classes `keys`.
        keys: K labels 1…N.
        truth_HW: uint8 ground truth, 0…N or 255.
        grid: ascending thresholds (T,), any spacing.
    """
    valid = truth_HW.ravel() != IGNORE
    occurs = np.zeros(256, bool)
    occurs[truth_HW] = True
    occurs[IGNORE] = False
    truth = np.flatnonzero(occurs)
    local_of = np.zeros(256, np.int64)
    local_of[truth] = np.arange(truth.size)
    bins, columns = len(grid) + 1, len(keys) + 1
    cell = local_of[truth_HW.ravel()] * (columns * bins)
    if keys:
        flat = maps_KHW.reshape(len(keys), -1)
        best = flat.argmax(0) if len(keys) > 1 else np.zeros(flat.shape[1], np.int64)
        value = flat.max(0) if len(keys) > 1 else flat[0]
        cell += (best + 1) * bins + _bins(value, grid)
    counts = np.bincount(cell[valid], minlength=truth.size * columns * bins)
    return ImageCounts(
        truth.astype(np.int16),
        np.array([0, *keys], np.int16),
        counts.reshape(truth.size, columns, bins).astype(np.int32),
    )


def _bins(value: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """How many thresholds lie strictly below each value: int64."""
    return np.searchsorted(grid, value, side="left")


def confusion_curve(images: Iterable[ImageCounts], num_classes: int, num_thresholds: int) -> np.ndarray:
    """Confusion matrices over a split at every threshold: int64 (T, N+1, N+1)."""
    size = num_classes + 1
    total = np.zeros((size, size, num_thresholds + 1), np.int64)
    for image in images:
        total[np.ix_(image.truth, image.predicted)] += image.counts
    return confusion_from_bins(total)


def confusion_from_bins(counts: np.ndarray) -> np.ndarray:
    """Counts (G, P, T+1) -> confusion matrices int64 (T, G, P), at each threshold; column 0 is background."""
    above = counts[..., ::-1].cumsum(-1)[..., ::-1]  # above[…, b]: pixels of bin b and higher
    confusion = np.moveaxis(above[..., 1:], -1, 0).astype(np.int64)  # v > grid[t] ⇔ bin > t
    confusion[..., 0] = 0
    confusion[..., 0] = counts.sum((1, 2)) - confusion.sum(-1)
    return confusion


def best_threshold(image: ImageCounts, grid: np.ndarray) -> tuple[float, float]:
    """(τ, mIoU) at which one image is segmented best: the middle of the best thresholds, if several tie.

    The mIoU is over the background and the image's classes, in truth or labels (paper Figure 1a).
    """
    labels = np.union1d(image.truth, image.predicted)
    counts = np.zeros((labels.size, labels.size, len(grid) + 1), np.int64)
    rows, columns = np.searchsorted(labels, image.truth), np.searchsorted(labels, image.predicted)
    counts[np.ix_(rows, columns)] = image.counts
    curve = mean_iou(confusion_from_bins(counts))
    ties = np.flatnonzero(curve >= np.nanmax(curve))
    return float(grid[ties[len(ties) // 2]]), float(curve[ties[0]])


def tau_width(grid: np.ndarray, miou_T: np.ndarray, points: float) -> float:
    """The length of the range of τ around the best one in which mIoU stays within `points` percent of the best."""
    near = miou_T >= np.nanmax(miou_T) - points / 100
    best = int(np.nanargmax(miou_T))
    low = high = best
    while low > 0 and near[low - 1]:
        low -= 1
    while high < len(grid) - 1 and near[high + 1]:
        high += 1
    return float(grid[high] - grid[low])
