"""One training example, as the loading tasks make it. Importable without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from amn_ray.data.images import decode_image
from amn_ray.data.pixels import Pixels
from amn_ray.data.transforms import augment, multi_hot, random_long_side
from amn_ray.stages.recam.config import RecamNetworkConfig


@dataclass(frozen=True)
class RecamExample:
    """A row of the image table -> a training example."""

    config: RecamNetworkConfig
    num_classes: int
    pixels: Pixels

    def __call__(self, row: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """`image` uint8 (crop, crop, 4) and `labels` float32 (N,), multi-hot."""
        image_HWC = decode_image(row["image"], self.pixels)
        low, high = self.config.long_side
        size = random_long_side(image_HWC.shape[:2], (low, high), rng)
        rgba, _ = augment(image_HWC, None, size, self.config.crop, rng)
        return {"image": rgba, "labels": multi_hot(row["labels"], self.num_classes)}
