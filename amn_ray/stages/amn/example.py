"""One training example, as the loading tasks make it. Importable without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from amn_ray.data.images import decode_image, decode_mask
from amn_ray.data.pixels import Pixels
from amn_ray.data.transforms import augment, multi_hot, random_scale, resize_label
from amn_ray.nn.config import STRIDE
from amn_ray.stages.amn.config import AmnConfig


@dataclass(frozen=True)
class AmnExample:
    """A row of images joined with refined seeds -> a training example."""

    config: AmnConfig
    num_classes: int
    pixels: Pixels
    stride: int = STRIDE
    """Of the logits."""

    def __call__(self, row: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """`image` uint8 (crop, crop, 4), `labels` float32 (N,), `seed` uint8 (h, w): at the logits' size already."""
        image_HWC = decode_image(row["image"], self.pixels)
        low, high = self.config.scale
        size = random_scale(image_HWC.shape[:2], (low, high), rng)
        rgba, seed = augment(image_HWC, decode_mask(row["mask"]), size, self.config.crop, rng)
        assert seed is not None
        grid = -(-self.config.crop // self.stride)
        return {
            "image": rgba,
            "labels": multi_hot(row["labels"], self.num_classes),
            "seed": resize_label(seed, grid, grid),
        }
