"""How well a classifier ranks images: average precision.

Legend: n = images, N = classes.
"""

from __future__ import annotations

import numpy as np


def average_precision(scores_n: np.ndarray, is_true_n: np.ndarray) -> float:
    """The area under the precision-recall curve, as a sum over its steps: Σ (R_i − R_{i−1}) · P_i.

    Images of equal score count as one step, so that their order does not matter.

    Args:
        scores_n: float; higher is more likely.
        is_true_n: bool.

    Returns:
        In [0, 1]; NaN if no image is true.
    """
    if not is_true_n.any():
        return float("nan")
    order = np.argsort(-scores_n, kind="stable")
    hits = np.cumsum(is_true_n[order])
    last = np.append(np.flatnonzero(np.diff(scores_n[order])), len(order) - 1)  # of each group of equal scores
    recall, precision = hits[last] / hits[-1], hits[last] / (last + 1)
    return float(np.sum(np.diff(recall, prepend=0) * precision))


def mean_average_precision(scores_nN: np.ndarray, is_true_nN: np.ndarray) -> float:
    """The mean of average_precision over the classes that occur; NaN where none does."""
    by_class = [average_precision(scores_nN[:, i], is_true_nN[:, i]) for i in range(scores_nN.shape[1])]
    defined = [value for value in by_class if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")
