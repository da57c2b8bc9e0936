"""VOC, a plain folder and shapes: what they list, and what their masks become."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from amn_ray.core.errors import RequestError
from amn_ray.data.folder import Folder, FolderConfig
from amn_ray.data.images import decode_image, decode_mask
from amn_ray.data.shapes import Shapes, ShapesConfig
from amn_ray.data.voc import Voc, VocConfig
from tests.conftest import encode


def voc_source(root: Path, **settings: object) -> Voc:
    return Voc(VocConfig(root=str(root), **settings))  # type: ignore[arg-type]


def test_voc_labels_come_from_xml_and_images_are_evaluated_if_they_are_in_train(voc: Path) -> None:
    records = voc_source(voc).listing("train").records
    assert [(r.image_id, r.labels, r.mask is not None, r.evaluated) for r in records] == [
        ("a", (8,), True, True),
        ("b", (8, 12), True, True),
        ("c", (15,), True, False),
    ]


def test_voc_lists_in_the_format_of_sbd_are_read(voc: Path) -> None:
    lines = [f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png" for name in "abc"]
    (voc / "ImageSets/Segmentation/train_aug.txt").write_text("\n".join(lines))
    assert [r.image_id for r in voc_source(voc).listing("train").records] == ["a", "b", "c"]


def test_voc_classes_that_are_unknown_are_ignored_but_counted(voc: Path) -> None:
    (voc / "Annotations/a.xml").write_text(
        "<annotation><object><name>cat</name></object><object><name>head</name></object></annotation>"
    )
    listing = voc_source(voc).listing("train")
    assert listing.records[0].labels == (8,)
    assert listing.unknown_classes == {"head": 1}


def test_a_subset_of_voc_classes_renumbers_labels_and_masks(voc: Path) -> None:
    source = voc_source(voc, classes=["dog", "cat"], allow_unlabelled=True)
    records = source.listing("train").records
    assert [r.labels for r in records] == [(2,), (1, 2), ()]
    mask_a = source.mask(records[0])
    mask_b = source.mask(records[1])
    assert set(np.unique(mask_a)) == {0, 2, 255}
    assert set(np.unique(mask_b)) == {0, 1, 255}


def test_voc_falls_back_to_the_official_masks(voc: Path) -> None:
    (voc / "SegmentationClassAug").rename(voc / "SegmentationClass")
    mask = voc_source(voc).listing("train").records[0].mask
    assert mask is not None
    assert "SegmentationClass/" in mask


def test_evaluated_images_must_be_in_the_training_list(voc: Path) -> None:
    (voc / "ImageSets/Segmentation/train_aug.txt").write_text("a\n")
    with pytest.raises(RequestError, match="'b' is not in"):
        voc_source(voc).listing("train")


def test_a_folder_lists_both_splits_and_finds_its_classes(folder: Path) -> None:
    source = Folder(FolderConfig(root=str(folder)))
    assert source.classes == ["bolt", "nut"]
    train, val = source.listing("train").records, source.listing("val").records
    assert [(r.image_id, r.labels, r.mask is not None) for r in train] == [
        ("p", (2,), True),
        ("q", (1, 2), True),
        ("r", (1,), False),
    ]
    assert [r.image_id for r in val] == ["s"]


def test_a_folder_without_split_column_is_all_train(folder: Path) -> None:
    (folder / "labels.csv").write_text("image,labels\np.png,nut\ns.png,nut\n")
    source = Folder(FolderConfig(root=str(folder)))
    assert len(source.listing("train").records) == 2
    assert source.listing("val").records == []


def test_shapes_are_the_same_every_time_and_differ_by_seed_and_split() -> None:
    first, again = Shapes(ShapesConfig()), Shapes(ShapesConfig())
    record = first.listing("train").records[7]
    assert record == again.listing("train").records[7]
    assert first.image(record) == again.image(record)
    assert Shapes(ShapesConfig(seed=1)).image(record) != first.image(record)
    assert first.image(first.listing("val").records[7]) != first.image(record)


def test_shapes_labels_are_exactly_the_classes_in_the_mask() -> None:
    source = Shapes(ShapesConfig(num_train=60))
    for record in source.listing("train").records:
        image, mask = source.image(record), source.mask(record)
        assert decode_image(image).shape == (*mask.shape, 3)
        assert tuple(int(v) for v in np.unique(mask) if v) == record.labels


def test_the_heads_of_shapes_are_a_small_part_of_what_is_labelled() -> None:
    # The construction's claim: what tells classes apart covers little of the object.
    source = Shapes(ShapesConfig(num_train=60))
    shares = []
    for record in (record for record in source.listing("train").records if record.labels):
        image, mask = source.image(record), source.mask(record)
        pixels = decode_image(image).astype(int)
        saturated = (pixels.max(2) - pixels.min(2) > 110) & (mask > 0)
        shares.append(saturated.sum() / (mask > 0).sum())
    assert np.median(shares) < 0.3


def test_masks_of_any_grey_or_palette_png_are_read() -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(decode_mask(encode(values)), values)
    np.testing.assert_array_equal(decode_mask(encode(values, mode="P")), values)
    with pytest.raises(ValueError, match="RGB"):
        decode_mask(encode(np.zeros((3, 4, 3), np.uint8)))


def test_masks_of_one_bit_hold_the_labels_0_and_1() -> None:
    mask = np.array([[0, 1], [1, 0]], np.uint8)
    np.testing.assert_array_equal(decode_mask(encode(mask * 255, mode="1")), mask)
