"""Which features are clustered: a bounded sample of each class, the same in whatever order images come.

Each feature has a number that depends on the seed, its class, part, image and position alone; the sample is those with
the smallest numbers.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

OWN, CONTEXT = 1, 2
"""The parts: features of a class, and all others of its images. (0: neither.)"""
Sample = dict[tuple[int, int], list[tuple[str, int]]]
"""(label, part) -> (image_id, position on the grid) of its features, in this order."""


def numbers(seed: int, label: int, part: int, image_id: str, count: int) -> np.ndarray:
    """The numbers of all positions of an image, uint64 (count,)."""
    digest = hashlib.sha256(f"{seed} {label} {part} {image_id}".encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(digest[:16]))).integers(0, 2**64 - 1, count, np.uint64)


def smallest(seed: int, regions: Iterable[tuple[str, int, np.ndarray]], size: int) -> Sample:
    """The sample of at most `size` features of each class and part.

    Args:
        seed: of the draw.
        regions: image_id, label, and the part of each position, int8 (h·w,); in any order.
        size: of the sample.
    """
    kept: dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray, str]]] = defaultdict(list)
    counts: dict[tuple[int, int], int] = defaultdict(int)
    for image_id, label, parts in regions:
        for part in (OWN, CONTEXT):
            positions = np.flatnonzero(parts == part)
            if len(positions):
                drawn = numbers(seed, label, part, image_id, len(parts))[positions]
                kept[label, part].append((drawn, positions, image_id))
                counts[label, part] += len(positions)
                if counts[label, part] > 8 * size:  # memory stays bounded
                    kept[label, part] = _smallest(kept[label, part], size)
                    counts[label, part] = size
    return {
        key: sorted(
            (image_id, int(position)) for _, positions, image_id in _smallest(parts, size) for position in positions
        )
        for key, parts in kept.items()
    }


def _smallest(
    parts: Sequence[tuple[np.ndarray, np.ndarray, str]], size: int
) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """The same with the `size` smallest numbers only."""
    everything = np.concatenate([drawn for drawn, _, _ in parts])
    if len(everything) <= size:
        return list(parts)
    limit = np.partition(everything, size - 1)[size - 1]  # 64 bits do not collide
    cut = [(drawn <= limit, drawn, positions, image_id) for drawn, positions, image_id in parts]
    return [(drawn[low], positions[low], image_id) for low, drawn, positions, image_id in cut if low.any()]


def drawn_images(labels: Mapping[str, Sequence[int]], seed: int, per_class: int | None) -> dict[str, list[int]]:
    """The images that are looked at, and for which of their classes.

    Args:
        labels: of all images, 1…N.
        seed: of the draw.
        per_class: so many are drawn of each class with replacement, so there may be fewer different ones; None: all.
    """
    if per_class is None:
        return {image_id: list(row) for image_id, row in labels.items() if row}
    by_label: dict[int, list[str]] = defaultdict(list)
    for image_id in sorted(labels):
        for label in labels[image_id]:
            by_label[label].append(image_id)
    chosen: dict[str, list[int]] = defaultdict(list)
    for label, ids in sorted(by_label.items()):
        rng = np.random.default_rng([seed, label])
        for place in sorted(set(rng.integers(0, len(ids), per_class).tolist())):
            chosen[ids[place]].append(label)
    return dict(chosen)
