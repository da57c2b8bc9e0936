"""One training example, as the loading tasks make it. Importable without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from amn_ray.data.images import decode_image, decode_mask
from amn_ray.data.maps import STORED_STRIDE
from amn_ray.data.pixels import Pixels
from amn_ray.data.transforms import augment, random_scale, resize_label
from amn_ray.stages.irn.config import IrnConfig


@dataclass(frozen=True)
class IrnExample:
    """A row of images joined with seeds -> a training example."""

    config: IrnConfig
    pixels: Pixels

    def __call__(self, row: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """`image` uint8 (crop, crop, 4) and `seed` uint8 (h, w), at stride 4 by nearest."""
        image_HWC = decode_image(row["image"], self.pixels)
        low, high = self.config.scale
        size = random_scale(image_HWC.shape[:2], (low, high), rng)
        rgba, seed = augment(image_HWC, decode_mask(row["mask"]), size, self.config.crop, rng)
        assert seed is not None
        grid = -(-self.config.crop // STORED_STRIDE)
        return {"image": rgba, "seed": resize_label(seed, grid, grid)}
