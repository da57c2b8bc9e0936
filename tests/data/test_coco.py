"""COCO's format: what is listed, and that the painted masks are those of pycocotools' own decoder."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from amn_ray.core.errors import RequestError
from amn_ray.data.coco import Coco, CocoConfig
from amn_ray.data.coco.instances import Instances, read_instances
from amn_ray.data.coco.segmentations import FAR, paint
from amn_ray.data.source import Listing
from tests.coco_shapes import CATEGORY_IDS, build, compressed, run_lengths
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
        np.testing.assert_array_equal(ours.mask(record), oracle(api, number, label))
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
        mask, whole_mask = ours.mask(record), every.mask(whole)
        np.testing.assert_array_equal(mask, renumbered[whole_mask])


@pytest.mark.parametrize("values", ["labels", "category_ids"])
def test_ready_made_masks_are_read_where_they_are_named(drawn: Path, tmp_path: Path, values: str) -> None:
    painted = source(drawn)
    numbers = np.arange(256, dtype=np.uint8)
    if values == "category_ids":
        numbers[1:6] = CATEGORY_IDS
    for split in ("train", "val"):
        for record in painted.listing(split).records:
            (tmp_path / f"{record.image_id}.png").write_bytes(encode(numbers[painted.mask(record)]))
    ours = source(drawn, masks=str(tmp_path), mask_values=values)
    for record, other in zip(ours.listing("train").records, painted.listing("train").records, strict=True):
        np.testing.assert_array_equal(ours.mask(record), painted.mask(other))
    if values == "category_ids":
        with pytest.raises(RequestError, match=r"values .*18, 44.*, expected 0…5 .*mask_values=category_ids"):
            source(drawn, masks=str(tmp_path)).listing("train")


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
    assert source(drawn).image(record) == Path(record.image).read_bytes()


# --- Files as people have them: four pictures of 64x48 (width x height), an object of each in the same place ----------

BOX = [20, 12, 44, 12, 44, 36, 20, 36]
BOX_HW = np.zeros((48, 64), np.uint8)
BOX_HW[12:36, 20:44] = 1
NUT_BOLT = [{"id": 1, "name": "nut"}, {"id": 2, "name": "bolt"}]


def four(
    root: Path,
    images: list[dict[str, Any]] | None = None,
    annotations: list[dict[str, Any]] | None = None,
    categories: list[dict[str, Any]] | None = None,
    split: str = "train",
    at: str = "annotations/instances_train.json",
) -> Path:
    """A split: images 1…4 are nut, bolt, nut, bolt, where nothing else is said; entries are filled by defaults."""
    images = [{"id": number} for number in range(1, 5)] if images is None else images
    if annotations is None:
        annotations = [{"image_id": number, "category_id": 2 - number % 2} for number in range(1, 5)]
    images = [{"file_name": f"{image['id']}.jpg", "height": 48, "width": 64} | image for image in images]
    annotations = [{"id": n, "iscrowd": 0, "segmentation": [BOX]} | note for n, note in enumerate(annotations)]
    for image in images:
        name = str(image["file_name"]).replace("\\", "/").rpartition("/")[2]
        file = root / split / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode(np.full((48, 64, 3), 90, np.uint8), "JPEG"))
    path = root / at
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories or NUT_BOLT}))
    return root


def listed(root: Path, split: str = "train", **settings: Any) -> tuple[Coco, Listing]:
    read_instances.cache_clear()  # a test may have changed the file
    found = source(root, **({"train": "train", "val": None} | settings))
    return found, found.listing(split)


def labels(listing: Listing) -> list[tuple[int, ...]]:
    return [record.labels for record in listing.records]


def masks(found: Coco, listing: Listing) -> list[Any]:
    """The values in the mask of each image beside the background; None where it is not scored."""
    loaded = [None if record.mask is None else found.mask(record) for record in listing.records]
    return [None if mask is None else [int(value) for value in np.unique(mask) if value] for mask in loaded]


def one(tmp_path: Path, segmentation: Any, **image: Any) -> tuple[Coco, Listing]:
    """Three plain images, and one whose only object has this segmentation."""
    annotations = [{"image_id": n, "category_id": 1} for n in range(1, 5)]
    annotations[1]["segmentation"] = segmentation
    images = [{"id": n} | (image if n == 2 else {}) for n in range(1, 5)]
    return listed(four(tmp_path, images, annotations))


def rle(counts: Any, size: Any = (48, 64)) -> dict[str, Any]:
    return {"size": list(size), "counts": counts}


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[2.08e8, 3.5e8, *BOX[2:]]], r"coordinate 2.08e\+08, far outside"),
        ([[float("nan"), *BOX[1:]]], "coordinate nan"),
        ([[float("-inf"), *BOX[1:]]], "coordinate -inf"),
        ([[10**400, *BOX[1:]]], "other things than numbers"),
        ([[None, *BOX[1:]]], "coordinate nan"),
        ([["left", *BOX[1:]]], "other things than numbers"),
        ([[*BOX, 3]], "9 numbers, expected pairs"),
        ([BOX, [1e9, *BOX[1:]]], "far outside"),
        ([[-64.0 * FAR, 0, 64.0 * FAR, 1] * 20000], "an outline of"),
        ("1 2 3 4 5 6", "it is a str"),
        (7, "it is a int"),
        (rle("o0", (200000, 200000)), r"its size is \[200000, 200000\]"),
        (rle([3072], (64, 48)), r"its size is \[64, 48\], but height and width of the image are \[48, 64\]"),
        (rle([3072], (24, 32)), "its size is"),
        (rle([3000]), "do not add up"),
        (rle([-10, 3082]), "do not add up"),
        (rle([2**40]), "neither a text nor whole numbers"),
        (rle([1.5, 3070.5]), "neither a text nor whole numbers"),
        (rle([[3072]]), "neither a text nor whole numbers"),
        (rle({"a": 1}), "neither a text nor whole numbers"),
        (rle("zzzzzzzzzzzz"), "damaged"),
        (rle("q"), "damaged or cut short"),
        (rle("\u00e9"), "damaged or cut short"),
        (rle("1"), "do not add up"),
    ],
)
def test_what_would_end_or_fill_the_process_is_a_bad_image(tmp_path: Path, segmentation: Any, message: str) -> None:
    found, listing = one(tmp_path, segmentation)
    assert labels(listing) == [(1,)] * 4
    if re.search("far|coordinate|size|things", message):  # which a quick look while listing tells already
        (warning,) = (warning for warning in listing.warnings if "cannot be painted" in warning)
        assert "1 images" in warning
        assert re.search(message, warning)
        assert "the first: 2.jpg" in warning
    with pytest.raises(ValueError, match=f"object 1 of 1 has a segmentation that cannot be decoded .*{message}"):
        found.mask(listing.records[1])
    for number in (0, 2, 3):
        np.testing.assert_array_equal(found.mask(listing.records[number]), BOX_HW)


@pytest.mark.parametrize(
    "segmentation",
    [
        BOX,
        [BOX[:2], BOX[2:4], BOX[4:6], BOX[6:]],
        [[BOX[:2], BOX[2:4], BOX[4:6], BOX[6:]]],
        [[BOX]],
        [[str(value) for value in BOX]],
        [BOX, [3, 3, 9, 9]],
        [BOX[:4], BOX],
        compressed(BOX_HW),
        run_lengths(BOX_HW),
        [run_lengths(BOX_HW)],
        [run_lengths(BOX_HW[:, ::-1][:, ::-1]), compressed(np.where(np.arange(64) < 30, BOX_HW, 0))],
        rle([float(count) for count in run_lengths(BOX_HW)["counts"]]),
        rle(run_lengths(BOX_HW)["counts"], (48.0, 64.0)),
    ],
)
def test_an_outline_is_read_however_it_is_nested(tmp_path: Path, segmentation: Any) -> None:
    found, listing = one(tmp_path, segmentation)
    np.testing.assert_array_equal(found.mask(listing.records[1]), BOX_HW)
    assert not any("cannot be painted" in warning for warning in listing.warnings)


def test_random_segmentations_are_painted_as_pycocotools_decodes_them() -> None:
    rng = np.random.default_rng(0)
    for height, width in rng.integers(1, 70, (300, 2)).tolist():
        object_HW = (rng.random((height, width)) < rng.random()).astype(np.uint8)
        np.testing.assert_array_equal(paint(height, width, [(1, 0, compressed(object_HW))]), object_HW)
        np.testing.assert_array_equal(paint(height, width, [(1, 0, run_lengths(object_HW > 0))]), object_HW)
        parts = [rng.normal(0.5, 1, 2 * rng.integers(3, 9)) * max(height, width) for _ in range(rng.integers(1, 4))]
        outlines = [part.round(2).tolist() for part in parts]  # also beyond the image's edges
        expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(outlines, height, width)))
        np.testing.assert_array_equal(paint(height, width, [(1, 0, outlines)]), expected)


@pytest.mark.parametrize(
    "segmentation",
    [[], [[]], None, {}, "", rle([]), [[20, 12, 24, 24]], [20, 12, 24, 24], [[20, 12], [44, 36]], [[20, 12]]],
)
def test_an_object_without_an_outline_keeps_its_label_and_its_image_is_not_scored(
    tmp_path: Path, segmentation: Any
) -> None:
    found, listing = one(tmp_path, segmentation)
    assert labels(listing) == [(1,)] * 4
    assert masks(found, listing) == [[1], None, [1], [1]]
    assert any("1 of 4 images have objects without an outline" in told and "2.jpg" in told for told in listing.warnings)


def test_a_set_of_boxes_has_labels_and_no_ground_truth_and_ready_made_masks_need_no_outlines(tmp_path: Path) -> None:
    root = four(tmp_path)
    path = root / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    for note in content["annotations"]:
        del note["segmentation"]
    path.write_text(json.dumps(content))
    found, listing = listed(root)
    assert labels(listing) == [(1,), (2,), (1,), (2,)]
    assert masks(found, listing) == [None] * 4
    for number in range(1, 5):
        (root / "masks").mkdir(exist_ok=True)
        (root / f"masks/{number}.png").write_bytes(encode(BOX_HW * np.uint8(2 - number % 2)))
    found, listing = listed(root, masks="masks")
    assert masks(found, listing) == [[1], [2], [1], [2]]


def test_ready_made_masks_may_be_in_colours_and_have_names_of_their_own(tmp_path: Path) -> None:
    root = four(tmp_path)
    (root / "masks").mkdir()
    for number in range(1, 5):
        colour = (0, 128, 0) if number % 2 == 0 else (128, 0, 0)
        (root / f"masks/{number}_mask.png").write_bytes(encode((BOX_HW[..., None] * np.array(colour)).astype(np.uint8)))
    found, listing = listed(root, masks="masks")
    assert masks(found, listing) == [[1], [2], [1], [2]]


def test_coordinates_that_are_shares_of_the_size_are_enlarged(tmp_path: Path) -> None:
    shares = [value / (48 if number % 2 else 64) for number, value in enumerate(BOX)]
    notes = [{"image_id": n, "category_id": 1, "segmentation": [shares]} for n in range(1, 5)]
    found, listing = listed(four(tmp_path, annotations=notes))
    for record in listing.records:
        np.testing.assert_array_equal(found.mask(record), BOX_HW)
    assert "shares of width and height" in listing.warnings[0]


def test_objects_outside_of_their_images_are_counted(tmp_path: Path) -> None:
    found, listing = one(tmp_path, [[value + 64 for value in BOX]])
    assert masks(found, listing) == [[1], [], [1], [1]]
    assert any("1 objects lie wholly outside" in told and "2.jpg" in told for told in listing.warnings)


def test_a_size_that_is_not_told_is_the_file_s_and_a_wrong_one_is_told_before_it_is_painted(
    tmp_path: Path,
) -> None:
    for size in ({"height": None, "width": None}, {"height": 0, "width": -1}, {"height": "48", "width": 64.0}):
        found, listing = one(tmp_path, [BOX], **size)
        np.testing.assert_array_equal(found.mask(listing.records[1]), BOX_HW)
    found, listing = one(tmp_path, [BOX], height=200000, width=200000)
    with pytest.raises(ValueError, match=r"is 64x48, but 200000x200000 in the annotations"):
        found.mask(listing.records[1])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([{"id": 1, "file_name": "a1.jpg"}, {"id": 1, "file_name": "b1.jpg"}], "image id 1 is of a1.jpg and of b1.jpg"),
        (
            [{"id": 1, "file_name": "a1.jpg"}, {"id": "1", "file_name": "b1.jpg"}],
            "image id 1 is of a1.jpg and of b1.jpg",
        ),
        ([{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "a.jpg", "width": 65}], "a.jpg is listed twice"),
        ([{"id": True, "file_name": "a.jpg"}], "entry 0 of `images`"),
        ([{"id": 1.5, "file_name": "a.jpg"}], "entry 0 of `images`"),
        ([{"id": 1, "file_name": None}], "entry 0 of `images`"),
    ],
)
def test_image_entries_that_contradict_each_other_are_refused(tmp_path: Path, images: Any, message: str) -> None:
    root = four(tmp_path, images, [{"image_id": 1, "category_id": 1}])
    with pytest.raises(RequestError, match=message):
        listed(root)


def test_entries_of_one_file_are_put_together(tmp_path: Path) -> None:
    images = [{"id": 1}, {"id": 1}, {"id": 2, "file_name": "1.jpg"}, {"id": 3, "height": None}, {"id": 3}]
    notes = [
        {"image_id": 1, "category_id": 1},
        {"image_id": "2", "category_id": 2.0},
        {"image_id": 3.0, "category_id": "1"},
    ]
    _, listing = listed(four(tmp_path, images, notes))
    assert [record.image_id for record in listing.records] == ["1", "3"]
    assert labels(listing) == [(1, 2), (1,)]
    assert "3 entries of `images` name a file for the second time" in listing.warnings[0]


def test_ids_may_be_text(tmp_path: Path) -> None:
    images = [{"id": "first", "file_name": "x.jpg"}, {"id": "second", "file_name": "y.jpg"}]
    notes = [{"image_id": "second", "category_id": "n"}, {"image_id": "first", "category_id": "b"}]
    found, listing = listed(four(tmp_path, images, notes, [{"id": "b", "name": "bolt"}, {"id": "n", "name": "nut"}]))
    assert found.classes == ["bolt", "nut"]
    assert labels(listing) == [(1,), (2,)]


@pytest.mark.parametrize(
    "name",
    [
        "train/1.jpg",
        "./1.jpg",
        "train\\1.jpg",
        "C:\\data\\1.jpg",
        "/home/else/1.jpg",
        "https://host/a%20b/1.jpg?size=2",
        "old/1.jpg",
    ],
)
def test_an_image_is_found_whatever_folders_its_name_has(tmp_path: Path, name: str) -> None:
    root = four(tmp_path)
    path = root / "annotations/instances_train.json"
    path.write_text(path.read_text().replace('"1.jpg"', json.dumps(name)))
    _, listing = listed(root)
    assert listing.records[0].image == str(root / "train/1.jpg")
    assert listing.records[0].image_id == "1"
    assert labels(listing) == [(1,), (2,), (1,), (2,)]
    assert bool(listing.warnings) == (name not in ("train/1.jpg", "./1.jpg", "train\\1.jpg"))


@pytest.mark.parametrize(("named", "there"), [("Käse.JPG", "Ka\u0308se.jpg"), ("IMG.2021.01.jpg", "IMG.2021.01.jpg")])
def test_an_image_is_found_in_another_spelling(tmp_path: Path, named: str, there: str) -> None:
    root = four(tmp_path, [{"id": 1, "file_name": there}], [{"image_id": 1, "category_id": 1}])
    path = root / "annotations/instances_train.json"
    path.write_text(path.read_text().replace(json.dumps(there), json.dumps(named)))
    _, listing = listed(root)
    assert Path(listing.records[0].image).read_bytes()
    assert listing.records[0].image_id == named.rpartition(".")[0]


def test_the_same_name_in_two_folders_makes_two_ids(tmp_path: Path) -> None:
    root = four(tmp_path, [{"id": 1, "file_name": "1.jpg"}], [{"image_id": 1, "category_id": 1}])
    images = [{"id": n, "file_name": f"{folder}/1.jpg", "height": 48, "width": 64} for n, folder in enumerate("ab")]
    for folder in "ab":
        (root / "train" / folder).mkdir()
        (root / f"train/{folder}/1.jpg").write_bytes((root / "train/1.jpg").read_bytes())
    notes = [{"id": n, "image_id": n, "category_id": n + 1, "segmentation": [BOX]} for n in range(2)]
    content = {"images": images, "annotations": notes, "categories": NUT_BOLT}
    (root / "annotations/instances_train.json").write_text(json.dumps(content))
    _, listing = listed(root)
    assert [(record.image_id, record.labels) for record in listing.records] == [("a/1", (1,)), ("b/1", (2,))]
    (root / "train/a/1.jpg").unlink()
    with pytest.raises(RequestError, match=r"1 of 2 images are missing; the first: .*a/1.jpg does not exist"):
        listed(root)  # the other 1.jpg is another image


def test_missing_images_are_counted_and_left_out_where_that_is_allowed(tmp_path: Path) -> None:
    root = four(tmp_path)
    (root / "train/3.jpg").unlink()
    with pytest.raises(RequestError, match=r"1 of 4 images are missing; the first: .*train/3.jpg does not exist"):
        listed(root)
    _, listing = listed(root, max_bad_fraction=0.25)
    assert [record.image_id for record in listing.records] == ["1", "2", "4"]
    assert "3.jpg does not exist; they are left out" in listing.warnings[0]


def test_categories_of_val_are_known_by_their_names(tmp_path: Path) -> None:
    root = four(tmp_path)
    four(
        root,
        annotations=[{"image_id": n, "category_id": 10 - n} for n in range(1, 5)],
        categories=[{"id": n, "name": name} for n, name in enumerate(["screw", "washer", " Nut", "bolt"], start=6)],
        split="val",
        at="annotations/instances_val.json",
    )
    found, listing = listed(root, "val", val="val")
    assert labels(listing) == [(2,), (1,), (), ()]
    assert masks(found, listing) == [[2], [1], [255], [255]]
    assert dict(listing.unknown_classes) == {"screw": 1, "washer": 1}
    assert any("category 'Nut' is taken for 'nut'" in told for told in listing.warnings)
    assert any("2 objects are of categories" in told and "screw: 1" in told for told in listing.warnings)
    with pytest.raises(RequestError, match=r"numbers its categories otherwise .*dataset.mask_values=labels"):
        listed(root, "val", val="val", masks="val", mask_values="category_ids")
    path = root / "annotations/instances_val.json"
    path.write_text(path.read_text().replace('" Nut"', '"bead"').replace('"bolt"', '"ball"'))
    with pytest.raises(RequestError, match=r"none of its categories \(ball, bead, screw, washer\) is one of"):
        listed(root, "val", val="val")


@pytest.mark.parametrize("number", [0, 3])
def test_a_category_background_is_label_0(tmp_path: Path, number: int) -> None:
    notes = [{"image_id": n, "category_id": 1} for n in range(1, 5)]
    notes.append({"image_id": 1, "category_id": number, "segmentation": [[24, 16, 30, 16, 30, 22, 24, 22]]})
    categories = [{"id": number, "name": "Background"}, {"id": 1, "name": "nut"}]
    root = four(tmp_path, annotations=notes, categories=categories)
    found, listing = listed(root)
    assert found.classes == ["nut"]
    assert labels(listing) == [(1,)] * 4
    hole_HW = BOX_HW.copy()
    hole_HW[16:22, 24:30] = 0
    np.testing.assert_array_equal(found.mask(listing.records[0]), hole_HW)
    assert any("'Background' is label 0" in told for told in listing.warnings)
    with pytest.raises(RequestError, match=r"dataset.classes: 'background' is label 0"):
        listed(root, classes=["background", "nut"])


def test_a_category_that_only_groups_others_is_no_class(tmp_path: Path) -> None:
    categories = [{"id": 0, "name": "parts", "supercategory": "none"}] + [
        category | {"supercategory": "parts"} for category in NUT_BOLT
    ]
    found, listing = listed(four(tmp_path, categories=categories))
    assert found.classes == ["nut", "bolt"]
    assert labels(listing) == [(1,), (2,), (1,), (2,)]
    assert any("'parts' has no object" in told and "dataset.classes" in told for told in listing.warnings)


def test_categories_of_one_name_are_one_class_unless_they_are_different_things(tmp_path: Path) -> None:
    twice = [*NUT_BOLT, {"id": 3, "name": "nut "}, {"id": 3, "name": "nut"}]
    notes = [{"image_id": n, "category_id": n % 3 + 1} for n in range(1, 5)]
    found, listing = listed(four(tmp_path, annotations=notes, categories=twice))
    assert found.classes == ["nut", "bolt"]
    assert labels(listing) == [(2,), (1,), (1,), (2,)]
    assert any("several categories have the name 'nut'" in told for told in listing.warnings)
    with pytest.raises(RequestError, match=r"two categories have one name.*dataset.mask_values=category_ids"):
        listed(tmp_path, masks="masks")
    different = [{"id": n, "name": "mouse", "supercategory": kind} for n, kind in enumerate(["animal", "computer"], 1)]
    with pytest.raises(RequestError, match="'mouse' twice, below animal and computer"):
        listed(four(tmp_path, categories=different))
    with pytest.raises(RequestError, match="category id 2 is 'bolt' and 'screw'"):
        listed(four(tmp_path, categories=[*NUT_BOLT, {"id": 2, "name": "screw"}]))
    _, listing = listed(four(tmp_path, categories=[*NUT_BOLT, {"id": 4, "name": "Nut"}]))
    assert any("'nut' and 'Nut' are two classes" in told for told in listing.warnings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds a list"),
        ('{"images": [', "is not valid JSON"),
        ('{"images": []}\n{"images": []}', "is not valid JSON"),
        ("", "is not valid JSON"),
        (
            '{"images": [{"id": 1, "file_name": "1.jpg"}], "categories": [{"id": 1, "name": "nut"}]}',
            "has no `annotations`",
        ),
        ('{"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": []}', "`categories` must be"),
        (
            '{"images": [{"id": 1, "file_name": "1.jpg"}], "categories": [{"id": 1, "name": "nut"}], '
            '"annotations": [{"image_id": 1, "caption": "a nut"}]}',
            "file of captions, take that of the instances",
        ),
        (
            '{"images": [{"id": 1, "file_name": "1.jpg"}], "categories": [{"id": 1, "name": "nut"}], '
            '"annotations": [{"image_id": 1, "segments_info": []}]}',
            "file of panoptic segmentation, take that of the instances",
        ),
    ],
)
def test_files_that_are_no_instances_are_refused(tmp_path: Path, content: str, message: str) -> None:
    root = four(tmp_path)
    (root / "annotations/instances_train.json").write_text(content)
    with pytest.raises(RequestError, match=message):
        listed(root)


@pytest.mark.parametrize(
    ("encoding", "named"), [("utf-8-sig", None), ("utf-16", None), ("cp1252", None), ("cp1250", "cp1250")]
)
def test_files_may_be_in_other_encodings(tmp_path: Path, encoding: str, named: str | None) -> None:
    root = four(tmp_path, categories=[{"id": 1, "name": "Äpfel für alle"}, {"id": 2, "name": "bolt"}])
    path = root / "annotations/instances_train.json"
    path.write_bytes(json.dumps(json.loads(path.read_text()), ensure_ascii=False).encode(encoding))
    found, _ = listed(root, encoding=named)
    assert found.classes == ["Äpfel für alle", "bolt"]


@pytest.mark.parametrize(
    "at",
    [
        "annotations/train.json",
        "train/_annotations.coco.json",
        "train/annotations.json",
        "train.json",
        "all/x_train.json",
    ],
)
def test_the_file_is_found_where_others_put_it_or_named(tmp_path: Path, at: str) -> None:
    root = four(tmp_path, at=at)
    _, listing = listed(root, annotations="all/x_*.json" if at.startswith("all") else None)
    assert labels(listing) == [(1,), (2,), (1,), (2,)]
    if at.startswith("annotations"):
        with pytest.raises(
            RequestError, match=r"instances_training.json: not found.*there are .*annotations/train.json"
        ):
            listed(root, train="training")


@pytest.mark.parametrize("crowd", [None, False, True, "1", 0])
def test_crowds_are_told_in_any_way(tmp_path: Path, crowd: Any) -> None:
    notes = [{"image_id": 1, "category_id": 1, "iscrowd": crowd}]
    found, listing = listed(four(tmp_path, [{"id": 1}], notes))
    assert masks(found, listing) == [[255] if crowd else [1]]
    assert any("1 of 1 objects are crowds" in told for told in listing.warnings) == bool(crowd)


def test_annotations_that_occur_twice_are_one(tmp_path: Path) -> None:
    notes = [{"id": 1, "image_id": n, "category_id": 1} for n in (1, 1, 2, 3, 4)]
    found, listing = listed(four(tmp_path, annotations=notes))
    assert masks(found, listing) == [[1]] * 4


def test_coordinates_beyond_the_edges_are_cut_off(tmp_path: Path) -> None:
    found, listing = one(tmp_path, [[20, -640, 700, -640, 700, 36, 20, 36]])
    expected = np.zeros((48, 64), np.uint8)
    expected[:36, 20:] = 1
    np.testing.assert_array_equal(found.mask(listing.records[1]), expected)


def test_a_file_without_sizes_whose_coordinates_are_shares_is_refused(tmp_path: Path) -> None:
    notes = [{"image_id": 1, "category_id": 1, "segmentation": [[0, 0, 1, 0, 0.5, 0.9]]}]
    path = four(tmp_path, [{"id": 1, "height": None}], notes) / "annotations/instances_train.json"
    with pytest.raises(RequestError, match=r"does not tell for 1.jpg; add `height` and `width`"):
        _ = Instances(path, None).objects


def test_a_source_stays_small_whatever_it_has_listed(drawn: Path) -> None:
    found = source(drawn)
    assert sum(len(record.annotations) for record in found.listing("train").records) > 10_000
    assert len(pickle.dumps(found)) < 3_000
