"""A random crop of an image with its labels: what a classifier learns from. Importable without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from amn_ray.data.images import decode_image
from amn_ray.data.pixels import Pixels
from amn_ray.data.transforms import augment, jittered, multi_hot, random_long_side, resize_image


@dataclass(frozen=True)
class LabelledCrop:
    """A row of the image table -> a training example."""

    long_side: Sequence[int]
    """The longer side is resized to a length drawn from this range (pixels, inclusive)."""
    crop: int
    """Side length in pixels of the square that is cropped (or padded)."""
    num_classes: int
    pixels: Pixels
    jitter: bool = False
    """Change the colours at random, those of the whole image before it is cropped."""

    def __call__(self, row: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """`image` uint8 (crop, crop, 4) and `labels` float32 (N,), multi-hot."""
        image_HWC = decode_image(row["image"], self.pixels)
        low, high = self.long_side
        size = random_long_side(image_HWC.shape[:2], (low, high), rng)
        if self.jitter:
            image_HWC = jittered(resize_image(image_HWC, *size), rng)
        rgba, _ = augment(image_HWC, None, size, self.crop, rng)
        return {"image": rgba, "labels": multi_hot(row["labels"], self.num_classes)}
