"""From a folder of photographs to the rows of the image table, without Ray."""

from __future__ import annotations

import dataclasses
import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from amn_ray.core.artifacts import Artifact, Store
from amn_ray.core.errors import RequestError
from amn_ray.data.folder import FolderConfig
from amn_ray.data.images import decode_image, decode_mask, encode_mask, turned
from amn_ray.data.listing import list_here, open_source
from amn_ray.data.pixels import DEFAULT, Pixels
from amn_ray.data.source import Record
from amn_ray.data.voc import VocConfig
from amn_ray.stages.images.infer import SCHEMA, BadImage, list_records, load_row, records_of, review
from tests.conftest import encode, noise


class Set:
    """A folder of photographs that share one class, and their rows."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("images", "masks"):
            (root / name).mkdir(parents=True)

    def add(self, name: str, content: bytes, mask_HW: np.ndarray | None = None) -> None:
        (self.root / "images" / name).write_bytes(content)
        if mask_HW is not None:
            (self.root / "masks" / name).with_suffix(".png").write_bytes(encode_mask(mask_HW))

    def rows(self, pixels: Pixels = DEFAULT) -> dict[str, dict]:
        names = sorted(path.name for path in (self.root / "images").iterdir())
        (self.root / "labels.csv").write_text("image,labels\n" + "".join(f"{name},nut\n" for name in names))
        source = open_source(FolderConfig(root=str(self.root)))
        rows = [load_row(source, record, pixels) for record in source.listing("train").records]
        return {row["image_id"]: row for row in pa.Table.from_pylist(rows, schema=SCHEMA).to_pylist()}

    def review(self, pixels: Pixels = DEFAULT) -> dict:
        output = Store.open(str(self.root / "store")).artifact("images", 1, dataclasses.asdict(pixels), {})
        table = pa.Table.from_pylist(list(self.rows(pixels).values()), schema=SCHEMA)
        Path(output.at("rows")).mkdir(parents=True, exist_ok=True)
        pq.write_table(table, Path(output.at("rows")) / "0.parquet")
        return review(
            Artifact(output.fs, output.path, output.stage, output.fingerprint), "rows", pixels, ["thing"], "val"
        )


@pytest.fixture
def photographs(tmp_path: Path) -> Set:
    return Set(tmp_path / "set")


def lying(upright_HWC: np.ndarray, orientation: int) -> tuple[bytes, np.ndarray]:
    """The file of a photograph, and its pixels as they lie in it."""
    back = {6: 8, 8: 6}.get(orientation, orientation)
    stored = turned(upright_HWC, back)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(stored).save(stream, "PNG", exif=exif)
    return stream.getvalue(), stored


@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_and_mask_are_upright_whichever_picture_the_mask_was_drawn_on(photographs: Set, orientation: int) -> None:
    image_HWC = noise(6, 4)
    mask_HW = (np.arange(24) % 2).reshape(6, 4).astype(np.uint8)
    mask_HW[0] = 1
    back = {6: 8, 8: 6}.get(orientation, orientation)
    content, _ = lying(image_HWC, orientation)
    photographs.add("upright.png", content, mask_HW)
    if orientation >= 5:
        photographs.add("lying.png", content, turned(mask_HW, back))
    for row in photographs.rows().values():
        assert row["image"] == content, "a file is never encoded again"
        np.testing.assert_array_equal(decode_image(row["image"]), image_HWC)
        np.testing.assert_array_equal(decode_mask(row["mask"]), mask_HW)
        assert (row["height"], row["width"]) == (row["file_height"], row["file_width"]) == (6, 4)
        assert row["present"] == [0, 1]
    warnings = photographs.review()["warnings"]
    assert len(warnings) == (orientation in (2, 3, 4))
    assert all("1 masks" in warning and "dataset.exif=ignore" in warning for warning in warnings)


def test_without_exif_image_and_mask_stay_as_they_lie(photographs: Set) -> None:
    content, stored = lying(noise(6, 4), 6)
    mask_HW = (np.arange(24) % 2).reshape(4, 6).astype(np.uint8)
    photographs.add("a.png", content, mask_HW)
    row = photographs.rows(Pixels(upright=False))["a"]
    assert (row["height"], row["width"]) == (4, 6)
    np.testing.assert_array_equal(decode_image(row["image"], Pixels(upright=False)), stored)
    np.testing.assert_array_equal(decode_mask(row["mask"]), mask_HW)


def test_the_table_tells_the_size_that_stages_see_and_that_of_the_file(photographs: Set) -> None:
    content, _ = lying(noise(60, 40), 8)
    photographs.add("a.png", content, np.ones((60, 40), np.uint8))
    photographs.add("b.png", encode(noise(10, 12)))
    rows = photographs.rows(Pixels(max_side=15))
    assert [(rows[name]["height"], rows[name]["width"]) for name in "ab"] == [(15, 10), (10, 12)]
    assert [(rows[name]["file_height"], rows[name]["file_width"]) for name in "ab"] == [(60, 40), (10, 12)]
    assert decode_mask(rows["a"]["mask"]).shape == (15, 10)
    assert rows["b"]["mask"] is None
    assert rows["b"]["present"] is None
    assert photographs.review()["largest"] == {"image_id": "a", "height": 60, "width": 40, "num_labels": 1}


def test_deep_photographs_are_reviewed_together(photographs: Set) -> None:
    values = np.arange(48, dtype=np.uint16).reshape(6, 8)
    photographs.add("dark.png", encode(values))
    photographs.add("plain.png", encode(noise(6, 8)))
    with pytest.raises(RequestError, match=r"'dark'.*dataset\.white=63"):
        photographs.review()
    assert photographs.review(Pixels(white=63))["warnings"] == []
    photographs.add("bright.png", encode(values * 1000))
    assert photographs.review()["warnings"] == []


def test_whatever_cannot_be_read_is_a_bad_image_that_is_named(photographs: Set) -> None:
    class Broken:
        classes = ("nut",)

        def load(self, record: Record) -> tuple[bytes, np.ndarray | None]:
            raise RuntimeError("Failed to decode frame 0")

    with pytest.raises(BadImage, match=r"^photos/x\.avif: Failed to decode frame 0$"):
        load_row(Broken(), Record("x", (1,), "photos/x.avif"), DEFAULT)
    photographs.add("odd.png", encode(noise(6, 4)), np.zeros((3, 2), np.uint8))
    with pytest.raises(BadImage, match=r"odd\.png: mask is 2x3 but its image 4x6"):
        photographs.rows()


def test_a_broken_mask_is_named_and_not_taken_for_its_image(photographs: Set) -> None:
    photographs.add("odd.png", encode(noise(6, 4)), np.zeros((6, 4), np.uint8))
    mask = photographs.root / "masks" / "odd.png"
    for content in (mask.read_bytes()[:40], b"", b"no image"):
        mask.write_bytes(content)
        with pytest.raises(BadImage, match=r"images/odd\.png: mask: .*masks/odd\.png\)$"):
            photographs.rows()
    mask.unlink()
    mask.symlink_to("nothing")
    with pytest.raises(RequestError, match=r"mask .*masks/odd\.png does not exist"):
        photographs.rows()


def test_photographs_whose_names_are_no_text_are_read(tmp_path: Path) -> None:
    photographs = Set(tmp_path / "set")
    photographs.add("a.png", encode(noise(6, 4)), np.ones((6, 4), np.uint8))
    photographs.add("b.png", b"broken")
    images = os.fsencode(photographs.root / "images")
    os.rename(images + b"/a.png", images + b"/caf\xe9.png")
    os.rename(images + b"/b.png", images + b"/th\xe9.png")
    masks = os.fsencode(photographs.root / "masks")
    os.rename(masks + b"/a.png", masks + b"/caf\xe9.png")
    (photographs.root / "labels.csv").write_text("image,labels\ncafé.png,nut\nthé.png,nut\n")
    listed = list_here(FolderConfig(root=str(photographs.root)), needs_val=True)
    assert not isinstance(listed, RequestError), listed
    output = Store.open(str(tmp_path / "store")).artifact("images", 1, {}, {})
    source = list_records(listed["train"], output)
    first, second = records_of(output, [0])
    assert load_row(source, first, DEFAULT)["present"] == [1]
    with pytest.raises(BadImage, match=r"images/th\\xe9\.png: is not an image"):
        load_row(source, second, DEFAULT)


def test_files_whose_names_are_no_text_reach_the_workers(voc: Path, tmp_path: Path) -> None:
    for folder, ending in (("JPEGImages", ".jpg"), ("Annotations", ".xml"), ("SegmentationClassAug", ".png")):
        for name, latin in (("a", b"f\xfcr"), ("b", b"\xfcber")):
            (voc / folder / f"{name}{ending}").rename(voc / folder / (os.fsdecode(latin) + ending))
    (voc / "JPEGImages" / os.fsdecode(b"\xfcber.jpg")).write_bytes(b"broken")
    for name in ("train_aug", "train"):
        (voc / f"ImageSets/Segmentation/{name}.txt").write_text("für\nüber\n")
    listed = list_here(VocConfig(root=str(voc)), needs_val=True)
    assert not isinstance(listed, RequestError)
    output = Store.open(str(tmp_path / "store")).artifact("images", 1, {}, {})
    source = list_records(listed["train"], output)
    first, second = records_of(output, [0])
    row = load_row(source, first, DEFAULT)
    assert (row["image_id"], row["present"]) == ("für", [0, 8, 255])
    with pytest.raises(BadImage, match=r"JPEGImages/\\xfcber\.jpg: is not an image"):
        load_row(source, second, DEFAULT)
