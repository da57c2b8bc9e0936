"""Is a difference larger than the noise? Means over seeds, and a paired bootstrap over images.

Legend: S = seeds, n = images, C = N+1 labels; counts are (hits, true, predicted) pixels of each label.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from amn_ray.evaluation.thresholds import ImageCounts

RESAMPLES = 2000


def counts_by_label(image: ImageCounts, num_classes: int, threshold: int | None = None) -> np.ndarray:
    """The contribution of one image to every label's IoU: int64 (3, C), rows hits, true and predicted pixels.

    Args:
        image: of maps, or of a mask (a single bin).
        num_classes: N.
        threshold: the index of τ in the grid that the maps were counted with; None for a mask.
    """
    if threshold is None:
        confusion = image.counts[..., 0].astype(np.int64)
    else:
        confusion = image.counts[..., threshold + 1 :].sum(-1, dtype=np.int64)
        confusion[:, 0] = 0
        confusion[:, 0] = image.counts.sum((1, 2), dtype=np.int64) - confusion.sum(1)
    counts = np.zeros((3, num_classes + 1), np.int64)
    counts[1, image.truth] = confusion.sum(1)
    counts[2, image.predicted] = confusion.sum(0)
    for row, label in enumerate(image.truth):
        counts[0, label] = confusion[row, image.predicted == label].sum()
    return counts


def miou_of_counts(counts: np.ndarray) -> np.ndarray:
    """Summed counts (…, 3, C) -> mIoU (…) over the labels that occur; NaN where none does."""
    hits, true, predicted = np.moveaxis(np.asarray(counts, np.float64), -2, 0)
    union = true + predicted - hits
    occurs = union > 0
    iou = np.divide(hits, union, out=np.zeros_like(hits), where=occurs)
    number = occurs.sum(-1)
    return np.divide(iou.sum(-1), number, out=np.full(np.shape(number), np.nan), where=number > 0)


@dataclass(frozen=True)
class Difference:
    """A difference of mIoU, in [−1, 1], with the 95 % confidence interval of a paired bootstrap over images."""

    value: float
    low: float
    high: float
    images: int
    by_seed: tuple[float, ...]
    """The difference with each seed: `value` is their mean."""

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def paired_difference(first: np.ndarray, second: np.ndarray, rng: int = 0) -> Difference:
    """MIoU of `first` minus mIoU of `second`, averaged over the seeds.

    Both are scored on the same images, so each resample takes the same images for both (and for all seeds). Variation
    between seeds is not in the interval, but in `by_seed`.

    Args:
        first: counts (S, n, 3, C).
        second: counts (S, n, 3, C), of the same seeds and images.
        rng: the seed of the resampling.

    Raises:
        ValueError: the shapes differ, or there are fewer than two images.
    """
    if first.shape != second.shape or first.shape[1] < 2:
        raise ValueError(f"counts {first.shape} and {second.shape}: must be equal, of at least two images")
    images = first.shape[1]
    both = np.stack([first, second]).astype(np.float64)  # (2, S, n, 3, C)
    by_image = np.moveaxis(both, 2, 0).reshape(images, -1)

    def difference(chosen: np.ndarray, axis: int = -1) -> np.ndarray:
        """Indices of images (…, n) -> the difference on these images (…)."""
        rows = np.moveaxis(chosen, axis, -1).reshape(-1, chosen.shape[axis])
        weights = np.stack([np.bincount(row, minlength=images) for row in rows])
        total = (weights @ by_image).reshape(len(rows), *both.shape[:2], *both.shape[3:])
        miou = miou_of_counts(total).mean(-1)  # (…, 2)
        return (miou[:, 0] - miou[:, 1]).reshape(np.delete(chosen.shape, axis))

    everything = np.arange(images)
    interval = stats.bootstrap(
        (everything,), difference, vectorized=True, n_resamples=RESAMPLES, batch=100, method="percentile", rng=rng
    ).confidence_interval
    per_seed = np.diff(miou_of_counts(both.sum(2))[::-1], axis=0)[0]
    return Difference(
        float(difference(everything)), float(interval.low), float(interval.high), images, tuple(per_seed.tolist())
    )


def mean_std(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation of a sample (NaN of a single value; both NaN of none)."""
    if not values:
        return float("nan"), float("nan")
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
