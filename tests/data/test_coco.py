"""COCO's format: what is listed, and that the painted masks are those of pycocotools' own decoder."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from amn_ray.data.coco import Coco, CocoConfig, paint
from amn_ray.errors import RequestError
from tests.coco_shapes import CATEGORY_IDS, build, run_lengths
from tests.conftest import encode


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("coco") / "set", num_train=40, num_val=6, size=48)


@pytest.fixture
def edit(drawn: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the set whose training annotations were changed."""

    def change(how: Callable[[dict[str, Any]], object]) -> Path:
        root = tmp_path / "edited"
        (root / "annotations").mkdir(parents=True)
        for split in ("train2014", "val2014"):
            (root / split).symlink_to(drawn / split)
            content = json.loads((drawn / f"annotations/instances_{split}.json").read_text())
            if split == "train2014":
                how(content)
            (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
        return root

    return change


def source(root: Path, **settings: Any) -> Coco:
    return Coco(CocoConfig(root=str(root), **settings))


def oracle(api: COCO, image: int, label: dict[int, int]) -> np.ndarray:
    """Pixel by pixel: the smallest object that covers it, else 255 under a crowd, else background."""
    objects = [(api.annToMask(entry), entry) for entry in api.loadAnns(api.getAnnIds([image]))]
    size = api.imgs[image]
    mask = np.zeros((size["height"], size["width"]), np.uint8)
    for y, x in np.ndindex(*mask.shape):
        covering = [(object_HW.sum(), entry) for object_HW, entry in objects if object_HW[y, x]]
        whole = [(area, label[entry["category_id"]]) for area, entry in covering if not entry["iscrowd"]]
        mask[y, x] = min(whole)[1] if whole else 255 if covering else 0
    return mask


def official(root: Path, split: str) -> COCO:
    with contextlib.redirect_stdout(None):
        return COCO(str(root / f"annotations/instances_{split}.json"))


@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_are_those_of_pycocotools(drawn: Path, split: str) -> None:
    ours, api = source(drawn), official(drawn, f"{split}2014")
    label = {number: position for position, number in enumerate(CATEGORY_IDS, start=1)}
    records = ours.listing(split).records
    assert len(records) == len(api.imgs)
    kinds = set()
    for number, record in zip(api.imgs, records, strict=True):
        entries = api.loadAnns(api.getAnnIds([number]))
        kinds |= {(type(entry["segmentation"]).__name__, bool(entry["iscrowd"])) for entry in entries}
        assert record.labels == tuple(sorted(label[entry["category_id"]] for entry in entries))
        np.testing.assert_array_equal(ours.load(record)[1], oracle(api, number, label))
    if split == "train":
        assert kinds == {("list", False), ("dict", False), ("dict", True)}
        assert any(not record.labels for record in records), "K = 0 occurs"


def test_smaller_objects_lie_over_larger_ones_and_all_over_crowds() -> None:
    large, small, crowd = np.zeros((3, 8, 8), bool)
    large[1:7, 1:7] = small[3:5, 3:5] = True
    crowd[:, :4] = True
    objects = [(2, 0, run_lengths(small)), (1, 0, run_lengths(large)), (3, 1, run_lengths(crowd))]
    expected = np.zeros((8, 8), np.uint8)
    expected[:, :4] = 255
    expected[1:7, 1:7] = 1
    expected[3:5, 3:5] = 2
    for order in (objects, objects[::-1]):
        np.testing.assert_array_equal(paint(8, 8, order), expected)


def test_classes_that_were_not_asked_for_are_undefined_and_no_labels(drawn: Path) -> None:
    ours, every = source(drawn, classes=["gold", "ruby"]), source(drawn)
    assert every.classes == ["ruby", "azure", "violet", "gold", "teal"], "by category id, not as they are listed"
    renumbered = np.array([0, 2, 255, 255, 1, 255, *[255] * 250], np.uint8)
    for record, whole in zip(ours.listing("train").records, every.listing("train").records, strict=True):
        assert record.labels == tuple(sorted({int(renumbered[value]) for value in whole.labels} - {255}))
        mask, whole_mask = ours.load(record)[1], every.load(whole)[1]
        np.testing.assert_array_equal(mask, renumbered[whole_mask])


@pytest.mark.parametrize("values", ["labels", "category_ids"])
def test_ready_made_masks_are_read_where_they_are_named(drawn: Path, tmp_path: Path, values: str) -> None:
    painted = source(drawn)
    numbers = np.arange(256, dtype=np.uint8)
    if values == "category_ids":
        numbers[1:6] = CATEGORY_IDS
    for split in ("train", "val"):
        for record in painted.listing(split).records:
            (tmp_path / f"{record.image_id}.png").write_bytes(encode(numbers[painted.load(record)[1]]))
    ours = source(drawn, masks=str(tmp_path), mask_values=values)
    for record, other in zip(ours.listing("train").records, painted.listing("train").records, strict=True):
        np.testing.assert_array_equal(ours.load(record)[1], painted.load(other)[1])
    if values == "category_ids":
        wrong = source(drawn, masks=str(tmp_path))
        gold = next(record for record in wrong.listing("train").records if 4 in record.labels)
        with pytest.raises(ValueError, match=r"value \d+, which dataset.mask_values=labels does not know"):
            wrong.load(gold)


def test_a_missing_ready_made_mask_is_named(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"mask .*COCO_train2014_000000000001.png does not exist"):
        source(drawn, masks=str(tmp_path)).listing("train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][0].update(category_id=2), "category_id 2, which `categories` does not list"),
        (lambda c: c["annotations"][0].update(image_id=999), "image_id 999, which `images` does not list"),
        (lambda c: c["images"][1].pop("id"), "entry 1 of `images` needs .*KeyError"),
        (lambda c: c["annotations"][0].pop("category_id"), "entry 0 of `annotations` needs .*KeyError"),
        (lambda c: c.update(images=[]), "lists no image|which `images` does not list"),
        (lambda c: c.update(categories=[]), "`categories` must be"),
        (lambda c: c["images"][0].update(file_name="gone.jpg"), "gone.jpg does not exist"),
    ],
)
def test_annotations_that_contradict_each_other_are_refused(
    edit: Callable[..., Path], change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        source(edit(change)).listing("train")


def test_more_categories_than_a_mask_holds_are_refused_but_some_of_them_can_be_chosen(
    edit: Callable[..., Path],
) -> None:
    def many(content: dict[str, Any]) -> None:
        content["categories"] += [{"id": 1000 + number, "name": f"thing {number}"} for number in range(255)]

    root = edit(many)
    with pytest.raises(RequestError, match=r"lists 260 categories, but masks hold up to 254"):
        source(root).listing("train")
    assert source(root, classes=["thing 7"]).classes == ["thing 7"]


def test_category_ids_that_no_pixel_can_hold_are_refused(edit: Callable[..., Path], tmp_path: Path) -> None:
    root = edit(lambda content: content["categories"].append({"id": 0, "name": "zero"}))
    with pytest.raises(RequestError, match=r"mask_values=category_ids: 0 is the number of a category"):
        source(root, masks=str(tmp_path), mask_values="category_ids").listing("train")


def test_annotations_that_are_no_json_are_refused(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train2014.json").write_text("{")
    with pytest.raises(RequestError, match="is not valid JSON"):
        source(tmp_path).listing("train")


def test_a_missing_annotation_file_is_named_with_what_to_correct(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"instances_train2014.json: not found.*dataset.train"):
        source(tmp_path).listing("train")


@pytest.mark.parametrize("segmentation", [[[1, 2]], {"counts": [3, 4], "size": [8, 8]}, {"size": [8, 8]}, [[]]])
def test_a_segmentation_that_is_none_is_a_bad_image_not_a_crash(segmentation: Any) -> None:
    with pytest.raises(ValueError, match=r"segmentation that cannot be decoded|mask is"):
        paint(8, 8, [(1, 0, segmentation)])


def test_a_set_without_val_has_only_train(drawn: Path) -> None:
    assert source(drawn, val=None).listing("val").records == []


def test_iscrowd_may_be_left_out(edit: Callable[..., Path], drawn: Path) -> None:
    def drop(content: dict[str, Any]) -> None:
        for entry in content["annotations"]:
            if not entry["iscrowd"]:
                del entry["iscrowd"]

    root = edit(drop)
    assert source(root).listing("train").records[0].annotations == source(drawn).listing("train").records[0].annotations


def test_encoded_images_travel_as_they_are(drawn: Path) -> None:
    record = source(drawn).listing("train").records[0]
    assert source(drawn).load(record)[0] == Path(record.image).read_bytes()
