"""How the pixels of image files are to be read: one rule for a whole data set, and for everything predicted later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Pixels:
    """What `data.images.decode_image` does with a file; part of a data set's identity."""

    upright: bool = True
    """Turn photographs as their EXIF tag says; False takes the pixels as they lie in the file."""
    white: float | None = None
    """The value of white in images of more than 8 bits; null: 65535 for integers, 1.0 for floats."""
    max_side: int | None = None
    """The longer side is at most this many pixels; null: as large as the file."""

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Pixels:
        """The rule by which an image table was read; of tables that say nothing, the defaults."""
        return cls(**manifest.get("pixels", {}))

    def white_of(self, *, floats: bool) -> float:
        """The value that becomes 255, of images of floats or of integers with more than 8 bits."""
        return self.white if self.white is not None else WHITE_FLOAT if floats else WHITE_INTEGER


WHITE_INTEGER = 65535.0
WHITE_FLOAT = 1.0
DEFAULT = Pixels()
