"""One training example, as the loading tasks make it. Importable without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from amn_ray.data.images import decode_image, decode_mask
from amn_ray.data.pixels import Pixels
from amn_ray.data.transforms import augment, random_scale


@dataclass(frozen=True)
class MaskedCrop:
    """A row of images joined with masks -> a training example."""

    scale: Sequence[float]
    """[smallest, largest] factor of the image's size."""
    crop: int
    pixels: Pixels

    def __call__(self, row: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """`image` uint8 (crop, crop, 4) and `label` uint8 (crop, crop)."""
        image_HWC = decode_image(row["image"], self.pixels)
        size = random_scale(image_HWC.shape[:2], (self.scale[0], self.scale[1]), rng)
        rgba, label = augment(image_HWC, decode_mask(row["mask"]), size, self.crop, rng)
        assert label is not None
        return {"image": rgba, "label": label}
