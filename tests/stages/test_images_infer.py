"""From photographs to the rows of the image table, and what they say together, without Ray."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amn_ray.core.artifacts import Store
from amn_ray.core.errors import RequestError
from amn_ray.data.folder import FolderConfig
from amn_ray.data.images import decode_image
from amn_ray.data.listing import list_content, open_source
from amn_ray.data.pixels import DEFAULT, Pixels
from amn_ray.data.records import list_records, records_of
from amn_ray.data.source import Record
from amn_ray.data.voc import VocConfig
from amn_ray.stages.images.infer import SCHEMA, ReadImage, review
from amn_ray.stages.reading import BadImage
from tests.conftest import encode, noise
from tests.photographs import Photographs, bad, latin_names, lying, make_images, rows_of, train

ONES = np.ones((6, 4), np.uint8)


@pytest.fixture
def photographs(tmp_path: Path) -> Photographs:
    return Photographs(tmp_path / "set")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_stored_as_they_are_and_known_as_they_are_seen(
    photographs: Photographs, store: Store, orientation: int
) -> None:
    image_HWC = noise(6, 4)
    content, _ = lying(image_HWC, orientation)
    photographs.add("a.png", content)
    row = rows_of(make_images(train(photographs.config()), store))["a"]
    assert row["image"] == content, "a file is never encoded again"
    np.testing.assert_array_equal(decode_image(row["image"]), image_HWC)
    assert (row["height"], row["width"]) == (row["file_height"], row["file_width"]) == (6, 4)
    assert row["orientation"] == orientation
    assert row["labels"] == [1]


def test_without_exif_an_image_stays_as_it_lies(photographs: Photographs, store: Store) -> None:
    content, stored = lying(noise(6, 4), 6)
    photographs.add("a.png", content)
    row = rows_of(make_images(train(photographs.config(exif="ignore")), store))["a"]
    assert (row["height"], row["width"]) == (row["file_height"], row["file_width"]) == (4, 6)
    np.testing.assert_array_equal(decode_image(row["image"], Pixels(upright=False)), stored)


def reviewed(photographs: Photographs, store: Store, **settings: Any) -> dict[str, Any]:
    config = photographs.config(**settings)
    return review(make_images(train(config), store), config.pixels, ["thing"], "val")


def test_the_table_tells_the_size_that_stages_see_and_that_of_the_file(photographs: Photographs, store: Store) -> None:
    content, _ = lying(noise(60, 40), 8)
    photographs.add("a.png", content)
    photographs.add("b.png", encode(noise(10, 12)))
    rows = rows_of(make_images(train(photographs.config(max_side=15)), store))
    assert [(rows[name]["height"], rows[name]["width"]) for name in "ab"] == [(15, 10), (10, 12)]
    assert [(rows[name]["file_height"], rows[name]["file_width"]) for name in "ab"] == [(60, 40), (10, 12)]
    assert reviewed(photographs, store)["largest"] == {"image_id": "a", "height": 60, "width": 40, "num_labels": 1}


def test_the_image_table_knows_nothing_of_masks(photographs: Photographs, store: Store) -> None:
    columns = {"image_id", "image", "height", "width", "labels"}
    assert columns < set(SCHEMA.names)
    assert set(SCHEMA.names) - columns == {"file_height", "file_width", "orientation", "low", "peak", "floats"}
    photographs.add("a.png", encode(noise(6, 4)), ONES)
    with_mask = make_images(train(photographs.config()), store)
    rows = rows_of(with_mask)
    (photographs.root / "masks/a.png").write_bytes(b"no image at all")
    assert make_images(train(photographs.config(mask_values="index")), store) == with_mask
    assert rows_of(with_mask) == rows
    assert bad(with_mask) == []


def test_deep_photographs_are_reviewed_together(photographs: Photographs, store: Store) -> None:
    values = np.arange(48, dtype=np.uint16).reshape(6, 8)
    photographs.add("dark.png", encode(values))
    photographs.add("plain.png", encode(noise(6, 8)))
    with pytest.raises(RequestError, match=r"'dark'.*dataset\.white=63"):
        reviewed(photographs, store)
    assert reviewed(photographs, store, white=63)["warnings"] == []
    photographs.add("bright.png", encode(values * 1000))
    assert reviewed(photographs, store)["warnings"] == []


def test_labels_are_reviewed_where_they_are_learnt_from(photographs: Photographs, store: Store) -> None:
    for name in "ab":
        photographs.add(f"{name}.png", encode(noise(6, 4)))
    images = make_images(train(photographs.config()), store)
    (warning,) = review(images, DEFAULT, ["nut"], "train")["warnings"]
    assert "class nut is in every one of 2 images" in warning
    assert review(images, DEFAULT, ["nut"], "val")["warnings"] == []


def test_whatever_cannot_be_read_is_a_bad_image_that_is_named(photographs: Photographs) -> None:
    class Broken:
        classes = ("nut",)

        def image(self, record: Record) -> bytes:
            raise RuntimeError("Failed to decode frame 0")

    with pytest.raises(BadImage, match=r"^photos/x\.avif: Failed to decode frame 0$"):
        ReadImage(DEFAULT)(Broken(), Record("x", (1,), "photos/x.avif"))  # type: ignore[arg-type]
    photographs.add("odd.png", encode(noise(6, 4))[:60])
    source = open_source(photographs.config())
    (record,) = source.listing("train").records
    with pytest.raises(BadImage, match=r"images/odd\.png: .*truncated"):
        ReadImage(DEFAULT)(source, record)


def test_an_image_that_changes_after_it_was_listed_is_not_stored(folder: Path) -> None:
    source = open_source(FolderConfig(root=str(folder)))
    record = list_content(source, "train").records[0]
    assert ReadImage(DEFAULT)(source, record)["image_id"] == "p"
    (folder / "images/p.png").write_bytes(encode(noise(20, 28, seed=99)))
    with pytest.raises(RequestError, match=r"images/p\.png: changed after the data set was listed; run again"):
        ReadImage(DEFAULT)(source, record)


def test_photographs_whose_names_are_no_text_are_read(photographs: Photographs, store: Store) -> None:
    photographs.add("a.png", encode(noise(6, 4)))
    photographs.add("b.png", b"broken")
    images = os.fsencode(photographs.root / "images")
    os.rename(images + b"/a.png", images + b"/caf\xe9.png")
    os.rename(images + b"/b.png", images + b"/th\xe9.png")
    (photographs.root / "labels.csv").write_text("image,labels\ncafé.png,nut\nthé.png,nut\n")
    output = store.artifact("images", 1, {}, {})
    source = list_records(train(FolderConfig(root=str(photographs.root))), output)
    first, second = records_of(output, [0])
    assert ReadImage(DEFAULT)(source, first)["image_id"] == "café"
    with pytest.raises(BadImage, match=r"images/th\\xe9\.png: is not an image"):
        ReadImage(DEFAULT)(source, second)


def test_files_whose_names_are_no_text_reach_the_workers(voc: Path, store: Store) -> None:
    latin_names(voc)
    (voc / "JPEGImages" / os.fsdecode(b"\xfcber.jpg")).write_bytes(b"broken")
    output = store.artifact("images", 1, {}, {})
    source = list_records(train(VocConfig(root=str(voc))), output)
    first, second = records_of(output, [0])
    assert ReadImage(DEFAULT)(source, first)["image_id"] == "für"
    with pytest.raises(BadImage, match=r"JPEGImages/\\xfcber\.jpg: is not an image"):
        ReadImage(DEFAULT)(source, second)
