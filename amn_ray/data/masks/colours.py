"""Colours as numbers 0xRRGGBB, and the labels that they stand for: VOC's, and those of `dataset.palette`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from amn_ray.core.errors import RequestError
from amn_ray.data.images import voc_palette
from amn_ray.data.palette import Colour, colour
from amn_ray.data.source import IGNORE

UNDEFINED = ("undefined", "void", "ignore")
"""Names of label 255 in a palette."""


def packed(rgb: np.ndarray) -> np.ndarray:
    """(…, 3) -> 0xRRGGBB (…)."""
    wide = rgb.astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def unpacked(colour: int) -> Colour:
    """0xRRGGBB -> red, green, blue."""
    return colour >> 16, colour >> 8 & 255, colour & 255


def is_grey(colour: int) -> bool:
    """Whether red, green and blue of 0xRRGGBB are equal."""
    red, green, blue = unpacked(colour)
    return red == green == blue


def voc_colours(labels: Iterable[int]) -> dict[int | Colour, int]:
    """VOC's colour -> label, of these labels, background and undefined."""
    return {unpacked(int(packed(voc_palette()[label]))): label for label in (0, *labels, IGNORE)}


def palette_labels(palette: Any, names: Mapping[int, str]) -> dict[int | Colour, int]:
    """What `dataset.palette` says: colour (or grey value) -> label.

    Args:
        palette: as it is written; see palette.py.
        names: label -> class name.

    Raises:
        RequestError: it names no class, or has too few colours, or one twice.
    """
    if isinstance(palette, Mapping):
        known = {name: label for label, name in names.items()} | {"background": 0} | dict.fromkeys(UNDEFINED, IGNORE)
        for key in palette:
            if str(key) not in known:
                raise RequestError(
                    f"dataset.palette: {key!r} is not a class; expected some of {', '.join(map(str, known))}"
                )
        entries = [(colour(entry), known[str(key)]) for key, entry in palette.items()]
    else:
        if len(palette) != len(names) + 1:
            raise RequestError(
                f"dataset.palette: lists {len(palette)} colours, expected {len(names) + 1}: of background and of the "
                f"{len(names)} classes in their order; or write {{class: colour, …}}"
            )
        entries = list(zip(map(colour, palette), (0, *sorted(names)), strict=True))
    doubles = [colour for colour, count in Counter(colour for colour, _ in entries).items() if count > 1]
    kinds = {type(colour) for colour, _ in entries}
    if doubles or len(kinds) > 1:
        wrong = f"{doubles[0]} occurs twice" if doubles else "colours and values are mixed"
        raise RequestError(f"dataset.palette: {wrong}; give each class a colour of its own")
    result: dict[int | Colour, int] = dict(entries)
    if kinds == {int}:
        usual: dict[int | Colour, int] = {0: 0, IGNORE: IGNORE}
    else:
        usual = {(0, 0, 0): 0, unpacked(int(packed(voc_palette()[IGNORE]))): IGNORE}
    taken = set(result.values())
    return {colour: label for colour, label in usual.items() if colour not in result and label not in taken} | result
