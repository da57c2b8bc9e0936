"""What a data set is: what its files hold, and not where they are, what they are called or when they were written.

Its images and its masks are known apart: a corrected mask is another ground truth of the same images.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amn_ray.core.errors import RequestError
from amn_ray.data.coco import CocoConfig
from amn_ray.data.coco.instances import read_instances
from amn_ray.data.folder import FolderConfig
from amn_ray.data.listing import Summary, list_content, list_here, list_splits, open_source, summarise
from amn_ray.data.shapes import ShapesConfig
from amn_ray.data.source import DatasetConfig
from amn_ray.data.voc import VocConfig
from tests.coco_shapes import build
from tests.conftest import encode, noise


def summary(config: DatasetConfig, split: str = "train") -> Summary:
    source = open_source(config)
    return summarise(config, source, split, list_content(source, split))


def train(root: Path, **settings: Any) -> Summary:
    """Of a plain folder."""
    return summary(FolderConfig(root=str(root), **settings))


def flat(root: Path, value: int) -> None:
    """The mask of `p` of a plain folder."""
    mask_HW = np.zeros((20, 28), np.uint8)
    mask_HW[5:15, 5:15] = value
    (root / "masks/p.png").write_bytes(encode(mask_HW))


def assert_other_truth(one: Summary, other: Summary) -> None:
    """The same images, with other masks."""
    assert one.identity() == other.identity()
    assert one.truth_identity() != other.truth_identity()


def assert_same(one: Summary, other: Summary) -> None:
    assert one.identity() == other.identity()
    assert one.truth_identity() == other.truth_identity()


def test_a_changed_image_or_label_is_another_data_set_and_no_other_truth(folder: Path) -> None:
    before = train(folder)
    (folder / "images/p.png").write_bytes(encode(noise(20, 28, seed=99)))
    changed = train(folder)
    assert changed.identity() != before.identity()
    labels = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(labels.replace("p.png,nut", "p.png,bolt"))
    assert train(folder).identity() != changed.identity()
    assert train(folder).truth_identity() == before.truth_identity(), "the images are an input of the truth besides"


def test_a_corrected_mask_of_a_folder_is_another_truth_of_the_same_images(folder: Path) -> None:
    before = train(folder)
    content = (folder / "masks/p.png").read_bytes()
    flat(folder, 1)
    assert_other_truth(before, train(folder))
    (folder / "masks/p.png").write_bytes(content)
    assert_same(before, train(folder))
    (folder / "masks/p.png").unlink()
    assert_other_truth(before, train(folder))
    shutil.rmtree(folder / "masks")
    assert_other_truth(before, train(folder))


def test_a_corrected_mask_of_voc_is_another_truth_of_the_same_images(voc: Path) -> None:
    config = VocConfig(root=str(voc))
    before = summary(config)
    mask_HW = np.zeros((24, 32), np.uint8)
    mask_HW[:5] = 8
    for name in "ac":  # c is not evaluated, but counts in the scores of all images
        (voc / f"SegmentationClassAug/{name}.png").write_bytes(encode(mask_HW))
        now = summary(config)
        assert_other_truth(before, now)
        before = now


@pytest.mark.parametrize("evaluate_list", [None, "one"])
def test_other_images_of_voc_to_evaluate_are_another_truth_of_the_same_images(
    voc: Path, evaluate_list: str | None
) -> None:
    (voc / "ImageSets/Segmentation/one.txt").write_text("b\n")
    usual, other = VocConfig(root=str(voc)), VocConfig(root=str(voc), evaluate_list=evaluate_list)
    assert_other_truth(summary(usual), summary(other))


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return build(tmp_path / "coco", num_train=6, num_val=1, size=48)


def edit(root: Path, how: Callable[[dict[str, Any]], object]) -> None:
    """Change the annotations of COCO's training images."""
    path = root / "annotations/instances_train2014.json"
    content = json.loads(path.read_text())
    how(content)
    path.write_text(json.dumps(content))
    read_instances.cache_clear()  # as in another process


def test_annotations_of_coco_that_change_only_an_outline_are_another_truth_of_the_same_images(coco: Path) -> None:
    def shift(content: dict[str, Any]) -> None:
        note = next(note for note in content["annotations"] if isinstance(note["segmentation"], list))
        note["segmentation"] = [[number + 1 for number in polygon] for polygon in note["segmentation"]]

    def drop(content: dict[str, Any]) -> None:
        content["annotations"][0]["segmentation"] = []  # a box: its label counts, but the image is not evaluated

    def enlarge(content: dict[str, Any]) -> None:
        for note in content["annotations"]:
            note |= {"area": 1, "bbox": [0, 0, 9, 9]}

    config = CocoConfig(root=str(coco))
    before = summary(config)
    edit(coco, enlarge)
    assert_same(before, summary(config))
    edit(coco, shift)
    shifted = summary(config)
    assert_other_truth(before, shifted)
    edit(coco, drop)
    assert_other_truth(shifted, summary(config))


def test_an_object_of_another_category_of_coco_is_another_label(coco: Path) -> None:
    def rename(content: dict[str, Any]) -> None:
        note = content["annotations"][0]
        note["category_id"] = 3 if note["category_id"] != 3 else 1

    before = summary(CocoConfig(root=str(coco)))
    edit(coco, rename)
    assert summary(CocoConfig(root=str(coco))).identity() != before.identity()


def test_masks_whose_categories_were_numbered_anew_are_other_masks(coco: Path, tmp_path: Path) -> None:
    """Their files, and the labels of all images, are as they were."""

    def renumber(content: dict[str, Any]) -> None:
        for entry in content["categories"]:
            entry["id"] += 100
        for entry in content["annotations"]:
            entry["category_id"] += 100

    def found(root: Path) -> Summary:
        return summary(CocoConfig(root=str(root), masks="masks", mask_values="category_ids"))

    (coco / "masks").mkdir()
    for path in (coco / "train2014").iterdir():
        (coco / f"masks/{path.stem}.png").write_bytes(encode(np.zeros((48, 48), np.uint8)))
    copied = shutil.copytree(coco, tmp_path / "copied")
    assert_same(found(coco), found(copied))
    changed = shutil.copytree(coco, tmp_path / "changed")
    edit(changed, renumber)
    assert_other_truth(found(coco), found(changed))


def test_a_set_that_was_copied_renamed_or_touched_is_the_same(folder: Path, tmp_path: Path) -> None:
    before = train(folder)
    copied = shutil.copytree(folder, tmp_path / "another name", copy_function=shutil.copyfile)
    assert_same(train(copied), before)
    for path in copied.rglob("*"):
        os.utime(path, (1, 1))
    assert_same(train(copied, name="of another name", rows_per_shard=3, max_bad_fraction=0.5), before)
    assert_same(train(copied, classes=["bolt", "nut"]), before)


@pytest.mark.parametrize(
    "settings", [{"exif": "ignore"}, {"white": 4095.0}, {"max_side": 100}, {"classes": ["nut", "bolt"]}]
)
def test_how_files_are_read_is_part_of_what_a_data_set_is(folder: Path, settings: dict[str, object]) -> None:
    assert train(folder, **settings).identity() != train(folder).identity()


@pytest.mark.parametrize(
    "settings",
    [{"mask_values": "index"}, {"palette": {"bolt": 1, "nut": 2, "background": 0}}, {"palette": {"bolt": 2, "nut": 1}}],
)
def test_how_masks_are_read_is_part_of_the_truth_only(folder: Path, settings: dict[str, Any]) -> None:
    before, after = train(folder), train(folder, **settings)
    assert_other_truth(before, after)
    assert not settings.keys() & before.identity().keys()
    assert settings.keys() < before.truth_identity().keys()


def test_what_a_source_found_out_about_reading_masks_is_part_of_the_truth_only(folder: Path) -> None:
    source = open_source(FolderConfig(root=str(folder)))
    listing = list_content(source, "train")
    plain = summarise(FolderConfig(), source, "train", listing)
    listing.reading["values"] = "binary"
    assert_other_truth(plain, summarise(FolderConfig(), source, "train", listing))


def test_drawn_images_are_the_same_however_many_the_other_split_has() -> None:
    few, many = ShapesConfig(num_train=4, num_val=2), ShapesConfig(num_train=4, num_val=5)
    assert_same(summary(few), summary(many))
    assert summary(few, "val").identity() != summary(many, "val").identity()
    assert summary(ShapesConfig(num_train=4, seed=1)).identity() != summary(ShapesConfig(num_train=4)).identity()
    assert summary(ShapesConfig(num_train=4, size=64)).identity() != summary(ShapesConfig(num_train=4)).identity()


def test_images_and_those_to_evaluate_are_counted(folder: Path, voc: Path) -> None:
    of_folder, of_voc = train(folder), summary(VocConfig(root=str(voc)))
    assert (of_folder.rows, of_folder.masks, of_folder.evaluated) == (3, 2, 2)
    assert (of_voc.rows, of_voc.masks, of_voc.evaluated) == (3, 3, 2), "one of train_aug only has a mask, too"


def test_other_images_to_evaluate_are_another_ground_truth_but_the_same_images(voc: Path) -> None:
    before = summary(VocConfig(root=str(voc)))
    (voc / "ImageSets/Segmentation/train.txt").write_text("a\n")
    assert_other_truth(before, summary(VocConfig(root=str(voc))))


def test_a_val_split_that_nobody_needs_may_be_faulty(folder: Path) -> None:
    (folder / "images/s.png").unlink()
    error = list_here(FolderConfig(root=str(folder)), needs_val=True)
    assert isinstance(error, RequestError)
    assert "s.png does not exist" in str(error)
    found = list_here(FolderConfig(root=str(folder)), needs_val=False)
    assert isinstance(found, dict)
    assert list(found) == ["train"]
    assert any("until=segmenter" in told and "s.png does not exist" in told for told in found["train"].warnings)


def test_workers_are_told_an_absolute_root(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their working directory is that of whoever started their node."""
    monkeypatch.chdir(folder.parent)
    splits = list_splits(FolderConfig(root=folder.name))
    assert [split.config for split in splits.values()] == [FolderConfig(root=str(folder))] * len(splits)
    assert splits["train"].identity() == list_splits(FolderConfig(root=str(folder)))["train"].identity()
