"""Colours of masks as people write them in `dataset.palette`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

Colour = tuple[int, int, int]
"""Red, green, blue: 0 to 255."""


def colour(entry: Any) -> int | Colour:
    """[red, green, blue], "#rrggbb" or the value of a pixel.

    Raises:
        ValueError: it is none of these; the sentence begins with the key `palette`.
    """
    if isinstance(entry, int) and not isinstance(entry, bool) and entry >= 0:
        return entry
    if isinstance(entry, str) and re.fullmatch(r"#?[0-9a-fA-F]{6}", entry.strip()):
        red, green, blue = bytes.fromhex(entry.strip().removeprefix("#"))
        return red, green, blue
    if isinstance(entry, list | tuple) and len(entry) == 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in entry):
        return entry[0], entry[1], entry[2]
    raise ValueError(f"palette={entry}: expected [red, green, blue] with 0 to 255, '#rrggbb', or the value of a pixel")


def from_text(palette: Any) -> Any:
    """A palette that is written as one text, "{猫: [255, 0, 0]}": Hydra's own dictionaries have no such names.

    Raises:
        ValueError: the text is no YAML; the sentence begins with the key `palette`.
    """
    if not isinstance(palette, str):
        return palette
    import yaml  # comes with OmegaConf; the core of the package runs without both

    try:
        return yaml.safe_load(palette)
    except yaml.YAMLError as error:
        raise ValueError(f"palette={palette}: is not written as {{class name: colour, …}}") from error


def check_colours(palette: Any) -> None:
    """Refuse what is no list of colours and no mapping of names to colours.

    Raises:
        ValueError: with the sentence, which begins with the key.
    """
    entries = list(palette.values()) if isinstance(palette, Mapping) else palette
    if isinstance(entries, str) or not isinstance(entries, Iterable) or not list(entries):
        raise ValueError(f"palette={palette}: must be a list of colours, background first, or {{class name: colour}}")
    for entry in entries:
        colour(entry)
