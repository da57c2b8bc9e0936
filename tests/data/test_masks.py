"""Masks that others made: every file is read as the same labels, or the question is asked."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from amn_ray.core.errors import RequestError
from amn_ray.data.images import encode_palette_mask, voc_palette
from amn_ray.data.masks import MaskRule, mask_rule, read_mask
from amn_ray.data.source import DatasetConfig

MASK = np.array([[0, 0, 1, 1], [0, 2, 2, 2], [3, 3, 0, 255]], np.uint8)
SMALL = np.minimum(MASK, 3)
BLACK_WHITE = np.where(MASK > 0, 255, 0).astype(np.uint8)
VOC = voc_palette()


def file(pixels: np.ndarray | Image.Image, kind: str = "PNG", **more: Any) -> bytes:
    stream = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(stream, kind, **more)
    return stream.getvalue()


def palette_file(indices: np.ndarray, colours: Any, **more: Any) -> bytes:
    image = Image.fromarray(indices)
    image.putpalette(np.array(colours, np.uint8).tobytes())
    return file(image, **more)


def bits(values: np.ndarray, depth: int) -> bytes:
    """A grey PNG of so many bits a pixel, as optimisers write them."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    lines = b""
    for row in values:
        line = "".join(format(int(value), f"0{depth}b") for value in row)
        line += "0" * (-len(line) % 8)
        lines += b"\0" + int(line, 2).to_bytes(len(line) // 8, "big")
    height, width = values.shape
    head = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """`read([files], N)` -> the masks, and what was told; labels are those of each image."""

    def run(contents: list[bytes], num_classes: int, *, labels: tuple[int, ...] = (1,), **settings: Any) -> Any:
        paths = [tmp_path / f"{number}.png" for number in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        names = {label: f"class {label}" for label in range(1, num_classes + 1)}
        rule, run.told = mask_rule(paths, DatasetConfig(**settings), names)  # type: ignore[attr-defined]
        return [read_mask(content, rule, labels).tolist() for content in contents]

    return run


def with_alpha(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.dstack([rgb, alpha]).astype(np.uint8)


OPAQUE = np.full(MASK.shape, 255, np.uint8)
DRAWN = np.where(MASK > 0, 255, 0)
HIDDEN = np.where(MASK[..., None] > 0, VOC[MASK], 255)  # white where nothing was drawn


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(file(MASK), id="grey"),
        pytest.param(file(MASK, "BMP"), id="bmp"),
        pytest.param(file(MASK, "TIFF"), id="tiff"),
        pytest.param(file(MASK, "GIF"), id="gif"),
        pytest.param(file(MASK, "WEBP", lossless=True), id="webp"),
        pytest.param(bits(MASK, 8), id="8 bits"),
        pytest.param(bits(MASK, 16), id="16 bits"),
        pytest.param(file(MASK.astype(np.int32), "TIFF"), id="int32"),
        pytest.param(file(MASK.astype(np.float32), "TIFF"), id="float"),
        pytest.param(file(np.dstack([MASK] * 3)), id="grey in RGB"),
        pytest.param(file(with_alpha(np.dstack([MASK] * 3), OPAQUE)), id="grey in RGBA"),
        pytest.param(file(np.dstack([MASK, OPAQUE])), id="grey and alpha"),
        pytest.param(encode_palette_mask(MASK), id="palette"),
        pytest.param(palette_file(MASK, VOC, transparency=0), id="palette with transparency"),
        pytest.param(palette_file(MASK, np.arange(768).reshape(256, 3) % 251), id="palette of any colours"),
        pytest.param(file(VOC[MASK]), id="VOC's colours"),
        pytest.param(file(with_alpha(VOC[MASK], OPAQUE)), id="VOC's colours, opaque"),
        pytest.param(file(with_alpha(HIDDEN, DRAWN)), id="VOC's colours on nothing"),
        pytest.param(file(with_alpha(VOC[MASK], np.zeros(MASK.shape))), id="an alpha that nobody set"),
    ],
)
def test_the_same_labels_are_read_from_every_kind_of_file(read: Any, content: bytes) -> None:
    assert read([content], 3) == [MASK.tolist()]


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_labels_of_few_bits_are_not_spread_over_255(read: Any, depth: int) -> None:
    values = np.minimum(MASK, 2**depth - 1 if depth < 4 else 3)
    assert read([bits(values, depth)], 15) == [values.tolist()]


def test_an_undefined_pixel_in_four_bits_is_no_255(read: Any) -> None:
    with pytest.raises(RequestError, match="values 15"):
        read([bits(np.array([[0, 1, 15]]), 4)], 2)


OBJECT = (MASK > 0).astype(int).tolist()


@pytest.mark.parametrize(
    "content",
    [
        file(BLACK_WHITE),
        file(Image.fromarray(BLACK_WHITE).convert("1")),
        file(BLACK_WHITE // 255),
        file(BLACK_WHITE // 2),
        bits(BLACK_WHITE.astype(int) * 257, 16),
        file(np.dstack([BLACK_WHITE] * 3)),
        file(np.dstack([BLACK_WHITE, BLACK_WHITE * 0, BLACK_WHITE * 0])),
        file(with_alpha(np.zeros((*MASK.shape, 3)), BLACK_WHITE)),
        palette_file((MASK > 0).astype(np.uint8), [[0, 0, 0], [255, 255, 255]]),
        file(np.kron(BLACK_WHITE, np.ones((1, 1), np.uint8)), "GIF"),
    ],
)
def test_black_and_white_is_the_one_class(read: Any, content: bytes) -> None:
    assert read([content, content], 1) == [OBJECT, OBJECT]


def test_that_255_was_taken_for_an_object_is_told(read: Any) -> None:
    read([file(BLACK_WHITE)], 1)
    share = (BLACK_WHITE > 0).mean()
    told = (
        f"hold only 0 and 255, which is taken for the one class ({share:.0%} of all pixels); dataset.mask_values=index"
    )
    assert told in read.told[0]
    assert read([file(BLACK_WHITE)], 1, mask_values="index") == [BLACK_WHITE.tolist()]
    assert not read.told


def test_white_that_covers_most_may_be_the_background_and_the_setting_says_so(read: Any) -> None:
    white = np.full((4, 6), 255, np.uint8)
    white[1, :3] = 0
    assert read([file(white)], 1) == [(white > 0).astype(int).tolist()]
    assert "dataset.palette={background: 255, <class>: 0}" in read.told[0]
    assert read([file(white)], 1, palette={"background": 255, "class 1": 0}) == [(white == 0).astype(int).tolist()]


def test_black_and_white_among_masks_of_labels_is_told_and_the_setting_reads_both(read: Any) -> None:
    mixed = [file(BLACK_WHITE), file(np.minimum(MASK, 1))]
    assert read(mixed, 1) == [BLACK_WHITE.tolist(), np.minimum(MASK, 1).tolist()]
    assert "holds only 0 and 255 (1 of 2 masks do)" in read.told[0]
    assert read(mixed, 1, mask_values="binary") == [OBJECT, OBJECT]


def test_black_and_white_masks_of_several_classes_are_asked_about(read: Any) -> None:
    with pytest.raises(RequestError, match=r"only 0 and 255, but there are 3 classes; set dataset.mask_values=binary"):
        read([file(BLACK_WHITE)], 3)
    assert read([file(BLACK_WHITE)], 3, mask_values="binary", labels=(2,)) == [(np.array(OBJECT) * 2).tolist()]
    with pytest.raises(ValueError, match="its image has 2 labels"):
        read([file(BLACK_WHITE)], 3, mask_values="binary", labels=(2, 3))


def test_a_mask_that_breaks_the_rule_of_its_set_is_refused_when_it_is_loaded() -> None:
    names = {1: "crack"}
    rule, _ = mask_rule([], DatasetConfig(mask_values="index"), names)
    with pytest.raises(ValueError, match=r"mask has the value 2, expected 0…1 or 255.*dataset.classes"):
        read_mask(file(np.full((2, 2), 2, np.uint8)), rule)
    with pytest.raises(ValueError, match="mask is coloured"):
        read_mask(file(VOC[np.array([[0, 1]])]), rule)


def test_blended_edges_are_refused_with_their_share_and_cut_if_that_is_asked_for(read: Any) -> None:
    edges = np.array([list(range(0, 256, 15))], np.uint8)
    with pytest.raises(RequestError, match=r"88.9% of its pixels.*blended edges.*dataset.mask_values=binary"):
        read([file(edges)], 1)
    assert read([file(edges)], 1, mask_values="binary") == [[[int(value >= 128) for value in edges[0]]]]


def test_jpeg_alters_labels(read: Any) -> None:
    large = np.kron(SMALL, np.ones((16, 16), np.uint8))
    with pytest.raises(RequestError, match="JPEG"):
        read([file(large, "JPEG", quality=100)], 3)
    white = np.kron(BLACK_WHITE, np.ones((16, 16), np.uint8))
    assert read([file(white, "JPEG")], 1, mask_values="binary") == [(white > 0).astype(int).tolist()]


OWN = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)


@pytest.mark.parametrize(
    "palette",
    [
        {"class 1": [255, 0, 0], "class 2": "#00ff00", "class 3": [0, 0, 255]},
        [[0, 0, 0], [255, 0, 0], "00FF00", [0, 0, 255]],
    ],
)
def test_own_colours_are_asked_for_and_read_by_the_palette(read: Any, palette: Any) -> None:
    with pytest.raises(
        RequestError, match=r"\(0, 0, 255\), \(0, 255, 0\), \(255, 0, 0\) are not VOC's.*dataset.palette"
    ):
        read([file(OWN[SMALL])], 3)
    assert read([file(OWN[SMALL])], 3, palette=palette) == [SMALL.tolist()]


def test_values_may_be_renumbered_by_the_palette(read: Any) -> None:
    with pytest.raises(RequestError, match=r"values 85, 170.*dataset.palette"):
        read([file(SMALL * 85)], 3)
    assert read([file(SMALL * 85)], 3, palette=[0, 85, 170, 255]) == [SMALL.tolist()]
    swapped = {"class 1": 2, "class 2": 1, "class 3": 3}
    assert read([file(np.array([[0, 1, 2, 3, 255]], np.uint8))], 3, palette=swapped) == [[[0, 2, 1, 3, 255]]]


def test_colours_beside_the_palette_are_errors_or_undefined_as_asked(read: Any) -> None:
    pixels = OWN[np.tile(SMALL, (3, 3))]
    pixels[0, 0] = (120, 10, 0)
    palette = [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]]
    with pytest.raises(ValueError, match=r"the colour \(120, 10, 0\).*dataset.mask_values=colour"):
        read([file(pixels)], 3, palette=palette)
    expected = np.tile(SMALL, (3, 3))
    expected[0, 0] = 255
    assert read([file(pixels)], 3, palette=palette, mask_values="colour") == [expected.tolist()]
    with pytest.raises(ValueError, match="are not"):
        read([file(np.full((4, 4, 3), 77, np.uint8))], 3, palette=palette, mask_values="colour")


def test_a_palette_that_an_optimiser_reordered_is_asked_about(read: Any) -> None:
    optimised = palette_file(np.array([[0, 1, 2, 1]], np.uint8), VOC[[0, 3, 1]])
    with pytest.raises(RequestError, match=r"set dataset.mask_values=index if indices count, or =colour"):
        read([optimised], 3)
    assert read([optimised], 3, mask_values="colour") == [[[0, 3, 1, 3]]]
    assert read([optimised], 3, mask_values="index") == [[[0, 1, 2, 1]]]


def test_a_palette_whose_indices_are_no_labels_is_read_by_its_colours(read: Any) -> None:
    assert read([palette_file(np.array([[0, 4, 1]], np.uint8), VOC[[0, 2, 0, 0, 1]])], 3) == [[[0, 1, 2]]]
    assert read([file(np.array([[0, 2, 3]], np.uint8), "GIF")], 3) == [[[0, 2, 3]]]


def test_a_black_and_white_palette_the_wrong_way_round_is_asked_about(read: Any) -> None:
    reverse = palette_file(np.array([[1, 0, 0, 1]], np.uint8), [[255, 255, 255], [0, 0, 0]])
    with pytest.raises(RequestError, match="black at another index than 0"):
        read([reverse], 1)
    assert read([reverse], 1, mask_values="binary") == [[[0, 1, 1, 0]]]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (file(MASK.astype(np.float32) / 7, "TIFF"), "fractions"),
        (file(with_alpha(VOC[MASK], np.arange(12).reshape(3, 4) * 20)), "half-transparent"),
        (file(Image.fromarray(MASK), "GIF", save_all=True, append_images=[Image.fromarray(SMALL)]), "2 frames"),
        (file(Image.fromarray(VOC[MASK]).convert("CMYK"), "TIFF"), "image mode CMYK"),
    ],
)
def test_files_that_hold_no_labels_are_named_for_what_they_are(read: Any, content: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read([content], 3)
    with pytest.raises(ValueError, match="not an image"):
        read([b"no image"], 3)


@pytest.mark.parametrize(
    ("palette", "sentence"),
    [
        ({"cat": [1, 2, 3]}, "'cat' is not a class"),
        ([[0, 0, 0], [1, 1, 1]], "lists 2 colours, expected 4"),
        ({"class 1": 3, "class 2": 3}, "3 occurs twice"),
        ({"class 1": 3, "class 2": [1, 2, 3]}, "mixed"),
    ],
)
def test_a_palette_that_does_not_fit_the_classes_is_refused(read: Any, palette: Any, sentence: str) -> None:
    with pytest.raises(RequestError, match=f"dataset.palette: .*{sentence}"):
        read([], 3, palette=palette)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"palette": "red"}, "must be a list of colours"),
        ({"palette": [[0, 0]]}, "expected \\[red, green, blue\\]"),
        ({"palette": [[0, 0, 256]]}, "expected \\[red, green, blue\\]"),
        ({"mask_values": "grey"}, "must be one of index, binary, colour"),
        ({"mask_values": "index", "palette": [0, 1]}, "is of no use"),
        ({"mask_pattern": "mask.png"}, "must hold {id}"),
        ({"encoding": "utf-9"}, "is not known"),
    ],
)
def test_settings_of_masks_and_text_are_checked_at_once(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(settings)) if len(settings) == 1 else 'palette'}=.*{sentence}"):
        DatasetConfig(**settings)


def test_a_mask_of_absurd_size_is_refused_before_it_fills_the_memory() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 200_000, 200_000, 8, 0, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    with pytest.raises(ValueError, match=r"is 200000x200000 \(width x height\): larger than 179 megapixels"):
        read_mask(content, MaskRule("index", (1,)), (1,))
