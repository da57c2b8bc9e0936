"""Encoded images and masks <-> arrays. Legend: H W = pixels of the image, C = 3 (RGB)."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from amn_ray.data.pixels import DEFAULT, Pixels
from amn_ray.data.source import IGNORE
from amn_ray.data.transforms import limited_size, resize_image, resize_label

MASK_SCHEMA = pa.schema({"image_id": pa.string(), "mask": pa.binary(), "present": pa.list_(pa.int16())})
"""One row of a masks table: PNG, uint8, 255 = undefined, and the values that occur in it. Seeds and pseudo-masks are
the same thing."""
LARGEST = 179_000_000
"""Pixels of the largest file that is decoded, about Pillow's own limit: it takes 0.7 GB."""
LARGEST_SCALED = 2**29 - 1
"""The same where `max_side` makes it smaller at once: three times as many, and what pycocotools can count."""

# `opened` has a limit of its own: Pillow's is one for the whole process, and it warns far below it.
Image.MAX_IMAGE_PIXELS = None
# NumPy's floats, of 64 bits, which Pillow can unpack but does not expect in a TIFF.
TiffImagePlugin.OPEN_INFO |= {
    (order, 1, (3,), 1, (64,), ()): ("F", rawmode)
    for order, rawmode in ((TiffImagePlugin.II, "F;64F"), (TiffImagePlugin.MM, "F;64BF"))
}
# Corrupt EXIF, palettes with transparency, …: not for the terminal of a run that is fine.
warnings.filterwarnings("ignore", module=r"PIL\.")


class BadFile(ValueError):
    """A file that is no image, or damaged, or cannot be read as what it should be; the message says why."""


@dataclass(frozen=True)
class Geometry:
    """How an image's pixels lie in its file, and how they are used."""

    size: tuple[int, int]
    """(height, width) of the upright file, before `max_side`."""
    orientation: int
    """What its EXIF tag says: 1…8, 1 = the pixels lie in the file as they are seen."""
    upright: bool
    """Whether that was followed."""
    used: tuple[int, int]
    """(height, width) at which the image is used: at most `max_side`."""

    @property
    def lying(self) -> tuple[int, int]:
        """(height, width) of the pixels as they lie in the file."""
        return (self.size[1], self.size[0]) if self.upright and self.orientation in _SIDEWAYS else self.size


@dataclass(frozen=True)
class Photograph:
    """An image file, read."""

    rgb: np.ndarray
    """RGB uint8 (H, W, 3), upright, at most `Pixels.max_side` long."""
    size: tuple[int, int]
    """(height, width) of the upright file, before `max_side`."""
    orientation: int
    """What its EXIF tag says: 1…8, 1 = the pixels lie in the file as they are seen."""
    upright: bool
    """Whether that was followed."""
    low: float | None = None
    """Of images of more than 8 bits: the smallest finite value in the file."""
    peak: float | None = None
    """The largest."""
    floats: bool = False
    """Whether these values are floats."""

    @property
    def geometry(self) -> Geometry:
        """How its pixels lie."""
        height, width = self.rgb.shape[:2]
        return Geometry(self.size, self.orientation, self.upright, (height, width))


def decode_image(encoded: bytes, pixels: Pixels = DEFAULT) -> np.ndarray:
    """An encoded image of any PIL mode (grey, palette, CMYK, RGBA, 16 bits, …) -> RGB uint8 (H, W, 3).

    Raises:
        BadFile: not an image, damaged, cut short or too large.
    """
    return read_image(encoded, pixels).rgb


def read_image(encoded: bytes, pixels: Pixels = DEFAULT) -> Photograph:
    """An encoded image, and what is to be known of its file.

    Of several frames the first is read; alpha is left out. Values of more than 8 bits are scaled so that `white`
    becomes 255 and cut off at both ends; NaN is black. What is longer than `max_side` is scaled down by
    `resize_image`, after all else.

    Raises:
        BadFile: not an image, damaged, cut short or too large.
    """
    with decoding():
        image = opened(encoded, LARGEST if pixels.max_side is None else LARGEST_SCALED)
        rawmode = raw_mode(image)  # before its EXIF tag, for which a PNG is decoded
        orientation = _orientation(image)
        values = _deep_values(encoded, image, rawmode)
        if values is None:
            image_HWC = np.array(image.convert("RGB"))
        else:
            image_HWC = _eight_bits(values, pixels, inverted=_white_is_zero(image))
    image_HWC = turned(image_HWC, _turn(image, orientation, pixels.upright))
    size = image_HWC.shape[:2]
    if pixels.max_side is not None:
        image_HWC = resize_image(image_HWC, *limited_size(size, pixels.max_side))
    known = {} if values is None else _extent(values)
    return Photograph(image_HWC, size, orientation, pixels.upright, **known)


def decode_mask(encoded: bytes, *, upright: bool = True) -> np.ndarray:
    """A mask PNG (palette or grey, 8 bit) -> label values uint8 (H, W); palette colours are not looked at.

    Args:
        encoded: the content of an image file.
        upright: turn it as its own EXIF tag says, which masks rarely have.

    Raises:
        BadFile: a colour image, whose pixels are not labels; or not an image, or damaged.
    """
    with decoding():
        image = opened(encoded)
        if image.mode not in ("P", "L", "1"):
            raise BadFile(f"mask has image mode {image.mode}, expected labels in a palette or 8-bit grey PNG")
        orientation = _orientation(image)
        mask_HW = np.array(image).astype(np.uint8)  # mode 1: labels 0 and 1
    return turned(mask_HW, _turn(image, orientation, upright))


@contextmanager
def decoding() -> Iterator[None]:
    """Whatever a decoder raises in here becomes a BadFile: RuntimeError, NotImplementedError, struct.error, …"""
    try:
        yield
    except (BadFile, MemoryError):
        raise
    except (OSError, ValueError, SyntaxError) as error:
        raise BadFile(" ".join(str(error).split()) or "cannot be decoded") from error
    except Exception as error:
        text = " ".join(str(error).split())
        raise BadFile(f"cannot be decoded ({type(error).__name__}{text and f': {text}'})") from error


def opened(encoded: bytes | BinaryIO, largest: int = LARGEST) -> Image.Image:
    """The image, not yet decoded; of an open file no more is read than tells what it is.

    Raises:
        BadFile: not an image, or one of more than `largest` pixels, which would fill the memory.
    """
    stream = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded
    try:
        image = Image.open(stream)
    except UnidentifiedImageError as error:  # Pillow's own sentence names an object in memory
        stream.seek(0)
        raise BadFile(_unidentified(stream.read(16))) from error
    if getattr(image, "tag_v2", {}).get(ExifTags.Base.NewSubfileType, 0) & 1:
        raise BadFile("begins with a preview, as the raw files of cameras do; export it as JPEG or TIFF")
    if image.width * image.height > largest:
        raise BadFile(
            f"is {image.width}x{image.height} (width x height): larger than {largest / 1e6:.0f} megapixels, which can "
            f"be read{' where dataset.max_side is set to make it smaller' if largest < LARGEST_SCALED else ''}"
        )
    return image


def _unidentified(start: bytes) -> str:
    """What a file is that Pillow does not know, by its first bytes."""
    if start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"):
        return "is a HEIC photograph, which Pillow does not read; export it as JPEG"
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "is a TIFF that Pillow does not read (colours as floats, more than 4 channels, …); export it as PNG"
    return "is not an image of any format that Pillow reads"


_SIDEWAYS = (5, 6, 7, 8)
"""EXIF's orientations that exchange height and width."""
_UNDONE = {6: 8, 8: 6}
"""What undoes a turn, where that is not itself."""


def turned(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as they lie in the file (H, W, …) -> upright, for EXIF's orientations 1…8."""
    match orientation:
        case 2:
            stored = stored[:, ::-1]
        case 3:
            stored = stored[::-1, ::-1]
        case 4:
            stored = stored[::-1]
        case 5:
            stored = stored.swapaxes(0, 1)
        case 6:
            stored = np.rot90(stored, -1)
        case 7:
            stored = stored[::-1, ::-1].swapaxes(0, 1)
        case 8:
            stored = np.rot90(stored)
    return np.ascontiguousarray(stored)


def _orientation(image: Image.Image) -> int:
    """EXIF's 1…8, in any place that Pillow knows (EXIF, TIFF's tag, XMP); 1 where there is none or it is corrupt."""
    try:
        tag = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # EXIF is parsed by Pillow's Python code, which trusts it
        return 1
    return tag if isinstance(tag, int) and 1 <= tag <= 8 else 1


def _turn(image: Image.Image, orientation: int, upright: bool) -> int:
    """How the pixels that Pillow has decoded are to be turned. (Those of TIFF it turns itself.)"""
    if image.format == "TIFF":
        return 1 if upright else _UNDONE.get(orientation, orientation)
    return orientation if upright else 1


def _deep_values(encoded: bytes, image: Image.Image, rawmode: str) -> np.ndarray | None:
    """The values (H, W) or (H, W, 3) of an image of more than 8 bits; None for any other."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.array(image)
        if rawmode == "I;32N":
            return values.view(np.uint32)  # which Pillow has no mode for
        return values
    if rawmode == "LA;16B":  # big-endian bytes of grey and alpha
        return _decoded_as("RGBA", encoded)[..., :2].copy().view(">u2")[..., 0]
    if re.fullmatch(r"RGB[AX]?;16[BLN]", rawmode):
        # Pillow keeps the higher byte of each value; read with its bytes exchanged, the lower one.
        low = _decoded_as(f"{rawmode[:-1]}{'L' if rawmode.endswith('B') else 'B'}", encoded)[..., :3]
        return np.array(image)[..., :3].astype(np.uint16) << 8 | low
    return None


def raw_mode(image: Image.Image) -> str:
    """How the file's bytes are laid out, in Pillow's words; empty where its decoder does not tell."""
    tiles = getattr(image, "tile", None)
    args = tiles[0].args if tiles else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _decoded_as(rawmode: str, encoded: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(encoded))
    assert isinstance(image, ImageFile.ImageFile)
    image.tile = [
        tile._replace(args=(rawmode, *tile.args[1:]) if isinstance(tile.args, tuple) else rawmode)
        for tile in image.tile
    ]
    return np.array(image)


def _white_is_zero(image: Image.Image) -> bool:
    """Whether a grey TIFF is a negative, which Pillow heeds in 8 bits only."""
    return getattr(image, "tag_v2", {}).get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0


def _eight_bits(values: np.ndarray, pixels: Pixels, *, inverted: bool) -> np.ndarray:
    """Values (H, W) or (H, W, 3) -> RGB uint8 (H, W, 3)."""
    white = pixels.white_of(floats=values.dtype.kind == "f")
    scaled = np.nan_to_num(values.astype(np.float32), nan=0, posinf=white, neginf=0) * np.float32(255 / white)
    eight = np.rint(scaled.clip(0, 255)).astype(np.uint8)
    if inverted:
        eight = 255 - eight
    return eight if eight.ndim == 3 else np.repeat(eight[..., None], 3, axis=2)


def _extent(values: np.ndarray) -> dict[str, Any]:
    """What Photograph says of an image of more than 8 bits."""
    floats = values.dtype.kind == "f"
    finite = values[np.isfinite(values)] if floats else values
    extent = {"low": float(finite.min()), "peak": float(finite.max())} if finite.size else {"low": 0.0, "peak": 0.0}
    return {"floats": floats} | extent


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


def mask_of_photograph(mask_HW: np.ndarray, image: Geometry) -> np.ndarray:
    """A ground-truth mask as it lies on its image's pixels: turned with it, and scaled down with it by nearest.

    A mask of the upright image's size is upright, also where the lying image has the same size; one of the lying
    image's size only is the lying image's.

    Raises:
        ValueError: it has neither size.
    """
    if mask_HW.shape not in (image.size, image.lying):
        tag = ""
        if image.orientation in _SIDEWAYS:
            done = "as its EXIF tag turns it" if image.upright else "without the turn of its EXIF tag"
            tag = f", {done} (dataset.exif)"
        raise ValueError(
            f"mask is {mask_HW.shape[1]}x{mask_HW.shape[0]} but its image {image.size[1]}x{image.size[0]} "
            f"(width x height{tag})"
        )
    upright_HW = mask_HW if mask_HW.shape == image.size else turned(mask_HW, image.orientation)
    return resize_label(upright_HW, *image.used)


def check_mask(mask_HW: np.ndarray, *, num_classes: int) -> None:
    """Refuse a ground-truth mask that does not belong to the class list.

    Raises:
        ValueError: a value outside 0…N and 255.
    """
    values = np.unique(mask_HW)
    wrong = values[(values > num_classes) & (values != IGNORE)]
    if wrong.size:
        raise ValueError(
            f"mask has the value {wrong[0]}, expected 0…{num_classes} or {IGNORE}: the class list does not match"
        )
