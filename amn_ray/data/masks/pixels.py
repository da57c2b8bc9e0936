"""What a mask file holds: grey values or palette indices, and colours."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from PIL import Image

from amn_ray.data.images import decoding, opened, raw_mode
from amn_ray.data.masks.colours import packed


@dataclass(frozen=True)
class MaskPixels:
    """What a mask file holds."""

    values: np.ndarray | None
    """(H, W): grey values or palette indices as they are in the file; None if the pixels are coloured."""
    colours: np.ndarray | None
    """0xRRGGBB (H, W), of coloured pixels and of a palette's; None if the pixels are grey."""
    white: int
    """The largest grey value that the file can hold."""
    lossy: str | None
    """The name of a format that alters values."""
    renumbered: bool = False
    """Its format's writers number palettes as they like (GIF): the colours count."""


@decoding()
def mask_pixels(encoded: bytes) -> MaskPixels:
    """What is in an encoded mask.

    Raises:
        BadFile: no image, or pixels that cannot be labels (several frames, fractions, half-transparent places).
    """
    with opened(encoded) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise ValueError(f"mask has {image.n_frames} frames, expected one")  # type: ignore[attr-defined]
        if image.format == "PNG" and encoded[24] == 16 and encoded[25] != 0:
            raise ValueError("mask has colours of 16 bits; save it with 8 bits")  # Pillow drops the lower half
        raw = raw_mode(image)
        lossy = _lossy(image, encoded)
        if image.mode == "P":
            indices_HW = np.array(image)
            table = np.array(image.convert("P").getpalette("RGB") or [], np.int32).reshape(-1, 3)
            colour_of = np.zeros(256, np.int32)
            colour_of[: len(table)] = packed(table)
            return MaskPixels(indices_HW, colour_of[indices_HW], 255, lossy, image.format == "GIF")
        if image.mode in ("1", "L"):
            bits = int(found[1]) if (found := re.match(r"L;([24])", raw)) else 1 if image.mode == "1" else 8
            # Pillow spreads 2 and 4 bits over 0…255.
            values_HW = np.array(image).astype(np.uint8) // (255 // (2**bits - 1) if bits in (2, 4) else 1)
            return MaskPixels(values_HW, None, 2**bits - 1, lossy)
        if image.mode.startswith("I") or image.mode == "F":
            return MaskPixels(_integers(np.array(image)), None, 65535, lossy)
        if image.mode in ("LA", "PA", "RGBA", "La", "RGBa"):
            return _without_alpha(np.array(image.convert("RGBA")), lossy)
        if image.mode == "RGB":
            return _of_colours(np.array(image), lossy)
        raise ValueError(f"mask has image mode {image.mode}, expected grey values, a palette or RGB; save it as PNG")


def _lossy(image: Image.Image, encoded: bytes) -> str | None:
    if image.format == "WEBP":
        return None if b"VP8L" in encoded[:64] else "lossy WEBP"
    return image.format if image.format in ("JPEG", "MPO", "AVIF", "JPEG2000") else None


def _integers(values_HW: np.ndarray) -> np.ndarray:
    if not np.isfinite(values_HW).all() or (values_HW != np.round(values_HW)).any():
        raise ValueError("mask holds fractions, expected whole numbers; write labels (0 = background) and no scores")
    return values_HW if values_HW.dtype.kind in "iu" else values_HW.astype(np.int32)


def _without_alpha(rgba_HWC: np.ndarray, lossy: str | None) -> MaskPixels:
    rgb_HWC, alpha_HW = rgba_HWC[..., :3], rgba_HWC[..., 3]
    levels = np.unique(alpha_HW)
    if len(levels) == 1:  # opaque, evenly half-transparent, or an alpha that nobody set
        return _of_colours(rgb_HWC, lossy)
    clear_HW = alpha_HW == 0
    if len(np.unique(packed(rgb_HWC))) == 1:  # a shape cut out of one colour
        return MaskPixels(alpha_HW, None, 255, lossy)
    if len(levels) > 2 or levels[0] > 0:
        raise ValueError("mask is half-transparent in places, so its labels are unclear; save it without transparency")
    if len(np.unique(packed(rgb_HWC[clear_HW]))) > 1:
        raise ValueError("mask has different colours where it is transparent; save it without transparency")
    return _of_colours(np.where(clear_HW[..., None], 0, rgb_HWC).astype(np.uint8), lossy)  # nothing drawn: background


def _of_colours(rgb_HWC: np.ndarray, lossy: str | None) -> MaskPixels:
    grey = (rgb_HWC == rgb_HWC[..., :1]).all()
    return MaskPixels(rgb_HWC[..., 0] if grey else None, packed(rgb_HWC), 255, lossy)


def distinct(values: np.ndarray) -> list[int]:
    """The different values of an array, ascending; np.unique is slow where they are bytes."""
    if values.dtype == np.uint8:
        return np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist()
    return np.unique(values).tolist()
