"""What DRS's networks learn from, when VGG-16 is the backbone. Importable without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from amn_ray.data.images import decode_image
from amn_ray.data.pixels import Pixels
from amn_ray.data.transforms import augment, jittered, multi_hot, resize_square


@dataclass(frozen=True)
class LabelledSquare:
    """A row of the image table -> a crop of the image, squeezed to a square with its colours changed."""

    side: Sequence[int]
    """The square's side in pixels is drawn from this range (inclusive)."""
    crop: int
    num_classes: int
    pixels: Pixels

    def __call__(self, row: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """`image` uint8 (crop, crop, 4), nowhere padded, and `labels` float32 (N,), multi-hot."""
        side = int(rng.integers(self.side[0], self.side[1] + 1))
        square = jittered(resize_square(decode_image(row["image"], self.pixels), side), rng)
        rgba, _ = augment(square, None, (side, side), self.crop, rng)
        return {"image": rgba, "labels": multi_hot(row["labels"], self.num_classes)}


@dataclass(frozen=True)
class TargetSquare:
    """A row of the image table and of the first network's maps -> a square and the maps to reproduce."""

    side: int
    num_classes: int
    pixels: Pixels

    def __call__(self, row: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """`image` uint8 (side, side, 3) and `target` uint8 (N, side, side): the strongest class of each pixel."""
        square = jittered(resize_square(decode_image(row["image"], self.pixels), self.side), rng)
        maps = np.frombuffer(row["maps"], np.uint8).reshape(len(row["keys"]), self.side, self.side)
        target = np.zeros((self.num_classes, self.side, self.side), np.uint8)
        if len(maps):
            target[[key - 1 for key in row["keys"]]] = np.where(maps == maps.max(0), maps, 0)
        if rng.random() < 0.5:
            square, target = square[:, ::-1].copy(), target[:, :, ::-1].copy()
        return {"image": square, "target": target}
