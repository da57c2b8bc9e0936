"""How the masks of a set are read: as the settings say, or as some of the masks show, if that is one thing only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amn_ray.core.errors import RequestError
from amn_ray.data.images import BadFile, voc_palette
from amn_ray.data.masks.colours import is_grey, packed, palette_labels, unpacked, voc_colours
from amn_ray.data.masks.pixels import distinct, mask_pixels
from amn_ray.data.masks.rule import MaskRule, few, label_range
from amn_ray.data.source import IGNORE, DatasetConfig

SAMPLE = 256
"""So many masks, spread evenly over the set, decide how all are read. Each is held to it when it is loaded."""
THREADS = 4
"""They look at masks at a time: a large one may take a gigabyte."""


def mask_rule(paths: Iterable[Path], config: DatasetConfig, names: Mapping[int, str]) -> tuple[MaskRule, list[str]]:
    """How the masks of a set are to be read, and sentences for the user.

    Args:
        paths: of all masks of the set, in any order.
        config: its mask_values and palette are looked at.
        names: the value of a class in a mask -> its name, without background and undefined.

    Raises:
        RequestError: the masks can be read in several ways or in none; it names the setting that answers.
    """
    labels = tuple(sorted(names))
    if config.palette is not None:
        palette = palette_labels(config.palette, names)
        return MaskRule("colour", labels, palette, tolerant=config.mask_values == "colour"), []
    if config.mask_values is not None:
        return MaskRule(config.mask_values, labels, tolerant=True), []
    return _decided(_seen(sorted(paths)), labels)


@dataclass(frozen=True)
class _Sight:
    """The different values and colours of one mask."""

    path: Path
    values: frozenset[int] | None
    colours: frozenset[int] | None
    pairs: frozenset[tuple[int, int]]
    """(index, colour) of a palette."""
    share: Mapping[int, float]
    """Of the pixels, by value."""
    lossy: str | None
    renumbered: bool


def _seen(paths: Sequence[Path]) -> list[_Sight]:
    step = max(1, len(paths) / SAMPLE)
    chosen = [paths[int(position * step)] for position in range(min(len(paths), SAMPLE))]
    with ThreadPoolExecutor(THREADS) as threads:
        return [sight for sight in threads.map(_sight, chosen) if sight is not None]


def _sight(path: Path) -> _Sight | None:
    try:
        pixels = mask_pixels(path.read_bytes())
    except (BadFile, OSError, MemoryError):  # told with its name when it is listed or loaded
        return None
    values_HW, colours_HW = pixels.values, pixels.colours
    pairs: frozenset[tuple[int, int]] = frozenset()
    share: dict[int, float] = {}
    if values_HW is not None:
        if values_HW.dtype == np.uint8:
            counts = np.bincount(values_HW.ravel(), minlength=256)
            found = np.flatnonzero(counts)
            counts = counts[found]
        else:
            found, counts = np.unique(values_HW, return_counts=True)
        share = dict(zip(found.tolist(), (counts / values_HW.size).tolist(), strict=True))
        if colours_HW is not None:
            pairs = frozenset((value, int(colours_HW.flat[(values_HW == value).argmax()])) for value in share)
    return _Sight(
        path=path,
        values=frozenset(share) if values_HW is not None else None,
        colours=frozenset(distinct(colours_HW)) if colours_HW is not None else None,
        pairs=pairs,
        share=share,
        lossy=pixels.lossy,
        renumbered=pixels.renumbered,
    )


def _decided(seen: Sequence[_Sight], labels: tuple[int, ...]) -> tuple[MaskRule, list[str]]:
    allowed = {0, IGNORE, *labels}
    if any(sight.values is None for sight in seen):
        return _decided_colours(seen, labels)
    values = set().union(*(sight.values or () for sight in seen))
    shown = _shown_otherwise(seen, labels)
    if shown is not None:
        first, otherwise = shown
        if all(sight.renumbered or not sight.values <= allowed for sight in seen if _differs(sight, labels)):  # type: ignore[operator]
            return MaskRule("colour", labels), [
                f"{first.path}: masks are read by the colours of their palettes, whose indices are no labels; "
                "dataset.mask_values=index is the other answer"
            ]
        raise RequestError(
            f"{first.path}: its palette indices {few(first.values or ())} are labels, and so are its colours, but "
            f"other ones ({few(otherwise)}); set dataset.mask_values=index if indices count, or =colour"
        )
    if (reversed_ := _reversed(seen)) is not None:
        raise RequestError(
            f"{reversed_.path}: its palette has black at another index than 0, so the object is unclear; set "
            "dataset.mask_values=binary if white is the object, or =index if the indices are labels"
        )
    beside = values - {0}
    if len(labels) == 1 and len(beside) == 1 and not beside <= set(labels) and not _is_void(seen):
        white = beside.pop()
        if values == {white}:
            raise RequestError(
                f"{seen[0].path}: masks hold nothing but {white}; set dataset.mask_values=binary if that is the object "
                "or =index if it means undefined"
            )
        share = float(np.mean([sight.share.get(white, 0) for sight in seen]))
        reverse = f"; if it is the background, set dataset.palette={{background: {white}, <class>: 0}}"
        return MaskRule("binary", labels, white=white), [
            f"{seen[0].path.parent}: masks hold only 0 and {white}, which is taken for the one class ({share:.0%} of "
            f"all pixels); dataset.mask_values=index is the other answer{reverse if share > 0.5 else ''}"
        ]
    if len(labels) > 1 and beside in ({IGNORE}, {65535}):
        white = beside.pop()
        raise RequestError(
            f"{seen[0].path.parent}: masks hold only 0 and {white}, but there are {len(labels)} classes; set "
            "dataset.mask_values=binary if white is the one class that its image is labelled with, or =index if "
            f"{white} means undefined"
        )
    if values <= allowed and not any(sight.lossy and (sight.values or set()) - {0} for sight in seen):
        return MaskRule("index", labels), _doubtful(seen, labels)
    raise _unreadable(seen, labels, allowed)


def _decided_colours(seen: Sequence[_Sight], labels: tuple[int, ...]) -> tuple[MaskRule, list[str]]:
    known = {int(packed(np.array(colour))) for colour in voc_colours(labels)}
    found = Counter(colour for sight in seen for colour in _colours_of(sight))
    if set(found) <= known:
        return MaskRule("colour", labels), []
    first = next(sight for sight in seen if not _colours_of(sight) <= known)
    if len(labels) == 1 and len(set(found) - {0}) == 1 and 0 in found:
        colour = unpacked(max(found))
        return MaskRule("binary", labels, white=max(colour)), [
            f"{first.path.parent}: masks are black and {colour}, which is taken for the one class; dataset.palette is "
            "the other answer"
        ]
    strange = sorted(unpacked(colour) for colour in set(found) - known)
    raise RequestError(
        f"{first.path}: masks hold {len(found)} colours, of which {few(strange)} are not VOC's colours of the labels "
        f"{label_range(labels)}; say which colour is which class by dataset.palette={{class: [red, green, blue], …}}"
        + (
            ", and save masks without smoothing or as PNG if colours are blended"
            if len(strange) > len(labels) + 2
            else ""
        )
    )


def _colours_of(sight: _Sight) -> set[int]:
    return set(sight.colours) if sight.colours is not None else {min(v, 255) * 0x010101 for v in sight.values or ()}


def _by_colour(sight: _Sight, labels: tuple[int, ...]) -> dict[int, int] | None:
    """Index -> the label that its colour says: VOC's, or a grey of this value; None if the colours say nothing."""
    if not sight.pairs:
        return None
    voc = {int(packed(np.array(colour))): label for colour, label in voc_colours(labels).items()}
    if all(colour in voc for _, colour in sight.pairs):
        return {index: voc[colour] for index, colour in sight.pairs}
    greys = {index: colour & 255 for index, colour in sight.pairs if is_grey(colour)}
    allowed = {0, IGNORE, *labels}
    if len(greys) == len(sight.pairs) and set(greys.values()) <= allowed and set(greys.values()) & set(labels):
        return greys
    return None


def _differs(sight: _Sight, labels: tuple[int, ...]) -> bool:
    by_colour = _by_colour(sight, labels)
    return by_colour is not None and any(index != label for index, label in by_colour.items())


def _shown_otherwise(seen: Sequence[_Sight], labels: tuple[int, ...]) -> tuple[_Sight, list[int]] | None:
    """The first mask whose colours are labels, but not those that its indices are."""
    for sight in seen:
        if _differs(sight, labels):
            return sight, sorted((_by_colour(sight, labels) or {}).values())
    return None


def _reversed(seen: Sequence[_Sight]) -> _Sight | None:
    """A mask whose palette is black and white, with black not at index 0."""
    for sight in seen:
        colours = {colour: index for index, colour in sight.pairs}
        if set(colours) <= {0, 0xFFFFFF} and colours.get(0, 0) != 0:
            return sight
    return None


def _is_void(seen: Sequence[_Sight]) -> bool:
    """Whether 255 is painted in the colour that VOC gives to undefined pixels."""
    void = int(packed(voc_palette()[IGNORE]))
    return any((IGNORE, void) in sight.pairs for sight in seen)


def _doubtful(seen: Sequence[_Sight], labels: tuple[int, ...]) -> list[str]:
    """Black and white masks among others: is their 255 an object?"""
    doubtful = [sight for sight in seen if sight.values == {0, IGNORE}]
    if not doubtful or len(doubtful) * 10 < len(seen):  # objects that are undefined as a whole occur (VOC)
        return []
    return [
        f"{doubtful[0].path}: holds only 0 and {IGNORE} ({len(doubtful)} of {len(seen)} masks do), which is read as "
        "undefined because other masks hold labels; dataset.mask_values=binary takes all that is not 0 for the object"
    ]


def _unreadable(seen: Sequence[_Sight], labels: tuple[int, ...], allowed: set[int]) -> RequestError:
    def strange(sight: _Sight) -> set[int]:
        return set(sight.values or ()) - allowed

    lossy = next((sight for sight in seen if sight.lossy), None)
    worst = max(seen, key=lambda sight: len(strange(sight)))
    wrong = sorted(set().union(*(strange(sight) for sight in seen)))
    if not wrong and lossy is not None:
        return RequestError(
            f"{lossy.path}: is a {lossy.lossy} file, which alters labels; save masks as PNG"
            + (", or set dataset.mask_values=binary if they are black and white" if len(labels) == 1 else "")
        )
    share = sum(worst.share[value] for value in strange(worst))
    count = sum(bool(strange(sight)) for sight in seen)
    told = (
        f"{worst.path}: mask has the values {few(strange(worst))} ({share:.1%} of its pixels; {count} of {len(seen)} "
        f"masks looked at have such), expected {label_range(labels)} or {IGNORE}"
    )
    if len(wrong) > 8 or lossy is not None:
        return RequestError(
            f"{told}: blended edges, as smoothing or JPEG leaves them; save masks as PNG without smoothing, or set "
            "dataset.mask_values=binary, which cuts black-and-white masks at half of white"
        )
    return RequestError(
        f"{told}: the class list does not match; correct dataset.classes, or say which value is which class by "
        "dataset.palette={class: value, …}"
        + ("; dataset.mask_values=binary reads black-and-white masks" if len(labels) == 1 else "")
    )
