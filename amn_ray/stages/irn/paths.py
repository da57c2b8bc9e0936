"""Pairs of neighbouring pixels and the straight paths between them (Ahn et al. 2019, Section 4.1).

A pair is (p, p + d) with d in half of a disc, so that each pair occurs once. Its path is every pixel closer than 1 to
the straight line between the two, within their bounding box; both ends belong to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Path:
    """The path from a pixel to the one at (dy, dx), as offsets from the first."""

    dy: int
    dx: int
    offsets: tuple[tuple[int, int], ...]

    def window(self, offset: tuple[int, int], height: int, width: int) -> tuple[slice, slice]:
        """The slices (rows, columns) of the pixels at `offset`, of all pairs inside an image.

        Empty where the image is smaller than the pair is wide.
        """
        y, x = offset
        first = max(0, -self.dx)
        rows, columns = max(0, height - self.dy), max(0, width - abs(self.dx))
        return slice(y, y + rows), slice(first + x, first + x + columns)


@lru_cache
def paths(radius: int) -> tuple[Path, ...]:
    """All directions d with |d| < radius in the half plane below and to the right, each once."""
    reach = range(-radius + 1, radius)
    directions = [
        (dy, dx) for dy in range(radius) for dx in reach if dy * dy + dx * dx < radius * radius and (dy, dx) > (0, 0)
    ]
    return tuple(Path(dy, dx, _offsets(dy, dx)) for dy, dx in directions)


def _offsets(dy: int, dx: int) -> tuple[tuple[int, int], ...]:
    box = ((y, x) for y in range(dy + 1) for x in range(min(0, dx), max(0, dx) + 1))
    return tuple((y, x) for y, x in box if (dy * x - dx * y) ** 2 < dy * dy + dx * dx)
