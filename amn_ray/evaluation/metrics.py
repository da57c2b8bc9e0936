"""The metrics of a confusion matrix. A plug-in adds one by `register`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from amn_ray.core.errors import RequestError, RunError
from amn_ray.evaluation.confusion import foreground_error_rates, foreground_precision_recall, mean_iou

Metric = Callable[[np.ndarray], float]
"""A confusion matrix int64 (N+1, N+1), rows = truth, columns = prediction -> a number. It is pickled for workers."""


def _miou(confusion: np.ndarray) -> float:
    return float(mean_iou(confusion))


def _false_positive(confusion: np.ndarray) -> float:
    return foreground_error_rates(confusion)[0]


def _false_negative(confusion: np.ndarray) -> float:
    return foreground_error_rates(confusion)[1]


def _precision(confusion: np.ndarray) -> float:
    return foreground_precision_recall(confusion)[0]


def _recall(confusion: np.ndarray) -> float:
    return foreground_precision_recall(confusion)[1]


PARTS = ("selection_miou", "report_miou")
"""mIoU of the selection split and of the report split (see selection.py)."""
OF_MAPS = ("best_miou", "best_tau", "tau_width", "tau_width_1", "selection_tau")
"""Metrics of maps only."""
OF_MASKS = ("undefined",)
"""Metrics of masks only."""
OF_ALL = ("all_miou", "all_best_miou")
"""mIoU of all images that have masks, if these are more than the evaluated ones; the second one, at its own best τ, is
for maps only."""
OF_STEPS = ("seconds", "images_per_second", "loss")
"""Metrics that steps report themselves, under the same prefix."""


@dataclass(frozen=True)
class Measured:
    """A registered metric."""

    metric: Metric
    version: int = 1


_METRICS: dict[str, Measured] = {
    "miou": Measured(_miou),
    "false_positive": Measured(_false_positive),
    "false_negative": Measured(_false_negative),
    "precision": Measured(_precision),
    "recall": Measured(_recall),
}


def register(name: str, metric: Metric, version: int = 1) -> None:
    """Add a metric to all scores of maps and masks.

    Args:
        name: of the metric; it is reported as `<step>/<name>`.
        metric: a function that other processes can import.
        version: increase it when the definition changes; scores are then recomputed.

    Raises:
        RequestError: another metric has that name.
        ValueError: the name is invalid.
    """
    if not re.fullmatch(r"\w+", name):
        raise ValueError(f"metric {name!r}: must be letters, digits and _ only")
    existing = _METRICS.setdefault(name, Measured(metric, version))
    if existing != Measured(metric, version) or name in (*PARTS, *OF_MAPS, *OF_MASKS, *OF_ALL, *OF_STEPS):
        raise RequestError(f"metric {name}: is declared twice; give one of them another name")


def metrics() -> Mapping[str, Metric]:
    """All metrics by name."""
    return {name: measured.metric for name, measured in _METRICS.items()}


def versions() -> list[str]:
    """The names of all metrics, with the version if it is not 1."""
    return [name if item.version == 1 else f"{name} {item.version}" for name, item in _METRICS.items()]


def measure(confusion: np.ndarray, measured: Mapping[str, Metric]) -> dict[str, float]:
    """The value of each metric.

    Raises:
        RunError: one of them cannot be computed.
    """
    values = {}
    for name, metric in measured.items():
        try:
            values[name] = float(metric(confusion))
        except Exception as error:  # of any kind: it may be third-party code
            raise RunError(f"metric {name}: failed ({type(error).__name__}: {' '.join(str(error).split())})") from error
    return values
