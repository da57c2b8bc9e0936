"""A metric of confusion matrices."""

from __future__ import annotations

import numpy as np

from amn_ray.evaluation.confusion import class_iou


def frequency_weighted_iou(confusion: np.ndarray) -> float:
    """The mean IoU of the labels, weighted by their pixels in the ground truth (Long et al., CVPR 2015).

    Args:
        confusion: int64 (N+1, N+1), rows = truth, columns = prediction.

    Returns:
        A number in [0, 1]; NaN without any pixel.
    """
    pixels = confusion.sum(1)
    return float(np.nansum(class_iou(confusion) * pixels) / pixels.sum()) if pixels.any() else float("nan")
