"""mIoU and related metrics, all from one confusion matrix over a whole split.

Legend: N = classes without background; a confusion matrix is int64 (N+1, N+1), rows = truth, columns = prediction.
"""

from __future__ import annotations

import numpy as np

from amn_ray.data.source import IGNORE


def confusion_matrix(truth_HW: np.ndarray, prediction_HW: np.ndarray, num_classes: int) -> np.ndarray:
    """Count pixels by (truth, prediction); truth of 255 is ignored.

    Args:
        truth_HW: labels 0…N or 255.
        prediction_HW: labels 0…N; 255 (undefined) counts as background, as in the field's evaluation scripts.
        num_classes: N.

    Returns:
        int64 (N+1, N+1).
    """
    size = num_classes + 1
    valid = truth_HW != IGNORE
    prediction = np.where(prediction_HW == IGNORE, 0, prediction_HW)[valid].astype(np.int64)
    return np.bincount(truth_HW[valid].astype(np.int64) * size + prediction, minlength=size * size).reshape(size, size)


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """IoU of each class, float64 (…, N+1), of confusion matrices (…, N+1, N+1).

    NaN where a class occurs neither in the truth nor in the prediction.
    """
    hit = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    union = confusion.sum(-1) + confusion.sum(-2) - hit
    return np.divide(hit, union, out=np.full_like(hit, np.nan), where=union > 0)


def mean_iou(confusion: np.ndarray) -> np.ndarray:
    """The mean of class_iou over the classes that occur, in [0, 1]; NaN where none does."""
    iou = class_iou(confusion)
    occurs = ~np.isnan(iou)
    count = occurs.sum(-1)
    total = np.where(occurs, iou, 0).sum(-1)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def foreground_error_rates(confusion: np.ndarray) -> tuple[float, float]:
    """(false-positive, false-negative) rate: the mean over foreground classes of wrong (missed) pixels by union."""
    hit = np.diagonal(confusion).astype(np.float64)
    predicted, truth = confusion.sum(0), confusion.sum(1)
    union = predicted + truth - hit
    occurs = union > 0
    occurs[0] = False
    if not occurs.any():
        return float("nan"), float("nan")
    over, missed = (predicted - hit)[occurs] / union[occurs], (truth - hit)[occurs] / union[occurs]
    return float(over.mean()), float(missed.mean())


def foreground_precision_recall(confusion: np.ndarray) -> tuple[float, float]:
    """(precision, recall): the means over the foreground classes that occur of hits by predicted (true) pixels.

    A class that is never predicted has precision 0, one that is never true recall 0.
    """
    hit = np.diagonal(confusion)[1:].astype(np.float64)
    predicted, truth = confusion.sum(0)[1:], confusion.sum(1)[1:]
    occurs = predicted + truth > 0
    if not occurs.any():
        return float("nan"), float("nan")
    precision, recall = hit / np.maximum(predicted, 1), hit / np.maximum(truth, 1)
    return float(precision[occurs].mean()), float(recall[occurs].mean())
