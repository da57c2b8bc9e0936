"""The score stage: maps or masks of the evaluated images → mIoU and everything around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from amn_ray.artifacts import Artifact
from amn_ray.cluster import Cluster
from amn_ray.evaluation.confusion import (
    class_iou,
    foreground_error_rates,
    foreground_precision_recall,
    mean_iou,
)
from amn_ray.evaluation.thresholds import ImageCounts, confusion_curve, tau_width, threshold_grid
from amn_ray.mapping import map_table
from amn_ray.stages.score.config import ScoreConfig
from amn_ray.stages.score.infer import COLUMNS, ScoreMaps, ScoreMasks, counts_of

NAME = "score"
VERSION = 3
TABLE = "images"


def run(
    config: ScoreConfig | None, inputs: Mapping[str, Artifact], output: Artifact, cluster: Cluster
) -> dict[str, Any]:
    """Score all images that have ground truth.

    Inputs: `images`, and either `maps` (with a config) or `masks`.
    """
    images = inputs["images"]
    classes = images.manifest()["classes"]
    grid = None if config is None else _grid(config)
    mapper, settings = (
        (ScoreMaps, {"maps": inputs["maps"], "grid": grid})
        if config is not None
        else (ScoreMasks, {"masks": inputs["masks"], "num_classes": len(classes)})
    )
    map_table(cluster, (images, "rows"), COLUMNS, mapper, settings, (output, TABLE), share=None)
    rows = images.manifest()["rows"]
    if config is not None and grid is not None:
        return {"rows": rows} | _of_maps(output, config, grid, classes)
    return {"rows": rows} | _of_masks(output, classes)


def _grid(config: ScoreConfig) -> np.ndarray:
    return np.union1d(threshold_grid(config.num_thresholds), [config.threshold])


def _scored(output: Artifact) -> Iterator[ImageCounts]:
    for row in output.table(TABLE).read(["truth", "predicted", "counts"]).to_pylist():
        if row["counts"] is not None:
            yield counts_of(row)


def _of_maps(output: Artifact, config: ScoreConfig, grid: np.ndarray, classes: list[str]) -> dict[str, Any]:
    confusion_T = confusion_curve(_scored(output), len(classes), len(grid))
    miou_T = mean_iou(confusion_T)
    if np.isnan(miou_T).all():
        return {"metrics": {}}
    best = int(miou_T.argmax())
    default = int(np.flatnonzero(grid == config.threshold)[0])
    return {
        "metrics": {
            "miou": float(miou_T[default]),
            "best_miou": float(miou_T[best]),
            "best_tau": float(grid[best]),
            "tau_width": tau_width(grid, miou_T, 2),
            "tau_width_1": tau_width(grid, miou_T, 1),
            **_foreground(confusion_T[default]),
        },
        "confusion": confusion_T[default].tolist(),
        "curve": {"tau": grid.tolist(), "miou": miou_T.tolist()},
        "iou": _by_class(confusion_T[default], classes),
        "best_iou": _by_class(confusion_T[best], classes),
    }


def _of_masks(output: Artifact, classes: list[str]) -> dict[str, Any]:
    size = len(classes) + 1
    confusion = np.zeros((size, size), np.int64)
    for image in _scored(output):
        confusion[np.ix_(image.truth, image.predicted)] += image.counts[..., 0]
    if not confusion.any():
        return {"metrics": {}}
    undefined = output.table(TABLE).column("undefined")
    return {
        "metrics": {
            "miou": float(mean_iou(confusion)),  # undefined pixels count as background
            "undefined": float(np.mean([share for share in undefined.values() if share is not None])),
            **_foreground(confusion),
        },
        "confusion": confusion.tolist(),
        "iou": _by_class(confusion, classes),
    }


def _foreground(confusion: np.ndarray) -> dict[str, float]:
    over, missed = foreground_error_rates(confusion)
    precision, recall = foreground_precision_recall(confusion)
    return {"false_positive": over, "false_negative": missed, "precision": precision, "recall": recall}


def _by_class(confusion: np.ndarray, classes: list[str]) -> dict[str, float | None]:
    """IoU by class name; None where a class does not occur."""
    values = class_iou(confusion)
    return {
        name: None if np.isnan(value) else float(value)
        for name, value in zip(["background", *classes], values, strict=True)
    }
