"""COCO's segmentations -> label values: polygons as `pycocotools` draws them, run lengths by NumPy.

pycocotools' C code ends the process, or fills the memory, where coordinates or sizes are absurd. So it is handed
checked polygons only, and never a run length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from amn_ray.data.source import IGNORE

FAR = 10
"""A polygon may reach so many times the longer side beyond the image, as it does where images were cropped."""
MAX_POINTS = 2**24
"""Of the outline that pycocotools walks along in steps of a fifth of a pixel, with 16 bytes for each."""
STEPS = 5
"""Of it to a pixel."""
MIN_NUMBERS = 6
"""Of a polygon: x and y of three points."""


def polygons(segmentation: Any) -> list[list[Any]]:
    """The polygons [x, y, x, y, …] of a list of such (COCO), of lists of pairs, or of one alone.

    Those of one or two points are left out: they have no area, and pycocotools takes four numbers for a box.
    """
    if not isinstance(segmentation, list) or not segmentation:
        return []
    if not isinstance(segmentation[0], list):
        return [segmentation] if len(segmentation) >= MIN_NUMBERS else []
    if all(isinstance(part, list) and len(part) == 2 and not isinstance(part[0], list) for part in segmentation):
        return polygons([number for pair in segmentation for number in pair])
    return [polygon for part in segmentation for polygon in polygons(part)]


def has_outline(segmentation: Any) -> bool:
    """Whether it tells which pixels are the object's, rightly or not; a box does not."""
    if isinstance(segmentation, dict):
        return bool(segmentation.get("counts"))
    return (
        bool(polygons(segmentation) or _encoded(segmentation)) if isinstance(segmentation, list) else bool(segmentation)
    )


def defect(segmentation: Any, height: int, width: int) -> str | None:
    """Why a segmentation cannot be painted; None if it can, as far as a quick look at coordinates and sizes tells.

    Args:
        segmentation: polygons or a run-length encoding.
        height: of the image, in pixels.
        width: of the image, in pixels.
    """
    if isinstance(segmentation, dict):
        size = segmentation.get("size")
        return None if size == [height, width] else _other_size(size, height, width)
    limit = (FAR + 1) * max(height, width)
    for polygon in polygons(segmentation):
        with suppress(TypeError, OverflowError):  # text, or numbers that are too large: looked at closely
            if math.isfinite(sum(polygon)) and -limit <= min(polygon) and max(polygon) <= limit:
                continue
        try:
            _checked(polygon, height, width)
        except ValueError as error:
            return str(error)
    return None


def _other_size(size: Any, height: int, width: int) -> str:
    return f"its size is {size}, but height and width of the image are {[height, width]}"


def _encoded(segmentation: list[Any]) -> list[Any]:
    """The run-length encodings in a list."""
    return [part for part in segmentation if isinstance(part, dict)]


def paint(height: int, width: int, objects: Sequence[tuple[int, int, Any]]) -> np.ndarray:
    """Instances -> label values uint8 (height, width): crowds first, then from the largest to the smallest.

    Args:
        height: in pixels.
        width: in pixels.
        objects: (label, is a crowd, segmentation: polygons or a run-length encoding as in COCO's files).

    Raises:
        ValueError: a segmentation is none, or does not fit the size.
    """
    found = []
    for number, (label, crowd, segmentation) in enumerate(objects, start=1):
        try:
            runs = run_lengths(segmentation, height, width)
        except ValueError as error:
            raise ValueError(
                f"object {number} of {len(objects)} has a segmentation that cannot be decoded ({error})"
            ) from error
        found.append((bool(crowd), int(runs[1::2].sum()), IGNORE if crowd else label, runs))
    mask_WH = np.zeros(width * height, np.uint8)  # column by column, as the runs are
    for _, _, value, runs in sorted(found, key=lambda item: (not item[0], -item[1])):
        ends = runs.cumsum()
        for start, end in zip(ends[:-1:2], ends[1::2], strict=True):
            mask_WH[start:end] = value
    return np.ascontiguousarray(mask_WH.reshape(width, height).T)


def run_lengths(segmentation: Any, height: int, width: int) -> np.ndarray:
    """How many pixels are not the object's, are, are not, …, column by column: int64 (an even number of them).

    Raises:
        ValueError: the segmentation is none, or does not fit the size.
    """
    if isinstance(segmentation, list) and (parts := _encoded(segmentation)):
        runs = _united([run_lengths(part, height, width) for part in parts], height * width)
    elif isinstance(segmentation, list):
        runs = _drawn(polygons(segmentation), height, width)
    elif isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if size != [height, width]:
            raise ValueError(_other_size(size, height, width))
        runs = _unpacked(counts) if isinstance(counts, str | bytes) else _numbers(counts)
    else:
        raise ValueError(f"it is a {type(segmentation).__name__}, expected polygons or run lengths")
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"its run lengths do not add up to {height} × {width}")
    return np.append(runs, 0) if len(runs) % 2 else runs


def _united(parts: list[np.ndarray], size: int) -> np.ndarray:
    """The run lengths of what is in one of several objects, whose run lengths are given."""
    inside = np.zeros(size + 2, bool)  # with a pixel of the background at either end
    for runs in parts:
        inside[1:-1] |= np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    return np.diff(edges, prepend=0, append=size)


def _drawn(outlines: list[list[Any]], height: int, width: int) -> np.ndarray:
    """The run lengths of all that lies in one of the polygons."""
    from pycocotools import mask as coco_mask  # where polygons are painted only

    if not outlines:
        raise ValueError("it has no polygon of three or more points")
    checked = [_checked(outline, height, width) for outline in outlines]
    return _unpacked(coco_mask.merge(coco_mask.frPyObjects(checked, height, width))["counts"])


def _checked(polygon: list[Any], height: int, width: int) -> list[float]:
    try:
        xy = np.asarray(polygon, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError("a polygon holds other things than numbers") from error
    if xy.ndim != 1 or len(xy) % 2:
        raise ValueError(f"a polygon has {len(polygon)} numbers, expected pairs of x and y")
    far = xy[~(np.abs(xy) <= (FAR + 1) * max(height, width))]  # and what is no number
    if far.size:
        raise ValueError(f"a polygon has the coordinate {far[0]:g}, far outside of the image")
    steps = np.abs(np.diff(xy.reshape(-1, 2), axis=0, append=xy[None, :2])).max(axis=1)
    if STEPS * steps.sum() + len(steps) > MAX_POINTS:
        raise ValueError(f"a polygon has an outline of {steps.sum():.0f} pixels")
    return xy.tolist()


def _numbers(counts: Any) -> np.ndarray:
    try:
        runs = np.asarray(counts, np.float64)
    except (TypeError, ValueError, OverflowError):
        runs = np.array(np.nan)
    if runs.ndim != 1 or not (runs == np.rint(runs)).all() or (np.abs(runs) > 2**31).any():
        raise ValueError("its `counts` are neither a text nor whole numbers")
    return runs.astype(np.int64)


def _unpacked(text: str | bytes) -> np.ndarray:
    """COCO's compressed run lengths: numbers of 5 bits a character, lowest first; from the fourth on differences.

    Bit 6 says that more characters follow, bit 5 of the last one is the sign. The number before the last one is
    added, so that the background's and the object's runs are sums of their own.
    """
    codes = np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(codes & 32 == 0)
    if (codes < 0).any() or (codes > 63).any() or not len(ends) or ends[-1] != len(codes) - 1:
        raise ValueError("its `counts` are damaged or cut short")
    starts = np.append(0, ends[:-1] + 1)
    lengths = ends - starts + 1
    if lengths.max() > 7:  # more than 35 bits: no image has so many pixels
        raise ValueError("its `counts` are damaged")
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & 31) << (5 * places), starts)
    runs -= np.where(codes[ends] & 16, 1 << (5 * lengths), 0)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs
