"""Which file is whose mask: usual names, names that could be of two images, and patterns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from amn_ray.core.errors import RequestError
from amn_ray.data.masks import find_masks


def found(root: Path, files: Sequence[str], images: Sequence[str], pattern: str | None = None) -> dict[str, str]:
    return warned(root, files, images, pattern)[0]


def warned(
    root: Path, files: Sequence[str], images: Sequence[str], pattern: str | None = None
) -> tuple[dict[str, str], list[str]]:
    for name in files:
        path = root / "masks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    masks, warnings = find_masks(root / "masks", images, pattern)
    return {image: path.relative_to(root / "masks").as_posix() for image, path in masks.items()}, warnings


@pytest.mark.parametrize(
    "name",
    [
        "{}.png", "{}.PNG", "{}.bmp", "{}.tif", "{}.TIFF", "{}.gif", "{}.webp",
        "{}_mask.png", "{}-mask.png", "mask_{}.png", "{}_gt.png", "{}_seg.png", "{}_label.png", "{}_labels.png",
        "{}_segmentation.png", "gt-{}.bmp", "{}.jpg.png", "{}_gtFine_labelIds.png", "val_{}_extra.png",
    ],
)  # fmt: skip
def test_masks_are_found_whatever_is_added_to_the_names_of_images(tmp_path: Path, name: str) -> None:
    images = [f"{n}.jpg" for n in range(12)]
    assert found(tmp_path, [name.format(n) for n in range(12)], images) == {
        f"{n}.jpg": name.format(n) for n in range(12)
    }


def test_ids_with_dots_and_spaces_stay_whole(tmp_path: Path) -> None:
    images = ["frame.0001.jpg", "frame.0002.jpg", "my photo 1.JPG", "a.b"]
    files = ["frame.0001.png", "frame.0002.png", "my photo 1.png", "a.b.png"]
    assert found(tmp_path, files, images) == dict(zip(images, files, strict=True))


def test_names_in_another_unicode_form_and_in_other_capitals_are_the_same(tmp_path: Path) -> None:
    assert found(tmp_path, ["Wu\u0308rfel.png"], ["W\u00fcrfel.jpg"]) == {"W\u00fcrfel.jpg": "Wu\u0308rfel.png"}
    assert found(tmp_path, ["img_7.png"], ["IMG_7.JPG"]) == {"IMG_7.JPG": "img_7.png"}


def test_masks_in_folders_belong_to_images_in_the_same_folder_or_of_the_only_such_name(tmp_path: Path) -> None:
    images = ["train/1.jpg", "val/1.jpg", "train/2.jpg"]
    files = ["train/1.png", "val/1.png", "2.png"]
    assert found(tmp_path, files, images) == dict(zip(images, files, strict=True))


def test_flat_images_find_masks_in_folders_of_splits(tmp_path: Path) -> None:
    assert found(tmp_path, ["train/1_mask.png", "val/2_mask.png"], ["1.jpg", "2.jpg"]) == {
        "1.jpg": "train/1_mask.png",
        "2.jpg": "val/2_mask.png",
    }


def test_a_number_within_a_number_and_a_word_within_a_word_is_no_name(tmp_path: Path) -> None:
    files = [f"mask_{n}.png" for n in (10, 11, 12)]
    with pytest.raises(RequestError, match=r"holds 3 files, such as mask_10.png, but none is the mask of an image"):
        found(tmp_path, files, ["1.jpg", "0.jpg", "2.jpg"])
    with pytest.raises(RequestError, match="none is the mask"):
        found(tmp_path, ["catfish.png"], ["cat.jpg"])


def test_files_that_belong_to_no_image_are_counted(tmp_path: Path) -> None:
    masks, warnings = warned(tmp_path, ["1.png", "2.png", "other.png"], ["1.jpg", "2.jpg", "3.jpg"])
    assert masks == {"1.jpg": "1.png", "2.jpg": "2.png"}
    assert "1 of 3 files, such as other.png" in warnings[0]
    assert "2 of 3 images have a mask" in warnings[0]
    assert "dataset.mask_pattern" in warnings[0]


@pytest.mark.parametrize(
    "files",
    [
        ["1.png", "2.png", "1_mask.png"],
        ["1.png", "2.png", "1.bmp"],
        ["1_0.png", "1_1.png", "2_0.png", "2_1.png"],
        ["1_mask.png", "2_mask.png", "1_seg.png"],
        ["a/1.png", "b/1.png", "b/2.png"],
    ],
)
def test_two_masks_of_one_image_are_refused_and_a_pattern_answers(tmp_path: Path, files: list[str]) -> None:
    with pytest.raises(RequestError, match=r"may both be the mask of image 1.jpg.*dataset.mask_pattern"):
        found(tmp_path, files, ["1.jpg", "2.jpg"])


def test_a_pattern_says_which_file_is_the_mask(tmp_path: Path) -> None:
    files = ["1.png", "1_mask.png", "2_mask.png"]
    assert found(tmp_path, files, ["1.jpg", "2.jpg"], "{id}_mask.png") == {"1.jpg": "1_mask.png", "2.jpg": "2_mask.png"}
    assert found(tmp_path, ["1.jpg.gif"], ["1.jpg"], "{name}.gif") == {"1.jpg": "1.jpg.gif"}
    assert found(tmp_path, ["a/7-x.png"], ["a/7.jpg"], "{id}-x.png") == {"a/7.jpg": "a/7-x.png"}
    with pytest.raises(RequestError, match=r"none is the mask of an image.*which is \{id\}.tif"):
        found(tmp_path, files, ["1.jpg"], "{id}.tif")


def test_a_mask_of_two_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"1.png: may be the mask of (1.jpg and of 1.png|a/1.jpg and of b/1.jpg)"):
        found(tmp_path, ["1.png"], ["a/1.jpg", "b/1.jpg"])


def test_two_ways_of_naming_are_both_read_if_every_image_has_one_mask(tmp_path: Path) -> None:
    files = ["1.png", "2.png", "3_mask.png"]
    images = ["1.jpg", "2.jpg", "3.jpg"]
    assert found(tmp_path, files, images) == dict(zip(images, files, strict=True))


def test_an_empty_folder_of_masks_is_told_and_one_without_images_refused(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    masks, [sentence] = warned(tmp_path, [".DS_Store", "Thumbs.db"], ["1.jpg"])
    assert not masks
    assert "masks: is empty" in sentence
    with pytest.raises(RequestError, match=r"holds 2 files, such as 1.npy, but none is an image"):
        found(tmp_path, ["1.npy", "2.npy"], ["1.jpg", "2.jpg"])


@pytest.mark.parametrize(
    ("image", "mask", "pattern"),
    [
        ("{}_sat.jpg", "{}_mask.png", "{id}_mask.png"),
        ("image_{}.png", "mask_{}.png", "mask_{id}.png"),
        ("IMG{}.jpg", "gt{}.bmp", "gt{id}.bmp"),
        ("a/x_{}_leftImg8bit.png", "a/x_{}_gtFine_labelIds.png", "{id}_gtFine_labelIds.png"),
    ],
)
def test_a_word_that_all_images_have_may_be_another_one_in_masks(
    tmp_path: Path, image: str, mask: str, pattern: str
) -> None:
    images, masks = [image.format(n) for n in (1, 2, 10)], [mask.format(n) for n in (1, 2, 10)]
    files, warnings = warned(tmp_path, masks, images)
    assert files == dict(zip(images, masks, strict=True))
    assert "that all images have" in warnings[0]
    assert found(tmp_path, masks, images, pattern) == files


def test_masks_of_other_images_are_not_taken_for_that_word(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"none is the mask of an image, such as train_1\.jpg.*dataset.mask_pattern"):
        found(tmp_path, ["val_1.png", "val_2.png"], ["train_1.jpg", "train_2.jpg"])


def test_a_pattern_chooses_among_the_files_of_cityscapes(tmp_path: Path) -> None:
    files = [f"x_{n}_gtFine_{kind}.png" for n in (1, 2) for kind in ("color", "labelIds", "labelTrainIds")]
    images = [f"x_{n}_leftImg8bit.png" for n in (1, 2)]
    with pytest.raises(RequestError, match=r"may both be the mask of image x_1_leftImg8bit.png.*dataset.mask_pattern"):
        found(tmp_path, files, images)
    assert found(tmp_path, files, images, "{id}_gtFine_labelTrainIds.png") == {
        f"x_{n}_leftImg8bit.png": f"x_{n}_gtFine_labelTrainIds.png" for n in (1, 2)
    }


def test_masks_of_a_format_that_is_not_read_are_told(tmp_path: Path) -> None:
    files, warnings = warned(tmp_path, ["1.png", "2.npy", "2.json", "notes.txt"], ["1.jpg", "2.jpg"])
    assert files == {"1.jpg": "1.png"}
    assert "2 files, such as 2.json, are named after images that have no mask" in warnings[0]


def test_what_programs_hide_is_no_mask(tmp_path: Path) -> None:
    files = ["1.png", ".ipynb_checkpoints/1.png", "__MACOSX/1.png", "._1.png", "Thumbs.db"]
    assert warned(tmp_path, files, ["1.jpg"]) == ({"1.jpg": "1.png"}, [])
