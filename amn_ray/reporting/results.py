"""From a pipeline's artifacts to its figures."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from amn_ray.core.artifacts import Artifact
from amn_ray.data.images import decode_image, decode_mask
from amn_ray.data.maps import MAP_COLUMNS, hard_labels, pixel_maps
from amn_ray.data.pixels import Pixels
from amn_ray.reporting import figures

FIGURES = "figures"
"""Their folder in a run's."""
MAPS = ("cam", "amn")
TRAIN_STEPS = ("cam", "seed", "amn", "amn_seed", "irn")
VAL_STEPS = ("deeplab", "deeplab_crf")
"""The steps whose results the two panels show."""


def one_line(metrics: Mapping[str, float]) -> str:
    """The scores of a step in words."""
    text = f"mIoU {100 * metrics['miou']:.1f}"
    if "best_miou" in metrics:
        text += f", best {100 * metrics['best_miou']:.1f} at τ = {metrics['best_tau']:.2f}"
    return text


def draw(artifacts: Mapping[str, Artifact], manifests: Mapping[str, dict[str, Any]], folder: Path) -> list[Path]:
    """All figures that the steps made so far allow; returns their files."""
    folder.mkdir(parents=True, exist_ok=True)
    scores = {name.removesuffix("_score"): manifests[name] for name in manifests if name.endswith("_score")}
    scores = {step: manifest for step, manifest in scores.items() if "iou" in manifest}
    if not scores:
        return []
    curves = {step: scores[step]["curve"] for step in MAPS if step in scores}
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
    evaluated = artifacts.get("images_val", artifacts["images"])
    panels = (("examples", artifacts["images"], TRAIN_STEPS), ("predictions", evaluated, VAL_STEPS))
    for name, images, candidates in panels:
        steps = [step for step in candidates if step in scores]
        if steps:
            made = {step: artifacts[step] for step in steps}
            rows = [_example(image_id, images, made, scores) for image_id in scores[steps[0]]["examples"]]
            drawn.append(figures.example_panel(rows, folder / f"{name}.png"))
    return drawn


def best_taus(manifests: Iterable[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """τ, and the number of images (of all manifests together) that are segmented best there."""
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
    image_id: str, images: Artifact, made: Mapping[str, Artifact], scores: Mapping[str, dict[str, Any]]
) -> dict[str, figures.Picture]:
    """The image after each step; maps also cut at their default τ."""
    row = images.table("rows").find([image_id], ["image", "mask"])[0]
    image_HWC = decode_image(row["image"], Pixels.of(images.manifest()))
    size = image_HWC.shape[:2]
    pictures = {
        "image": figures.Picture(image_HWC),
        "ground truth": figures.Picture(image_HWC, decode_mask(row["mask"])),
    }
    for step, artifact in made.items():
        if step in MAPS:
            stored = artifact.table("maps").find([image_id], MAP_COLUMNS)[0]
            maps_KHW = pixel_maps(stored, *size)
            heat = maps_KHW.max(0) if len(maps_KHW) else np.zeros(size, np.float32)
            pictures[step] = figures.Picture(image_HWC, heat=heat)
            threshold = scores[step]["config"]["threshold"]
            labels = np.array([0, *stored["keys"]], np.uint8)
            pictures[f"{step} at τ = {threshold}"] = figures.Picture(
                image_HWC, labels[hard_labels(maps_KHW, threshold)]
            )
        else:
            mask = artifact.table("masks").find([image_id], ["mask"])[0]["mask"]
            pictures[step] = figures.Picture(image_HWC, decode_mask(mask))
    return pictures
