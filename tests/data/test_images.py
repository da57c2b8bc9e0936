"""Image files as cameras, scanners and scripts write them -> pixels."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from amn_ray.data import images
from amn_ray.data.images import (
    BadFile,
    check_mask,
    decode_image,
    decode_mask,
    mask_of_photograph,
    read_image,
    turned,
)
from amn_ray.data.pixels import Pixels
from amn_ray.data.transforms import resize_image, resize_label
from tests.conftest import encode, noise

ORIENTATION = 0x0112
AS_IT_LIES = Pixels(upright=False)


def saved(image: Image.Image, kind: str, **more: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **more)
    return stream.getvalue()


def tagged(stored: np.ndarray, orientation: int, kind: str = "PNG") -> bytes:
    """A file whose EXIF tag says how it is to be turned."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return saved(Image.fromarray(stored), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))


def png(values: np.ndarray, colour_type: int, depth: int = 16) -> bytes:
    """A PNG of 16-bit values (H, W) or (H, W, C), which Pillow writes for grey ones only."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = values.shape[:2]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    head = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(values: np.ndarray, order: str, **more: int) -> bytes:
    """An uncompressed TIFF of values (H, W, C), little-endian (<) or big-endian (>), with `tag_<number>` as given."""
    height, width, bands = values.shape
    body = values.astype(values.dtype.newbyteorder(order)).tobytes()
    bits = 8 * values.dtype.itemsize
    tags = {
        256: width, 257: height, 259: 1, 262: 2 if bands == 3 else 1, 273: 8, 277: bands, 278: height, 279: len(body),
        339: {"u": 1, "i": 2, "f": 3}[values.dtype.kind],
    }  # fmt: skip
    tags |= {int(name.removeprefix("tag_")): value for name, value in more.items()}
    depths = struct.pack(f"{order}{bands}H", *[bits] * bands)
    entries = {tag: struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items()}
    where = struct.pack(f"{order}I", 8 + len(body)) if bands > 1 else struct.pack(f"{order}HH", bits, 0)
    entries[258] = struct.pack(f"{order}HHI", 258, 3, bands) + where
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(body) + len(depths))
    listed = struct.pack(f"{order}H", len(entries)) + b"".join(entry for _, entry in sorted(entries.items())) + bytes(4)
    return head + body + depths + listed


def grey(values_HW: np.ndarray, white: float) -> np.ndarray:
    """What the networks are to see of values: RGB uint8, white at 255."""
    scaled = np.rint(np.clip(values_HW.astype(float) / white, 0, 1) * 255).astype(np.uint8)
    return scaled if scaled.ndim == 3 else np.repeat(scaled[..., None], 3, axis=2)


def deep(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_of_all_orientations_become_upright_or_stay_as_they_lie(kind: str, orientation: int) -> None:
    stored = noise(4, 6)
    encoded = tagged(stored, orientation, kind)
    with Image.open(io.BytesIO(encoded)) as image:
        expected = np.array(ImageOps.exif_transpose(image))  # Pillow's own way is the oracle
    image = read_image(encoded)
    np.testing.assert_array_equal(image.rgb, expected)
    assert image.orientation == orientation
    assert image.size == ((6, 4) if orientation >= 5 else (4, 6))
    assert image.geometry.lying == (4, 6)
    lying = read_image(encoded, AS_IT_LIES)
    assert lying.size == lying.geometry.lying == (4, 6)
    if kind in ("PNG", "WEBP", "TIFF"):  # which lose nothing
        np.testing.assert_array_equal(lying.rgb, stored)
    np.testing.assert_array_equal(turned(lying.rgb, orientation), image.rgb)


def test_turns_are_those_of_the_standard() -> None:
    stored = np.array([[1, 2, 3], [4, 5, 6]])
    expected = {
        1: [[1, 2, 3], [4, 5, 6]],
        2: [[3, 2, 1], [6, 5, 4]],
        3: [[6, 5, 4], [3, 2, 1]],
        4: [[4, 5, 6], [1, 2, 3]],
        5: [[1, 4], [2, 5], [3, 6]],
        6: [[4, 1], [5, 2], [6, 3]],
        7: [[6, 3], [5, 2], [4, 1]],
        8: [[3, 6], [2, 5], [1, 4]],
    }
    for orientation, upright in expected.items():
        np.testing.assert_array_equal(turned(stored, orientation), upright)


def test_a_corrupt_exif_tag_spoils_no_photograph(recwarn: pytest.WarningsRecorder) -> None:
    image = noise(4, 6)
    broken = (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12\0\x03", b"no exif")
    for exif in broken:
        encoded = saved(Image.fromarray(image), "JPEG", exif=exif)
        assert decode_image(encoded).shape == (4, 6, 3)
        assert read_image(encoded).orientation == 1
    for value in (0, 9, 77):
        np.testing.assert_array_equal(decode_image(tagged(image, value)), image)


def test_masks_are_turned_with_their_photograph_where_their_size_says_so() -> None:
    upright_HW = np.arange(24, dtype=np.uint8).reshape(6, 4)
    stored = np.rot90(noise(6, 4))
    image = read_image(tagged(stored, 6))
    np.testing.assert_array_equal(image.rgb, np.rot90(stored, -1))
    np.testing.assert_array_equal(mask_of_photograph(upright_HW, image.geometry), upright_HW)
    np.testing.assert_array_equal(mask_of_photograph(np.rot90(upright_HW), image.geometry), upright_HW)
    lying = read_image(tagged(stored, 6), AS_IT_LIES)
    np.testing.assert_array_equal(mask_of_photograph(np.rot90(upright_HW), lying.geometry), np.rot90(upright_HW))
    with pytest.raises(ValueError, match=r"mask is 4x6 but its image 6x4 .*without the turn of its EXIF tag"):
        mask_of_photograph(upright_HW, lying.geometry)
    half_a_turn = read_image(tagged(noise(6, 4), 3))
    np.testing.assert_array_equal(mask_of_photograph(upright_HW, half_a_turn.geometry), upright_HW)
    for size in ((3, 2), (12, 8), (5, 4)):
        with pytest.raises(ValueError, match=r"but its image 4x6 .*EXIF.*dataset\.exif"):
            mask_of_photograph(np.zeros(size, np.uint8), image.geometry)
        with pytest.raises(ValueError, match=r"but its image 4x6 \(width x height\)$"):
            mask_of_photograph(np.zeros(size, np.uint8), read_image(encode(noise(6, 4))).geometry)


def test_a_mask_with_a_tag_of_its_own_is_upright_too() -> None:
    labels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    for orientation in range(1, 9):
        encoded = tagged(labels, orientation)
        np.testing.assert_array_equal(decode_mask(encoded), turned(labels, orientation))
        np.testing.assert_array_equal(decode_mask(encoded, upright=False), labels)


def test_large_photographs_are_scaled_down_and_their_masks_with_them() -> None:
    image_HWC, mask_HW = noise(60, 90), noise(60, 90)[..., 0]
    image = read_image(encode(image_HWC), Pixels(max_side=30))
    np.testing.assert_array_equal(image.rgb, resize_image(image_HWC, 20, 30))
    assert image.size == (60, 90)
    np.testing.assert_array_equal(mask_of_photograph(mask_HW, image.geometry), resize_label(mask_HW, 20, 30))
    upright = read_image(tagged(image_HWC, 6), Pixels(max_side=30))
    np.testing.assert_array_equal(upright.rgb, resize_image(np.rot90(image_HWC, -1), 30, 20))
    turned_HW = mask_of_photograph(mask_HW, upright.geometry)
    np.testing.assert_array_equal(turned_HW, resize_label(np.rot90(mask_HW, -1), 30, 20))
    for side in (90, 1000):
        np.testing.assert_array_equal(decode_image(encode(image_HWC), Pixels(max_side=side)), image_HWC)
    assert decode_image(encode(noise(1, 700)), Pixels(max_side=10)).shape == (1, 10, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000"])
def test_grey_of_16_bits_is_scaled_to_8(kind: str) -> None:
    values = deep(12, 17)
    image = read_image(saved(Image.fromarray(values), kind))
    np.testing.assert_array_equal(image.rgb, grey(values, 65535))
    assert (image.low, image.peak, image.floats) == (values.min(), values.max(), False)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_deep_tiffs_are_read_in_any_compression_and_as_negatives(compression: str | None, dtype: type) -> None:
    values = deep(12, 17).astype(dtype)
    image = Image.fromarray(values)
    pixels = Pixels(white=65535)
    np.testing.assert_array_equal(
        decode_image(saved(image, "TIFF", compression=compression), pixels), grey(values, 65535)
    )
    if dtype is not np.int32:  # which Pillow refuses as a negative
        negative = saved(image, "TIFF", compression=compression, tiffinfo={262: 0})
        np.testing.assert_array_equal(decode_image(negative, pixels), 255 - grey(values, 65535))


@pytest.mark.parametrize(("colour_type", "bands"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_a_png_of_16_bits_keeps_both_bytes_of_grey_and_colour(colour_type: int, bands: int) -> None:
    values = deep(12, 17, bands)
    seen = values[..., 0] if bands < 3 else values[..., :3]
    np.testing.assert_array_equal(decode_image(png(values, colour_type)), grey(seen, 65535))
    image = read_image(png(values >> 4, colour_type), Pixels(white=4095))
    np.testing.assert_array_equal(image.rgb, grey(seen >> 4, 4095))
    assert image.peak == (seen >> 4).max()


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_colour_tiff_of_16_bits_keeps_both_bytes(order: str) -> None:
    values = deep(12, 17, 3) >> 4
    image = read_image(tiff(values, order), Pixels(white=4095))
    np.testing.assert_array_equal(image.rgb, grey(values, 4095))
    assert image.peak == values.max()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u2", "i2", "i4", "f4", "f8"])
def test_a_grey_tiff_of_any_number_is_read(order: str, kind: str) -> None:
    values = (deep(12, 17, 1) >> 1).astype(kind)
    np.testing.assert_array_equal(decode_image(tiff(values, order), Pixels(white=32767)), grey(values[..., 0], 32767))


def test_unsigned_numbers_of_32_bits_are_not_taken_for_negative_ones() -> None:
    values = np.array([[[0], [2**31], [2**32 - 1]]], np.uint32)
    image = read_image(tiff(values, "<"), Pixels(white=2**32 - 1))
    np.testing.assert_array_equal(image.rgb[..., 0], [[0, 128, 255]])
    assert (image.low, image.peak) == (0, 2**32 - 1)


def test_files_that_are_often_tried_in_vain_are_named() -> None:
    heic = struct.pack(">I", 24) + b"ftypheic" + bytes(12)
    with pytest.raises(BadFile, match=r"HEIC photograph.* export it as JPEG"):
        decode_image(heic)
    with pytest.raises(BadFile, match="TIFF that Pillow does not read"):
        decode_image(tiff(np.zeros((3, 4, 3), np.float32), "<"))
    with pytest.raises(BadFile, match="begins with a preview"):
        decode_image(tiff(np.zeros((3, 4, 3), np.uint8), "<", tag_254=1))
    for content in (b"", b"text", b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(BadFile, match="is not an image"):
            decode_image(content)


def test_deep_photographs_are_turned_and_scaled_down_like_others() -> None:
    values = deep(12, 18)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image = read_image(saved(Image.fromarray(values), "PNG", exif=exif), Pixels(max_side=9))
    np.testing.assert_array_equal(image.rgb, resize_image(np.rot90(grey(values, 65535), -1), 9, 6))


def test_floats_are_cut_off_at_both_ends_and_what_is_no_number_is_black() -> None:
    values = np.array([[0, 0.5, 1, 1.5], [-1, np.nan, np.inf, -np.inf]], np.float32)
    image = read_image(saved(Image.fromarray(values), "TIFF"))
    np.testing.assert_array_equal(image.rgb[..., 0], [[0, 128, 255, 255], [0, 0, 255, 0]])
    assert (image.low, image.peak, image.floats) == (-1, 1.5, True)
    image = read_image(saved(Image.fromarray(values * 255), "TIFF"), Pixels(white=255))
    np.testing.assert_array_equal(image.rgb[..., 0], [[0, 128, 255, 255], [0, 0, 255, 0]])
    nothing = read_image(saved(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"))
    assert not nothing.rgb.any()


def test_alpha_and_transparency_are_left_out(recwarn: pytest.WarningsRecorder) -> None:
    colours = noise(5, 7)
    alpha = np.zeros((5, 7, 1), np.uint8)
    np.testing.assert_array_equal(decode_image(encode(np.concatenate([colours, alpha], 2))), colours)
    shades = np.concatenate([colours[..., :1], alpha], 2)
    np.testing.assert_array_equal(decode_image(encode(shades)), colours[..., :1].repeat(3, 2))
    palette = Image.fromarray(colours[..., 0] % 4)
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    for transparency in (2, bytes([0, 128, 255, 9])):
        encoded = saved(palette, "PNG", transparency=transparency)
        expected = np.arange(10, 130, 10).reshape(4, 3)[colours[..., 0] % 4]
        np.testing.assert_array_equal(decode_image(encoded), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.fromarray(noise(6, 9)).convert(mode)
    encoded = saved(image, "TIFF" if mode == "CMYK" else "PNG")
    np.testing.assert_array_equal(decode_image(encoded), np.array(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "MPO", "PNG"])
def test_of_several_frames_the_first_is_taken(kind: str) -> None:
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("white", "black"))
    encoded = saved(first, kind, save_all=True, append_images=[second])
    assert decode_image(encoded).min() > 240


class _Decoder:
    """Stands for a decoder that fails."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, stream: object) -> Image.Image:
        raise self.error


@pytest.mark.parametrize(
    "error", [RuntimeError("x"), NotImplementedError("x"), KeyError(5), struct.error("x"), EOFError()]
)
@pytest.mark.parametrize("decode", [decode_image, decode_mask])
def test_whatever_a_decoder_raises_is_a_bad_file(
    error: Exception, decode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images.Image, "open", _Decoder(error))
    with pytest.raises(BadFile, match=type(error).__name__):
        decode(b"")


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()])
def test_a_lack_of_memory_is_no_bad_file(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images.Image, "open", _Decoder(error))
    with pytest.raises(type(error)):
        decode_image(b"")


@pytest.mark.filterwarnings("ignore")  # as the module does, which pytest undoes
def test_damaged_files_of_every_kind_are_bad_files_or_images() -> None:
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "TIFF", "GIF", "WEBP", "AVIF", "BMP", "JPEG2000", "DDS", "TGA", "PPM", "ICO"):
        whole = saved(Image.fromarray(noise(24, 24)), kind)
        for _ in range(30):
            damaged = bytearray(whole)
            for place in rng.integers(0, len(whole), 3):
                damaged[place] ^= 255
            for content in (bytes(damaged), whole[: rng.integers(0, len(whole))]):
                with suppress(BadFile):
                    assert decode_image(content).ndim == 3


def test_files_cut_short_are_refused() -> None:
    for kind in ("PNG", "JPEG"):
        whole = saved(Image.fromarray(noise(40, 40)), kind)
        with pytest.raises(BadFile, match="truncated"):
            decode_image(whole[: len(whole) // 2])


def test_files_beyond_any_memory_are_refused_with_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LARGEST", 100)
    monkeypatch.setattr(images, "LARGEST_SCALED", 400)
    with pytest.raises(BadFile, match=r"15x10 .*dataset\.max_side"):
        decode_image(encode(noise(10, 15)))
    assert decode_image(encode(noise(10, 15)), Pixels(max_side=6)).shape == (4, 6, 3)
    with pytest.raises(BadFile, match="20x30"):
        decode_image(encode(noise(30, 20)), Pixels(max_side=6))


def test_a_mask_with_a_value_of_no_class_is_refused() -> None:
    check_mask(np.array([[0, 2, 255]], np.uint8), num_classes=2)
    with pytest.raises(ValueError, match="value 3"):
        check_mask(np.array([[0, 3, 255]], np.uint8), num_classes=2)
