"""Encoded images and masks <-> arrays. Legend: H W = pixels of the image, C = 3 (RGB)."""

from __future__ import annotations

import io
import struct
from functools import lru_cache

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps, UnidentifiedImageError

from amn_ray.data.source import IGNORE

MASK_SCHEMA = pa.schema({"image_id": pa.string(), "mask": pa.binary(), "present": pa.list_(pa.int16())})
"""One row of a masks table: PNG, uint8, 255 = undefined, and the values that occur in it. Seeds and pseudo-masks are
the same thing."""


NOT_AN_IMAGE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)
"""What Pillow raises for files that are damaged, cut short, absurdly large, or no images at all."""


def decode_image(encoded: bytes, upright: bool = False) -> np.ndarray:
    """An encoded image of any PIL mode (grey, palette, CMYK, RGBA, …) -> RGB uint8 (H, W, 3).

    Args:
        encoded: the content of an image file.
        upright: turn photographs as their EXIF tag says. (Data sets' masks are drawn on the pixels as they lie.)

    Raises:
        OSError: not an image, or cut short (PIL's own sentence).
    """
    with _opened(encoded) as image:
        return np.array((ImageOps.exif_transpose(image) if upright else image).convert("RGB"))


def decode_mask(encoded: bytes) -> np.ndarray:
    """A mask PNG (palette or grey, 8 bit) -> label values uint8 (H, W); palette colours are not looked at.

    Raises:
        ValueError: the file is a colour image, whose pixels are not labels.
        OSError: not an image, or cut short.
    """
    with _opened(encoded) as image:
        if image.mode not in ("P", "L", "1"):
            raise ValueError(f"mask has image mode {image.mode}, expected labels in a palette or 8-bit grey PNG")
        return np.array(image).astype(np.uint8)  # mode 1: labels 0 and 1


def _opened(encoded: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(encoded))
    except UnidentifiedImageError as error:  # Pillow's own sentence names an object in memory
        raise OSError("is not an image of any format that Pillow reads") from error


def encode_mask(mask_HW: np.ndarray) -> bytes:
    """Label values uint8 (H, W) -> a grey PNG of the same values, small and fast rather than smallest."""
    stream = io.BytesIO()
    Image.fromarray(mask_HW).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


@lru_cache(maxsize=1)
def voc_palette() -> np.ndarray:
    """VOC's colours: uint8 (256, 3), label -> RGB; 0 is black and 255 off-white."""
    palette = np.zeros((256, 3), np.uint8)
    for label in range(256):
        rest, colour = label, [0, 0, 0]
        for bit in range(7, -1, -1):
            for channel in range(3):
                colour[channel] |= (rest >> channel & 1) << bit
            rest >>= 3
        palette[label] = colour
    return palette


def encode_palette_mask(mask_HW: np.ndarray) -> bytes:
    """Label values uint8 (H, W) -> a PNG of mode P in VOC's colours, as people and other frameworks expect masks."""
    image = Image.fromarray(mask_HW)
    image.putpalette(voc_palette().tobytes())
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def encode_overlay(image_HWC: np.ndarray, mask_HW: np.ndarray) -> bytes:
    """An image under its half-transparent mask, as JPEG; background stays as it is."""
    painted = np.where(mask_HW[..., None] > 0, image_HWC // 2 + voc_palette()[mask_HW] // 2, image_HWC)
    stream = io.BytesIO()
    Image.fromarray(painted).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def mask_row(image_id: str, mask_HW: np.ndarray) -> dict[str, object]:
    """A row of MASK_SCHEMA."""
    return {"image_id": image_id, "mask": encode_mask(mask_HW), "present": np.unique(mask_HW).tolist()}


def encode_png(image_HWC: np.ndarray) -> bytes:
    """RGB uint8 (H, W, 3) -> PNG."""
    stream = io.BytesIO()
    Image.fromarray(image_HWC).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def check_mask(mask_HW: np.ndarray, *, size: tuple[int, int], num_classes: int) -> None:
    """Refuse a ground-truth mask that does not belong to its image or to the class list.

    Raises:
        ValueError: another size than the image's, or a value outside 0…N and 255.
    """
    if mask_HW.shape != size:
        raise ValueError(
            f"mask is {mask_HW.shape[1]}x{mask_HW.shape[0]} but its image {size[1]}x{size[0]} (width x height)"
        )
    values = np.unique(mask_HW)
    wrong = values[(values > num_classes) & (values != IGNORE)]
    if wrong.size:
        raise ValueError(
            f"mask has the value {wrong[0]}, expected 0…{num_classes} or {IGNORE}: the class list does not match"
        )
