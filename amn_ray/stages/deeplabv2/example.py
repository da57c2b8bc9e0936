"""One training example, as the loading tasks make it. Importable without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from amn_ray.data.images import decode_image, decode_mask
from amn_ray.data.pixels import Pixels
from amn_ray.data.transforms import augment, resize_label
from amn_ray.stages.deeplabv2.config import DeepLabConfig

OUTPUT_STRIDE = 8


@dataclass(frozen=True)
class DeepLabExample:
    """A row of images joined with pseudo-masks -> a training example."""

    config: DeepLabConfig
    pixels: Pixels

    def __call__(self, row: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """`image` uint8 (crop, crop, 4) and, for each scale, `label<i>` uint8 (h, w) at the size of its logits."""
        image_HWC = decode_image(row["image"], self.pixels)
        factor, crop = rng.choice(self.config.factors), self.config.crop
        height, width = (max(1, round(extent * factor)) for extent in image_HWC.shape[:2])
        rgba, label = augment(image_HWC, decode_mask(row["mask"]), (height, width), crop, rng)
        assert label is not None
        sizes = [grid_size((crop, crop), scale) for scale in self.config.scales]
        return {"image": rgba} | {f"label{i}": resize_label(label, *size) for i, size in enumerate(sizes)}


def scaled(size: Sequence[int], scale: float) -> tuple[int, int]:
    """(H, W) times `scale`, rounded down as the port does."""
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def grid_size(size: Sequence[int], scale: float) -> tuple[int, int]:
    """The size of the logits of an image of `size` at a scale."""
    height, width = scaled(size, scale)
    return -(-height // OUTPUT_STRIDE), -(-width // OUTPUT_STRIDE)
