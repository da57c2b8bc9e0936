"""Training augmentation, as plain functions of (pixels, generator).

Legend: H W = pixels, h w = the network's grid. Geometry is done by Pillow: bicubic for images, nearest for labels. An
augmented image is **RGBA**: alpha 0 marks padding, so that `Backbone.normalise` can pad *after* normalisation (with 0,
the mean colour) although crops travel as bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageEnhance

from amn_ray.data.source import IGNORE

ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def generator(seed: int, epoch: int, image_id: str) -> np.random.Generator:
    """The source of an image's randomness in an epoch: the same on any number of workers, and after a restart."""
    digest = int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "little")
    return np.random.default_rng([seed, epoch, digest])


def epoch_order(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation int64 (num_rows,) in which an epoch visits the rows of a table ordered by id."""
    return np.random.default_rng([seed, epoch]).permutation(num_rows)


def resize_image(image_HWC: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic resize of a uint8 image (H, W, C)."""
    return np.asarray(Image.fromarray(image_HWC).resize((width, height), Image.Resampling.BICUBIC))


def resize_square(image_HWC: np.ndarray, side: int) -> np.ndarray:
    """Bilinear resize of a uint8 image to a square, whatever its proportions: (H, W, C) -> (side, side, C)."""
    return np.asarray(Image.fromarray(image_HWC).resize((side, side), Image.Resampling.BILINEAR))


def resize_label(label_HW: np.ndarray, height: int, width: int) -> np.ndarray:
    """Nearest resize of a uint8 label map. Pillow samples cell centres; `F.interpolate(mode="nearest")` does not."""
    return np.asarray(Image.fromarray(label_HW).resize((width, height), Image.Resampling.NEAREST))


def limited_size(size: tuple[int, ...], longest: int) -> tuple[int, int]:
    """(height, width), scaled down where the longer one is more than `longest`."""
    scale = min(1.0, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def random_long_side(size: tuple[int, int], bounds: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """(height, width) scaled so that the longer one is an integer drawn uniformly from `bounds` (inclusive)."""
    target = int(rng.integers(bounds[0], bounds[1] + 1))
    scale = target / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def random_scale(size: tuple[int, int], bounds: tuple[float, float], rng: np.random.Generator) -> tuple[int, int]:
    """(height, width) times a factor drawn uniformly from `bounds`."""
    scale = rng.uniform(*bounds)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def augment(
    image_HWC: np.ndarray,
    label_HW: np.ndarray | None,
    size: tuple[int, int],
    crop: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Resize to `size` (height, width), flip with probability ½, crop at random, pad at random where smaller.

    Returns:
        The image uint8 (crop, crop, 4), RGBA with alpha 0 where padded, and the label uint8 (crop, crop) with 255
        where padded (None if none was given).
    """
    flip = rng.random() < 0.5
    # Along each axis: where the image and the crop overlap, in image and in crop coordinates.
    (from_y, to_y, span_y), (from_x, to_x, span_x) = (_overlap(extent, crop, rng) for extent in size)
    source = np.s_[from_y : from_y + span_y, from_x : from_x + span_x]
    target = np.s_[to_y : to_y + span_y, to_x : to_x + span_x]

    def place(pixels: np.ndarray, canvas: np.ndarray) -> np.ndarray:
        canvas[target] = (pixels[:, ::-1] if flip else pixels)[source]
        return canvas

    rgba = np.zeros((crop, crop, 4), np.uint8)
    place(resize_image(image_HWC, *size), rgba[..., :3])
    rgba[..., 3][target] = 255
    if label_HW is None:
        return rgba, None
    return rgba, place(resize_label(label_HW, *size), np.full((crop, crop), IGNORE, np.uint8))


def _overlap(extent: int, crop: int, rng: np.random.Generator) -> tuple[int, int, int]:
    """(start in the image, start in the crop, length) of a random crop of an axis."""
    slack = extent - crop
    offset = int(rng.integers(0, abs(slack) + 1))
    return (offset, 0, crop) if slack >= 0 else (0, offset, extent)


def jittered(image_HWC: np.ndarray, rng: np.random.Generator, strength: float = 0.3, hue: float = 0.1) -> np.ndarray:
    """Colours changed at random, as torchvision's ColorJitter does.

    Brightness, contrast and saturation are multiplied by factors drawn from 1 ± `strength`, and the hue is turned by a
    share of the circle drawn from ± `hue`, in random order.

    Args:
        image_HWC: RGB uint8; the contrast is that with the mean of all its pixels.
        rng: the source of randomness.
        strength: see above.
        hue: see above.
    """
    image = Image.fromarray(image_HWC)
    factors = rng.uniform(1 - strength, 1 + strength, 3)
    turn = rng.uniform(-hue, hue)
    for kind in rng.permutation(4):
        image = _with_hue_turned(image, turn) if kind == 3 else ENHANCERS[kind](image).enhance(factors[kind])
    return np.asarray(image)


def _with_hue_turned(image: Image.Image, turn: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = (np.asarray(hue).astype(np.int32) + int(turn * 255)) % 256
    return Image.merge("HSV", (Image.fromarray(turned.astype(np.uint8)), saturation, value)).convert("RGB")


def multi_hot(labels: Sequence[int], num_classes: int) -> np.ndarray:
    """Labels 1…N -> float32 (N,), 1 where the class is in the image."""
    vector = np.zeros(num_classes, np.float32)
    vector[[label - 1 for label in labels]] = 1
    return vector
