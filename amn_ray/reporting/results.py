"""From a pipeline's artifacts to its figures."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from amn_ray.core.artifacts import Artifact
from amn_ray.core.events import Event, Observer, RunEnded
from amn_ray.core.folders import Folder
from amn_ray.data.images import decode_image, decode_mask
from amn_ray.data.maps import MAP_COLUMNS, hard_labels, pixel_maps
from amn_ray.data.pixels import Pixels
from amn_ray.reporting import figures

FIGURES = "figures"
"""The folder of figures in a run's folder."""


class Figures(Observer):
    """The observer that draws the figures of a finished run into its folder."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def notify(self, event: Event) -> None:
        """See Observer."""
        if isinstance(event, RunEnded):
            with tempfile.TemporaryDirectory() as drawn:
                for path in draw(event, Path(drawn)):
                    self.folder.folder(FIGURES).write(path.name, path.read_bytes())


def draw(run: RunEnded, folder: Path) -> list[Path]:
    """Draw all figures that the run's steps allow; returns their files."""
    folder.mkdir(parents=True, exist_ok=True)
    scores = {step: run.manifests[f"{step}_score"] for step in run.scores}
    scores = {step: manifest for step, manifest in scores.items() if "iou" in manifest}
    if not scores:
        return []
    curves = {step: manifest["curve"] for step, manifest in scores.items() if "curve" in manifest}
    drawn = []
    if curves:
        taus = {step: best_taus([scores[step]]) for step in curves}
        drawn += [
            figures.threshold_curves(curves, folder / "miou_by_threshold.png"),
            figures.best_threshold_histogram(taus, folder / "best_threshold.png"),
            *(_curve_table(curve, folder / f"miou_by_threshold_{step}.csv") for step, curve in curves.items()),
        ]
    last = list(scores)[-1]
    labels = scores[last]["labels"]
    ious = {step: manifest["iou"] for step, manifest in scores.items()}
    confusion = np.array(scores[last]["confusion"])
    drawn += [
        figures.class_iou_bars(labels, ious, folder / "class_iou.png"),
        class_table(labels, ious, folder / "class_iou.csv"),
        figures.confusion_heat_map(confusion, labels, f"Confusion of {last}", folder / "confusion.png"),
    ]
    artifacts = {artifact.fingerprint: artifact for artifact in run.artifacts.values()}
    by_images: dict[str, list[str]] = {}
    for step, manifest in scores.items():
        by_images.setdefault(manifest["inputs"]["images"], []).append(step)
    for images, steps in by_images.items():
        tables = {step: run.artifacts[step].table() for step in steps}
        fewest = min(steps, key=lambda step: tables[step].count())  # maps may be of some images only
        ids = [one for one in scores[fewest]["examples"] if all(one in table for table in tables.values())]
        rows = [_example(image_id, run, steps, scores, artifacts) for image_id in ids]
        panel = PANELS[artifacts[images].manifest()["config"]["split"]]
        if rows:
            drawn.append(figures.example_panel(rows, folder / f"{panel}.png"))
    return drawn


PANELS: Mapping[str, str] = {"train": "examples", "val": "predictions"}
"""By split: the figure with its images after each step."""


def best_taus(manifests: Iterable[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """τ, and the number of images (of all manifests together) whose best τ it is."""
    found = [manifest["best_taus"] for manifest in manifests]
    taus, places = np.unique(np.concatenate([part["tau"] for part in found]), return_inverse=True)
    images = np.bincount(places, np.concatenate([part["images"] for part in found]), len(taus))
    return taus, images.astype(int)


def _curve_table(curve: Mapping[str, Sequence[float]], path: Path) -> Path:
    rows = [(f"{tau:.4f}", f"{miou:.6f}") for tau, miou in zip(curve["tau"], curve["miou"], strict=True)]
    return _table(("tau", "miou"), rows, path)


def class_table(names: Sequence[str], ious: Mapping[str, Sequence[float | None]], path: Path) -> Path:
    """IoU by label (rows, the background first) and step (columns) as CSV; empty where a label does not occur."""
    cells = [["" if value is None else f"{value:.6f}" for value in values] for values in ious.values()]
    return _table(("class", *ious), zip(names, *cells, strict=True), path)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], path: Path) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    return path


def _example(
    image_id: str,
    run: RunEnded,
    steps: Sequence[str],
    scores: Mapping[str, Mapping[str, Any]],
    artifacts: Mapping[str, Artifact],
) -> dict[str, figures.Picture]:
    """The image after each of these steps of one split; maps also thresholded at their default τ.

    Args:
        image_id: of a scored image.
        run: has the steps.
        steps: the columns.
        scores: their score manifests.
        artifacts: the run's artifacts by fingerprint.
    """
    images, truth = (artifacts[scores[steps[0]]["inputs"][part]] for part in ("images", "truth"))
    (row,) = images.table().find([image_id], ["image"])
    image_HWC = decode_image(row["image"], Pixels.of(images.manifest()))
    size = image_HWC.shape[:2]
    (true,) = truth.table().find([image_id], ["mask"])
    pictures = {
        "image": figures.Picture(image_HWC),
        "ground truth": figures.Picture(image_HWC, decode_mask(true["mask"])),
    }
    for step in steps:
        table = run.artifacts[step].table()
        if "curve" in scores[step]:
            (stored,) = table.find([image_id], MAP_COLUMNS)
            maps_KHW = pixel_maps(stored, *size)
            heat = maps_KHW.max(0) if len(maps_KHW) else np.zeros(size, np.float32)
            pictures[step] = figures.Picture(image_HWC, heat=heat)
            threshold = scores[step]["config"]["threshold"]
            labels = np.array([0, *stored["keys"]], np.uint8)
            pictures[f"{step} at τ = {threshold}"] = figures.Picture(
                image_HWC, labels[hard_labels(maps_KHW, threshold)]
            )
        else:
            (stored,) = table.find([image_id], ["mask"])
            pictures[step] = figures.Picture(image_HWC, decode_mask(stored["mask"]))
    return pictures
