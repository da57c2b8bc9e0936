"""The paper's figures, of our runs.

Names of classes, trials and data sets are drawn literally, long ones shortened; tables have the full names.

Legend: H W = pixels, K = classes of the image.
"""

from __future__ import annotations

import re
import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import noto_cjk_sans_otc
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager, get_font
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter

from amn_ray.core.console import log
from amn_ray.data.images import voc_palette

fontManager.addfont(noto_cjk_sans_otc.FONT_PATH)
FONTS = ("DejaVu Sans", "Noto Sans CJK SC")
"""Fonts on every machine: matplotlib's own, and one with Chinese, Japanese and Korean characters."""
mpl.rcParams |= {"font.family": list(FONTS), "text.parse_math": False}  # otherwise two dollar signs start a formula
LABEL = 32
"""Maximal number of characters of a name in a figure."""


def short(name: str) -> str:
    """A name on one line that leaves room for the figure: the beginning and the end of a long one."""
    line = " ".join(name.split())
    return line if len(line) <= LABEL else f"{line[: LABEL // 2]}…{line[-(LABEL // 2 - 1) :]}"


def _filled(title: str) -> str:
    return textwrap.fill(title, 80)


def _save(figure: Figure, path: Path) -> Path:
    missing = _draw(figure, path)
    if missing and (others := _fonts_with(missing)):
        for text in figure.findobj(Text):
            text.set_fontfamily([*FONTS, *others])
        missing = _draw(figure, path)
    if missing:
        _warn_missing_glyphs("".join(sorted(missing)))
    plt.close(figure)
    return path


@cache  # a pipeline draws several figures with the same names
def _warn_missing_glyphs(letters: str) -> None:
    log(
        "figures",
        f"warning: {letters} drawn as boxes, no installed font has these characters; the tables have the full names",
    )


def _draw(figure: Figure, path: Path) -> set[str]:
    """Write the file; returns the characters that its fonts lack."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(path, dpi=130, bbox_inches="tight")
    matches = (re.match(r"Glyph (\d+) ", str(warning.message)) for warning in caught)
    return {chr(int(match[1])) for match in matches if match}


def _fonts_with(letters: Iterable[str]) -> list[str]:
    """Installed font families that together cover all characters that any of them has."""
    wanted, families = set(letters), []
    real = (entry for entry in fontManager.ttflist if not entry.name.startswith("Last Resort"))  # a box for each letter
    for entry in real:
        font = get_font(entry.fname)
        here = {letter for letter in wanted if font.get_char_index(ord(letter))}
        if here and font.scalable:
            families.append(entry.name)
            wanted -= here
    return families


def threshold_curves(curves: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> Path:
    """MIoU against τ, one line per kind of map (paper Figure 6), with ± `std` where it is given."""
    figure, axes = plt.subplots(figsize=(6, 4))
    for name, curve in curves.items():
        tau, miou = np.array(curve["tau"]), 100 * np.array(curve["miou"])
        best = int(miou.argmax())
        (line,) = axes.plot(tau, miou, label=f"{name} (best {miou[best]:.1f} at τ = {tau[best]:.2f})")
        axes.plot(tau[best], miou[best], "o", color=line.get_color(), markersize=4)
        spread = 100 * np.array(curve.get("std", [0.0]))
        if spread.any():
            axes.fill_between(tau, miou - spread, miou + spread, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set(xlabel="threshold τ", ylabel="mIoU (%)", xlim=(0, 1), ylim=(0, None), title="mIoU against the threshold")
    axes.grid(alpha=0.3)
    axes.legend()
    return _save(figure, path)


def best_threshold_histogram(best_taus: Mapping[str, tuple[np.ndarray, np.ndarray]], path: Path) -> Path:
    """Histogram of the best τ per image (paper Figure 1a), from τ and numbers of images."""
    figure, axes = plt.subplots(figsize=(6, 4))
    bins = np.linspace(0, 1, 26)
    for name, (taus, images) in best_taus.items():
        std = float(np.sqrt(np.cov(taus, fweights=images, ddof=0))) if images.sum() else 0.0
        label = f"{name} (std {std:.2f})"
        axes.hist(taus, bins=list(bins), weights=images, histtype="step", linewidth=1.8, label=label)
    axes.set(xlabel="best threshold τ of an image", ylabel="images", xlim=(0, 1), title="Per-image best threshold")
    axes.legend()
    return _save(figure, path)


def class_iou_bars(names: Sequence[str], ious: Mapping[str, Sequence[float | None]], path: Path) -> Path:
    """IoU by label, for the labels that occur, one bar per step; `names` of labels 0…N, as of `ious`."""
    present = [label for label in range(len(names)) if any(values[label] is not None for values in ious.values())]
    figure, axes = plt.subplots(figsize=(max(6, 0.55 * len(present) * max(1, len(ious) / 2)), 4))
    width = 0.8 / len(ious)
    for index, (step, values) in enumerate(ious.items()):
        heights = [100 * (values[label] or 0) for label in present]
        axes.bar(np.arange(len(present)) + (index - (len(ious) - 1) / 2) * width, heights, width, label=step)
    axes.set_xticks(range(len(present)), [short(names[label]) for label in present], rotation=45, ha="right")
    axes.set(ylabel="IoU (%)", title="IoU by class at the step's own τ")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return _save(figure, path)


def confusion_heat_map(confusion: np.ndarray, names: Sequence[str], title: str, path: Path) -> Path:
    """The predictions for the pixels of each class: int64 (N+1, N+1), rows = truth, as fractions of their row."""
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    side = max(4, 0.45 * len(names))
    figure, axes = plt.subplots(figsize=(side + 1, side))
    image = axes.imshow(share, cmap="magma", vmin=0, vmax=1)
    if len(names) <= 25:  # beyond that, numbers are too small to read
        for y, x in np.argwhere(share >= 0.01):
            axes.text(
                x, y, f"{100 * share[y, x]:.0f}", ha="center", va="center", fontsize=7,
                color="black" if share[y, x] > 0.6 else "white",
            )  # fmt: skip
    axes.set_xticks(range(len(names)), map(short, names), rotation=60, ha="right", fontsize=7)
    axes.set_yticks(range(len(names)), map(short, names), fontsize=7)
    axes.set(xlabel="prediction", ylabel="truth", title=title)
    figure.colorbar(image, label="fraction of the class's pixels", fraction=0.046)
    return _save(figure, path)


def settings_dots(points: Mapping[str, Sequence[tuple[float, bool]]], metric: str, title: str, path: Path) -> Path:
    """A metric by setting: a dot per seed, hollow where its trial did not finish; a bar at the mean of the finished."""
    figure, axes = plt.subplots(figsize=(7, 1 + 0.35 * len(points)))
    for row, values in enumerate(points.values()):
        for value, finished in values:
            axes.plot(value, row, "o", color="C0", alpha=0.7, markerfacecolor="C0" if finished else "none")
        whole = [value for value, finished in values if finished]
        if whole:
            axes.plot([np.mean(whole)], [row], "|", color="black", markersize=14)
    axes.set_yticks(range(len(points)), map(short, points))
    axes.invert_yaxis()
    axes.set(xlabel=metric, title=_filled(title))
    axes.grid(axis="x", alpha=0.3)
    return _save(figure, path)


def settings_scatter(
    samples: Sequence[tuple[Mapping[str, Any], float, bool]],
    log: Mapping[str, bool],
    metric: str,
    title: str,
    path: Path,
) -> Path:
    """A metric against each sampled key; `samples` are (settings, metric, whether finished), hollow if not."""
    figure, grid = plt.subplots(1, len(log), figsize=(4.2 * len(log), 3.6), sharey=True, squeeze=False)
    for axes, (key, is_log) in zip(grid[0], log.items(), strict=True):
        chosen = [settings[key] for settings, _, _ in samples]
        # Numbers keep their position on the axis; each other value gets its own tick.
        texts = [] if all(isinstance(value, int | float) for value in chosen) else list(dict.fromkeys(map(str, chosen)))
        places = [texts.index(str(value)) for value in chosen] if texts else chosen
        for place, (_, value, finished) in zip(places, samples, strict=True):
            axes.plot(place, value, "o", color="C0", markerfacecolor="C0" if finished else "none")
        axes.set(xlabel=short(key))
        if texts:
            axes.set_xticks(range(len(texts)), map(short, texts), rotation=45, ha="right")
        if is_log:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(LogFormatter())
            axes.xaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
        axes.grid(alpha=0.3)
    grid[0][0].set_ylabel(metric)
    figure.suptitle(_filled(f"{title}  (hollow: stopped early)"))
    return _save(figure, path)


@dataclass(frozen=True)
class Picture:
    """One cell of a panel."""

    image: np.ndarray
    """uint8 (H, W, 3)."""
    mask: np.ndarray | None = None
    """Labels uint8 (H, W), shown instead of the image."""
    heat: np.ndarray | None = None
    """float32 (H, W) in [0, 1], shown over the image."""


def example_panel(rows: Sequence[Mapping[str, Picture]], path: Path) -> Path:
    """Some images (rows) after every step (columns, by title), in VOC's colours (paper Figures 5 and 7)."""
    titles = list(rows[0])
    figure, grid = plt.subplots(len(rows), len(titles), figsize=(2 * len(titles), 1.9 * len(rows)), squeeze=False)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=9)
    for axes_row, row in zip(grid, rows, strict=True):
        for axes, title in zip(axes_row, titles, strict=True):
            picture = row[title]
            axes.set_axis_off()
            axes.imshow(picture.image if picture.mask is None else paint(picture.mask), interpolation="nearest")
            if picture.heat is not None:
                axes.imshow(picture.heat, cmap="jet", vmin=0, vmax=1, alpha=0.6)
    figure.subplots_adjust(wspace=0.04, hspace=0.04)
    return _save(figure, path)


def paint(mask_HW: np.ndarray) -> np.ndarray:
    """Labels (H, W) -> colours uint8 (H, W, 3) of VOC's palette; undefined pixels (255) are off-white."""
    return voc_palette()[mask_HW]
