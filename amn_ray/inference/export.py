"""Exports the masks of a finished run as files that other frameworks read: palette PNGs in VOC's layout.

<out>/SegmentationClass/<image_id>.png
<out>/ImageSets/Segmentation/<split>.txt
<out>/about.json: of which run and step they are, and with what supervision they were made
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from amn_ray.core.artifacts import TABLE, Artifact, Store
from amn_ray.core.checks import check_choice
from amn_ray.core.console import log
from amn_ray.core.errors import RequestError
from amn_ray.core.folders import Folder
from amn_ray.data.images import decode_mask, encode_palette_mask
from amn_ray.data.maps import MAP_COLUMNS, hard_labels, pixel_maps
from amn_ray.data.pixels import Pixels
from amn_ray.data.transforms import resize_label
from amn_ray.recipe import records as runs
from amn_ray.recipe.config import STEPS
from amn_ray.recipe.method_names import description

BATCH = 256
ABOUT = "about.json"


@dataclass(kw_only=True)
class ExportConfig:
    """Options of `jobs/export.py`."""

    step: str | None = None
    """The step whose masks to export: maps, refined, amn_maps, amn_refined, pseudo_masks, predictions,
    predictions_refined, truth or truth_val; maps are thresholded at their default τ."""
    out: str | None = None
    """Folder to write to."""
    store: str = "outputs"
    run: str | None = None
    """Name of a run (its folder in `<store>/runs/`); null = the last one with these masks."""
    split: str | None = None
    """train or val; null = the split that the step has masks of."""
    overwrite: bool = False
    """Write into a folder that is not empty."""

    def __post_init__(self) -> None:
        if self.step is not None:
            check_choice(self, "step", (*STEPS, "truth_val"))
        if self.split is not None:
            check_choice(self, "split", ("train", "val"))


def export(config: ExportConfig) -> None:
    """Write all masks and the list of their ids.

    Raises:
        RequestError: the step has no output or no masks of that split, or `out` is not empty.
    """
    if config.step is None:
        raise RequestError("step is not set: set step=pseudo_masks, or another step that makes masks or maps")
    if config.out is None:
        raise RequestError("out is not set: expected a folder to write to; set out=/path")
    run = runs.find(Store.reading(config.store), config.run, config.step)
    output = run.step(config.step, needed_by=f"step={config.step}")
    columns = output.table().columns if output.exists(TABLE) else []  # weights are not a table
    if "mask" not in columns and "maps" not in columns:
        raise RequestError(f"step={config.step}: makes neither masks nor maps; name a step that does")
    images = run.images_of(config.step)
    split = images.manifest()["config"]["split"]
    if config.split not in (None, split):
        raise RequestError(f"split={config.split}: step={config.step} has masks of {split} only; leave split out")
    refuse_full(Store.reading(config.out, "out"), config.overwrite)
    out = Store.open(config.out, "out")
    masks = partial(_masks, output, images)
    if "mask" not in columns:
        masks = partial(_thresholded_maps, output, images, run.settings[f"{config.step}.threshold"])

    def write(pair: tuple[str, Callable[[], np.ndarray]]) -> None:
        image_id, mask = pair
        out.write(f"SegmentationClass/{image_id}.png", encode_palette_mask(mask()))

    ids = output.table().ids()
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(ids), BATCH):  # in batches: all masks together may not fit into memory
            list(pool.map(write, masks(ids[start : start + BATCH])))
    lines = "".join(f"{image_id}\n" for image_id in ids)
    out.write(f"ImageSets/Segmentation/{split}.txt", lines.encode())
    about = {"run": run.folder.name, "step": config.step, "split": split, **description(run.settings)}
    if not config.step.startswith("predictions"):
        about.pop("segmentation network")
    out.write(ABOUT, json.dumps(about, ensure_ascii=False, indent=2).encode())
    log("export", f"{len(ids)} masks of {config.step} ({split}) in {out.url}")


def refuse_full(out: Folder, overwrite: bool, remedy: str = "choose another folder or set overwrite=true") -> None:
    """Refuse to write into a folder that is not empty.

    Raises:
        RequestError: it is not empty and `overwrite` is not set; or it is a file.
    """
    if out.fs.get_file_info(out.path).type == pa.fs.FileType.File:
        raise RequestError(f"out={out.url}: is a file, expected a new or empty folder")
    if not overwrite and out.entries():
        raise RequestError(f"out={out.url}: is not empty; {remedy}")


def _masks(output: Artifact, images: Artifact, ids: list[str]) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    files = _file_sizes(images, ids)
    for image_id, row, file in zip(ids, output.table().take(ids, ["mask"]), files, strict=True):
        yield image_id, partial(_resized, partial(decode_mask, row["mask"]), file)


def _thresholded_maps(
    output: Artifact, images: Artifact, threshold: float, ids: list[str]
) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    maps = output.table().take(ids, MAP_COLUMNS)
    sizes = images.table().take(ids, ["height", "width"])
    files = _file_sizes(images, ids)
    for image_id, row, size, file in zip(ids, maps, sizes, files, strict=True):
        yield image_id, partial(_resized, partial(_thresholded, row, size, threshold), file)


def _file_sizes(images: Artifact, ids: list[str]) -> list[tuple[int, int] | None]:
    """(height, width) of the files after rotation; None if the masks already have it."""
    if Pixels.of(images.manifest()).max_side is None:
        return [None] * len(ids)
    names = ["file_height", "file_width"]
    return [(row["file_height"], row["file_width"]) for row in images.table().take(ids, names)]


def _resized(mask: Callable[[], np.ndarray], size: tuple[int, int] | None) -> np.ndarray:
    return mask() if size is None else resize_label(mask(), *size)


def _thresholded(row: dict[str, Any], size: dict[str, int], threshold: float) -> np.ndarray:
    """Labels uint8 (H, W) of a row of maps."""
    maps_KHW = pixel_maps(row, size["height"], size["width"])
    return np.array([0, *row["keys"]], np.uint8)[hard_labels(maps_KHW, threshold)]
