"""The score stage: maps or masks of the evaluated images → mIoU and everything around it.

Where more images have masks than are evaluated (VOC: 10,582 of train_aug, of which the paper evaluates the 1,464 of
train), the mIoU of all of them is reported, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from amn_ray.core.artifacts import Artifact, common_ids
from amn_ray.core.errors import RequestError
from amn_ray.evaluation.confusion import (
    class_iou,
    mean_iou,
)
from amn_ray.evaluation.metrics import OF_ALL, OF_MAPS, OF_MASKS, PARTS, Metric, measure, metrics, versions
from amn_ray.evaluation.selection import selection_ids
from amn_ray.evaluation.thresholds import ImageCounts, confusion_curve, tau_width, threshold_grid
from amn_ray.platform.mapping import map_table
from amn_ray.stages.score.config import ScoreConfig
from amn_ray.stages.score.infer import COLUMNS, ScoreMaps, ScoreMasks, counts_of
from amn_ray.stages.stage import Context, Result, Stage

BACKGROUND = "background"
"""The name of label 0."""
EXAMPLES = 6
"""Images that figures show."""


def score_names(*, of_maps: bool, of_all: bool = False) -> tuple[str, ...]:
    """The metrics of a score of maps or masks; `of_all`: if more images have masks than are evaluated."""
    everything = OF_ALL[: 2 if of_maps else 1] if of_all else ()
    return (*metrics(), *PARTS, *(OF_MAPS if of_maps else OF_MASKS), *everything)


def any_score() -> set[str]:
    """All metrics that a score may report."""
    return {*score_names(of_maps=True, of_all=True), *score_names(of_maps=False, of_all=True)}


def settings(threshold: float | None) -> ScoreConfig:
    """The settings of a score: of maps at τ = `threshold`, or of masks."""
    return ScoreConfig(threshold=threshold, metrics=versions())


def run(config: ScoreConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Score all images that have ground truth: their maps, or their masks."""
    classes = inputs["images"].manifest()["classes"]
    cluster, truth = context.cluster, inputs["truth"]
    (makes,) = inputs.keys() & {"maps", "masks"}
    if not common_ids(truth, inputs[makes]):
        raise RequestError(
            f"none of the images that have {makes} has ground truth, so there is nothing to compare; give {makes} of "
            "images that are evaluated, or the images without their masks"
        )
    if "maps" in inputs:
        grid = _grid(config)
        ids = common_ids(truth, inputs["maps"])
        mapped = map_table(
            cluster, truth, COLUMNS, ScoreMaps, {"maps": inputs["maps"], "grid": grid}, output, on="tasks", ids=ids
        )
        counted = cluster.run_remote(_of_maps, output, config, grid, classes, metrics())
    else:
        arguments = {"masks": inputs["masks"], "num_classes": len(classes)}
        ids = common_ids(truth, inputs["masks"])
        mapped = map_table(cluster, truth, COLUMNS, ScoreMasks, arguments, output, on="tasks", ids=ids)
        counted = cluster.run_remote(_of_masks, output, classes, metrics())
    return {"rows": mapped["rows"]} | counted


SCORE = Stage(
    name="score",
    version=8,
    config=ScoreConfig,
    makes="table",
    needs=("images", "truth"),
    optional=("maps", "masks"),
    run=run,
)


def _grid(config: ScoreConfig) -> np.ndarray:
    return np.union1d(threshold_grid(config.num_thresholds), [] if config.threshold is None else [config.threshold])


def scored(output: Artifact, *, evaluated: bool = True) -> dict[str, ImageCounts]:
    """The counts of all evaluated images with ground truth (or of the others), by id, in the order of ids."""
    rows = output.fresh_table().read(["truth", "predicted", "counts", "evaluated"]).to_pylist()
    return {
        row["image_id"]: counts_of(row) for row in rows if row["counts"] is not None and row["evaluated"] == evaluated
    }


def _of_evaluated(output: Artifact, column: str) -> list[float]:
    """The non-null values of a column of the evaluated images."""
    rows = output.fresh_table().read([column, "evaluated"]).to_pylist()
    return [row[column] for row in rows if row["evaluated"] and row[column] is not None]


def _of_maps(
    output: Artifact, config: ScoreConfig, grid: np.ndarray, classes: list[str], measured: Mapping[str, Metric]
) -> dict[str, Any]:
    images, others = scored(output), scored(output, evaluated=False)
    selecting = set(selection_ids(images))

    def curve(part: Iterable[ImageCounts]) -> np.ndarray:
        return confusion_curve(part, len(classes), len(grid))

    selection_T = curve(images[image_id] for image_id in selecting)
    report_T = curve(images[image_id] for image_id in images.keys() - selecting)
    confusion_T = selection_T + report_T
    miou_T = mean_iou(confusion_T)
    if np.isnan(miou_T).all():
        return {"metrics": {}}
    best = int(miou_T.argmax())
    default = int(np.flatnonzero(grid == config.threshold)[0])
    taus, counts = np.unique(_of_evaluated(output, "best_tau"), return_counts=True)
    all_miou_T = mean_iou(confusion_T + curve(others.values()))
    return {
        "examples": _examples(list(images)),
        "best_taus": {"tau": taus.tolist(), "images": counts.tolist()},
        "metrics": {
            **measure(confusion_T[default], measured),
            "best_miou": float(miou_T[best]),
            "best_tau": float(grid[best]),
            "tau_width": tau_width(grid, miou_T, 2),
            "tau_width_1": tau_width(grid, miou_T, 1),
            **_parts(selection_T, report_T, grid),
            **({"all_miou": float(all_miou_T[default]), "all_best_miou": float(all_miou_T.max())} if others else {}),
        },
        "confusion": confusion_T[default].tolist(),
        "curve": {"tau": grid.tolist(), "miou": miou_T.tolist()},
        "labels": [BACKGROUND, *classes],
        "iou": _iou(confusion_T[default]),
        "best_iou": _iou(confusion_T[best]),
    }


def _of_masks(output: Artifact, classes: list[str], measured: Mapping[str, Metric]) -> dict[str, Any]:
    size = len(classes) + 1
    images, others = scored(output), scored(output, evaluated=False)
    selecting = set(selection_ids(images))

    def count(part: Iterable[ImageCounts]) -> np.ndarray:
        total = np.zeros((size, size), np.int64)
        for image in part:
            total[np.ix_(image.truth, image.predicted)] += image.counts[..., 0]
        return total

    selection = count(images[image_id] for image_id in selecting)
    report = count(images[image_id] for image_id in images.keys() - selecting)
    confusion = selection + report
    if not confusion.any():
        return {"metrics": {}}
    return {
        "examples": _examples(list(images)),
        "metrics": {
            **measure(confusion, measured),  # undefined pixels are background
            "undefined": float(np.mean(_of_evaluated(output, "undefined"))),
            "selection_miou": float(mean_iou(selection)),
            **({"report_miou": float(mean_iou(report))} if report.any() else {}),
            **({"all_miou": float(mean_iou(confusion + count(others.values())))} if others else {}),
        },
        "confusion": confusion.tolist(),
        "labels": [BACKGROUND, *classes],
        "iou": _iou(confusion),
    }


def _examples(scored_ids: list[str]) -> list[str]:
    """A fixed selection of scored images, spread evenly over the split."""
    return [scored_ids[i] for i in np.linspace(0, len(scored_ids) - 1, min(EXAMPLES, len(scored_ids))).astype(int)]


def _parts(selection_T: np.ndarray, report_T: np.ndarray, grid: np.ndarray) -> dict[str, float]:
    """τ and mIoU of the selection split, and mIoU of the report split at that τ (see evaluation/selection.py)."""
    miou_T = mean_iou(selection_T)
    best = int(np.nanargmax(miou_T))
    chosen = {"selection_miou": float(miou_T[best]), "selection_tau": float(grid[best])}
    return chosen | ({"report_miou": float(mean_iou(report_T[best]))} if report_T.any() else {})


def _iou(confusion: np.ndarray) -> list[float | None]:
    """IoU by label; None if it does not occur."""
    return [None if np.isnan(value) else float(value) for value in class_iou(confusion)]
