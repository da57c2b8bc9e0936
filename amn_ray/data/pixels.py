"""How the pixels of image files are to be read: one rule for a whole data set, and for everything predicted later."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pixels:
    """What `data.images.decode_image` does with a file; part of a data set's identity."""

    upright: bool = True
    """Turn photographs as their EXIF tag says; False takes the pixels as they lie in the file."""
    white: float | None = None
    """The value of white in images of more than 8 bits; null: 65535 for integers, 1.0 for floats."""
    max_side: int | None = None
    """The longer side is at most this many pixels; null: as large as the file."""
