"""The paper's figures, of our runs.

Legend: H W = pixels, K = classes of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure


def voc_palette() -> np.ndarray:
    """VOC's colour map uint8 (256, 3): the bits of a label, spread over the channels; 255 is off-white."""
    palette = np.zeros((256, 3), np.uint8)
    for label in range(256):
        rest, colour = label, [0, 0, 0]
        for bit in range(7, -1, -1):
            for channel in range(3):
                colour[channel] |= (rest >> channel & 1) << bit
            rest >>= 3
        palette[label] = colour
    return palette


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)
    return path


def threshold_curves(curves: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> Path:
    """MIoU against τ, one line per kind of map (paper Figure 6)."""
    figure, axes = plt.subplots(figsize=(6, 4))
    for name, curve in curves.items():
        tau, miou = np.array(curve["tau"]), 100 * np.array(curve["miou"])
        best = int(miou.argmax())
        (line,) = axes.plot(tau, miou, label=f"{name} (best {miou[best]:.1f} at τ = {tau[best]:.2f})")
        axes.plot(tau[best], miou[best], "o", color=line.get_color(), markersize=4)
    axes.set(xlabel="threshold τ", ylabel="mIoU (%)", xlim=(0, 1), ylim=(0, None), title="mIoU against the threshold")
    axes.grid(alpha=0.3)
    axes.legend()
    return _save(figure, path)


def best_threshold_histogram(best_taus: Mapping[str, Sequence[float]], path: Path) -> Path:
    """How many images are segmented best at which τ (paper Figure 1a)."""
    figure, axes = plt.subplots(figsize=(6, 4))
    bins = np.linspace(0, 1, 26)
    for name, values in best_taus.items():
        axes.hist(values, bins=list(bins), alpha=0.55, label=f"{name} (std {np.std(values):.2f})")
    axes.set(xlabel="best threshold τ of an image", ylabel="images", xlim=(0, 1), title="Per-image best threshold")
    axes.legend()
    return _save(figure, path)


def class_iou_bars(tables: Mapping[str, Mapping[str, float | None]], path: Path) -> Path:
    """IoU by class, for the classes that occur, one bar per step."""
    names = [name for name in next(iter(tables.values())) if any(table[name] is not None for table in tables.values())]
    figure, axes = plt.subplots(figsize=(max(6, 0.55 * len(names) * max(1, len(tables) / 2)), 4))
    width = 0.8 / len(tables)
    for index, (step, table) in enumerate(tables.items()):
        values = [100 * (table[name] or 0) for name in names]
        axes.bar(np.arange(len(names)) + (index - (len(tables) - 1) / 2) * width, values, width, label=step)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set(ylabel="IoU (%)", title="IoU by class at the step's own τ")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return _save(figure, path)


@dataclass(frozen=True)
class PanelRow:
    """One image of the panel, as arrays (H, W, 3) for pictures and uint8 (H, W) for masks; None leaves a gap."""

    image: np.ndarray
    truth: np.ndarray | None
    cam: np.ndarray
    """float32 (H, W), the largest CAM of the image's classes."""
    seed: np.ndarray | None
    amn: np.ndarray | None
    """float32 (H, W), the largest AMN map."""
    prediction: np.ndarray | None


def example_panel(rows: Sequence[PanelRow], path: Path) -> Path:
    """Image, ground truth, CAM, seed, AMN map and prediction of a few images (paper Figure 5), in VOC's colours."""
    titles = ("image", "ground truth", "CAM", "seed", "AMN", "prediction")
    figure, grid = plt.subplots(len(rows), len(titles), figsize=(2 * len(titles), 1.9 * len(rows)), squeeze=False)
    for axes_row, row in zip(grid, rows, strict=True):
        pictures = (row.image, row.truth, row.cam, row.seed, row.amn, row.prediction)
        for axes, title, picture in zip(axes_row, titles, pictures, strict=True):
            axes.set_axis_off()
            if axes_row is grid[0]:
                axes.set_title(title, fontsize=9)
            if picture is None:
                continue
            if picture.dtype == np.uint8 and picture.ndim == 2:
                axes.imshow(paint(picture), interpolation="nearest")
            elif picture.ndim == 2:
                axes.imshow(row.image)
                axes.imshow(picture, cmap="jet", vmin=0, vmax=1, alpha=0.6)
            else:
                axes.imshow(picture)
    figure.subplots_adjust(wspace=0.04, hspace=0.04)
    return _save(figure, path)


def paint(mask_HW: np.ndarray) -> np.ndarray:
    """Labels (H, W) -> colours uint8 (H, W, 3) of VOC's palette; undefined pixels (255) are off-white."""
    return voc_palette()[mask_HW]
