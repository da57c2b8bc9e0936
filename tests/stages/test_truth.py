"""The ground truth of a split: masks as they lie on their images, by the image table alone; what is bad is left out."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from amn_ray.core.artifacts import Store
from amn_ray.core.errors import RequestError
from amn_ray.data.coco import CocoConfig
from amn_ray.data.folder import FolderConfig
from amn_ray.data.images import decode_image, decode_mask, encode_mask, turned
from amn_ray.data.listing import Summary, list_content, open_source
from amn_ray.data.pixels import DEFAULT
from amn_ray.data.records import list_records, records_of
from amn_ray.data.source import DatasetConfig
from amn_ray.data.voc import VocConfig
from amn_ray.platform.cluster import Cluster
from amn_ray.stages.images.infer import ReadImage
from amn_ray.stages.reading import BadImage
from amn_ray.stages.stage import Context
from amn_ray.stages.truth.infer import ReadMask, review
from amn_ray.stages.truth.stage import TRUTH
from tests.coco_shapes import run_lengths
from tests.conftest import encode, noise
from tests.photographs import (
    Photographs,
    bad,
    latin_names,
    lying,
    make_images,
    make_truth,
    rows_of,
    train,
    turned_back,
)

ONES = np.ones((6, 4), np.uint8)


@pytest.fixture
def photographs(tmp_path: Path) -> Photographs:
    return Photographs(tmp_path / "set")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def masks(summary: Summary, store: Store) -> dict[str, dict]:
    return rows_of(make_truth(summary, make_images(summary, store), store))


# --- Photographs that are turned or scaled ---------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_is_upright_whichever_picture_it_was_drawn_on(
    photographs: Photographs, store: Store, orientation: int
) -> None:
    mask_HW = (np.arange(24) % 2).reshape(6, 4).astype(np.uint8)
    mask_HW[0] = 1
    content, _ = lying(noise(6, 4), orientation)
    photographs.add("upright.png", content, mask_HW)
    if orientation >= 5:
        photographs.add("lying.png", content, turned_back(mask_HW, orientation))
    summary = train(photographs.config())
    images = make_images(summary, store)
    truth = make_truth(summary, images, store)
    for row in rows_of(truth).values():
        np.testing.assert_array_equal(decode_mask(row["mask"]), mask_HW)
        assert row["present"] == [0, 1]
    warnings = review(truth, images, ["nut"])
    assert len(warnings) == (orientation in (2, 3, 4))
    assert all("1 masks" in warning and "dataset.exif=ignore" in warning for warning in warnings)


def test_without_exif_a_mask_is_that_of_the_picture_as_it_lies(photographs: Photographs, store: Store) -> None:
    mask_HW = (np.arange(24) % 2).reshape(4, 6).astype(np.uint8)
    content, _ = lying(noise(6, 4), 6)
    photographs.add("a.png", content, mask_HW)
    upside_down, _ = lying(noise(4, 6), 3)
    photographs.add("b.png", upside_down, mask_HW)
    summary = train(photographs.config(exif="ignore"))
    images = make_images(summary, store)
    truth = make_truth(summary, images, store)
    for row in rows_of(truth).values():
        np.testing.assert_array_equal(decode_mask(row["mask"]), mask_HW)
    assert review(truth, images, ["nut"]) == [], "there is no doubt"
    photographs.add("a.png", content, turned(mask_HW, 6))
    with pytest.raises(BadImage, match=r"mask is 4x6 but its image 6x4 .*without the turn of its EXIF tag"):
        read_first(photographs.config(exif="ignore"), store)


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A white object on black, which has no symmetry: image (180, 120, 3) and mask (180, 120)."""
    mask_HW = np.zeros((180, 120), np.uint8)
    mask_HW[24:150, 12:60] = mask_HW[24:80, 12:96] = 1
    return np.repeat(mask_HW[..., None] * np.uint8(255), 3, axis=2), mask_HW


def assert_lies_on_its_object(mask_HW: np.ndarray, image_HWC: np.ndarray) -> None:
    assert mask_HW.shape == image_HWC.shape[:2]
    white_HW, black_HW = (image_HWC == 255).all(2), (image_HWC == 0).all(2)
    assert 0.2 < white_HW.mean() < black_HW.mean()
    assert (white_HW | black_HW).mean() > 0.7, "the rest are edges, which are blended"
    np.testing.assert_array_equal(mask_HW[white_HW], 1)
    np.testing.assert_array_equal(mask_HW[black_HW], 0)


@pytest.mark.parametrize("max_side", [None, 45, 69])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("drawn_on", ["upright", "lying"])
def test_a_mask_lies_on_its_object_without_the_photograph(
    photographs: Photographs, store: Store, orientation: int, max_side: int | None, drawn_on: str
) -> None:
    image_HWC, mask_HW = scene()
    content, _ = lying(image_HWC, orientation)
    sideways = drawn_on == "lying" and orientation >= 5
    photographs.add("a.png", content, turned_back(mask_HW, orientation) if sideways else mask_HW)
    config = photographs.config(max_side=max_side)
    summary, source = train(config), open_source(config)
    images = make_images(summary, store)
    (record,) = list_content(source, "train").records
    (photographs.root / "images/a.png").unlink()
    row = ReadMask(images, config.pixels, 1)(source, record)
    assert row is not None
    mask_HW = decode_mask(row["mask"])  # type: ignore[arg-type]
    assert max_side is None or max(mask_HW.shape) == max_side
    assert_lies_on_its_object(mask_HW, decode_image(rows_of(images)["a"]["image"], config.pixels))


@pytest.mark.parametrize(("orientation", "told"), [(1, True), (3, True), (6, True), (1, False), (6, False)])
def test_outlines_of_coco_lie_on_their_object_by_the_photographs_size_alone(
    tmp_path: Path, store: Store, orientation: int, told: bool
) -> None:
    image_HWC, mask_HW = scene()
    content, stored = lying(image_HWC, orientation)
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    (root / "train2014").mkdir()
    path = root / "train2014/a.png"
    path.write_bytes(content)
    if not told:  # then the pixels as they lie are what is annotated
        mask_HW = stored[..., 0] // 255
    size = {"height": 180, "width": 120} if told else {}
    note = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": run_lengths(mask_HW)}
    instances = {
        "images": [{"id": 1, "file_name": "a.png", **size}],
        "annotations": [note],
        "categories": [{"id": 1, "name": "nut"}],
    }
    (root / "annotations/instances_train2014.json").write_text(json.dumps(instances))
    config = CocoConfig(root=str(root), val=None, max_side=90)
    summary, source = train(config), open_source(config)
    images = make_images(summary, store)
    (record,) = list_content(source, "train").records
    path.write_bytes(content[: content.index(b"IDAT") + 8])  # what stands before the pixels
    with pytest.raises(BadImage, match="truncated"):
        ReadImage(config.pixels)(source, replace(record, image_digest=""))
    row = ReadMask(images, config.pixels, 1)(source, record)
    assert row is not None
    image_HWC = decode_image(rows_of(images)["a"]["image"], config.pixels)
    assert_lies_on_its_object(decode_mask(row["mask"]), image_HWC)  # type: ignore[arg-type]


# --- Which images have a row -----------------------------------------------------------------------------------------


def test_an_image_without_a_mask_has_no_row(photographs: Photographs, store: Store) -> None:
    photographs.add("a.png", encode(noise(6, 4)), ONES)
    photographs.add("b.png", encode(noise(6, 4)))
    summary = train(photographs.config(rows_per_shard=1))
    images = make_images(summary, store)
    truth = make_truth(summary, images, store)
    assert list(rows_of(images)) == ["a", "b"]
    assert list(rows_of(truth)) == ["a"]
    assert bad(truth) == []


def test_an_image_that_was_left_out_as_bad_has_no_row_and_its_mask_is_not_bad(
    photographs: Photographs, store: Store
) -> None:
    photographs.add("a.png", encode(noise(6, 4)), ONES)
    photographs.add("broken.png", b"broken", ONES)
    summary = train(photographs.config(max_bad_fraction=0.5))
    images = make_images(summary, store)
    truth = make_truth(summary, images, store)
    assert len(bad(images)) == 1
    assert list(rows_of(truth)) == ["a"]
    assert bad(truth) == []


@pytest.fixture
def one_bad_mask(photographs: Photographs) -> Photographs:
    """Three images; the mask of `b` does not fit."""
    for name in "abc":
        photographs.add(f"{name}.png", encode(noise(6, 4)), ONES if name != "b" else ONES[:3])
    return photographs


def test_a_bad_mask_is_refused_where_none_may_be(one_bad_mask: Photographs, store: Store) -> None:
    summary = train(one_bad_mask.config())
    images = make_images(summary, store)
    assert list(rows_of(images)) == ["a", "b", "c"]
    with pytest.raises(RequestError, match=r"b\.png: mask is 4x3 but its image 4x6 .*masks/b\.png.*max_bad_fraction"):
        make_truth(summary, images, store)


def test_a_bad_mask_is_left_out_and_its_image_stays_where_some_may_be(one_bad_mask: Photographs, store: Store) -> None:
    summary = train(one_bad_mask.config(max_bad_fraction=0.5))
    images = make_images(summary, store)
    truth = make_truth(summary, images, store)
    assert list(rows_of(images)) == ["a", "b", "c"]
    assert bad(images) == []
    assert list(rows_of(truth)) == ["a", "c"]
    (problem,) = bad(truth)
    assert "b.png: mask is 4x3 but its image 4x6" in problem


def test_a_truth_that_lacks_masks_is_not_reused_where_none_may_be_lacking(folder: Path) -> None:
    made = {"bad_masks": ["p.png: mask is …"]}
    allowing = train(FolderConfig(root=str(folder), max_bad_fraction=0.5))
    TRUTH.check_reuse(allowing, made)  # 1 of 2; the third image has none
    with pytest.raises(RequestError, match=r"1 of 2 masks are bad, dataset\.max_bad_fraction=0.4 allows fewer"):
        TRUTH.check_reuse(train(FolderConfig(root=str(folder), max_bad_fraction=0.4)), made)


# --- What is refused -------------------------------------------------------------------------------------------------


def read_first(config: DatasetConfig, store: Store) -> object:
    """The row of the first mask, whose image table is there."""
    summary, source = train(config), open_source(config)
    images = make_images(summary, store)
    return ReadMask(images, config.pixels, len(summary.classes))(source, list_content(source, "train").records[0])


def test_a_broken_mask_is_named_and_not_taken_for_its_image(photographs: Photographs, store: Store) -> None:
    photographs.add("odd.png", encode(noise(6, 4)), np.zeros((6, 4), np.uint8))
    mask = photographs.root / "masks" / "odd.png"
    for content in (mask.read_bytes()[:40], b"", b"no image"):
        mask.write_bytes(content)
        with pytest.raises(BadImage, match=r"images/odd\.png: mask: .*masks/odd\.png\)$"):
            read_first(photographs.config(), store)
    mask.unlink()
    mask.symlink_to("nothing")
    with pytest.raises(RequestError, match=r"mask .*masks/odd\.png does not exist"):
        read_first(photographs.config(), store)


def test_a_mask_of_another_size_is_named(photographs: Photographs, store: Store) -> None:
    photographs.add("odd.png", encode(noise(6, 4)), np.zeros((3, 2), np.uint8))
    with pytest.raises(BadImage, match=r"odd\.png: mask is 2x3 but its image 4x6"):
        read_first(photographs.config(), store)


def test_a_mask_that_changes_after_it_was_listed_is_not_stored(folder: Path, store: Store) -> None:
    config = FolderConfig(root=str(folder))
    source = open_source(config)
    read_mask = ReadMask(make_images(train(config), store), DEFAULT, 2)
    record = list_content(source, "train").records[0]
    assert read_mask(source, record)
    (folder / "masks/p.png").write_bytes(encode_mask(np.ones((20, 28), np.uint8)))
    with pytest.raises(RequestError, match=r"masks/p\.png: changed after the data set was listed; run again"):
        read_mask(source, record)


def test_masks_of_photographs_whose_names_are_no_text_are_read(photographs: Photographs, store: Store) -> None:
    photographs.add("a.png", encode(noise(6, 4)), ONES)
    for folder in ("images", "masks"):
        path = os.fsencode(photographs.root / folder)
        os.rename(path + b"/a.png", path + b"/caf\xe9.png")
    (photographs.root / "labels.csv").write_text("image,labels\ncafé.png,nut\n")
    assert masks(train(FolderConfig(root=str(photographs.root))), store)["café"]["present"] == [1]


def test_masks_whose_names_are_no_text_reach_the_workers(voc: Path, store: Store) -> None:
    latin_names(voc)
    summary = train(VocConfig(root=str(voc)))
    assert masks(summary, store)["für"]["present"] == [0, 8, 255]
    output = store.artifact("truth", 1, {}, {})
    source = list_records(summary, output)
    first, _ = records_of(output, [0])
    wrong = ReadMask(make_images(summary, store), DEFAULT, 7)
    with pytest.raises(BadImage, match=r"f\\xfcr\.jpg: mask has the value 8, expected 0…7 .*f\\xfcr\.png\)"):
        wrong(source, first)


def test_masks_most_of_which_contradict_the_labels_are_refused(photographs: Photographs, store: Store) -> None:
    for number in range(6):
        photographs.add(f"{number}.png", encode(noise(6, 4)), np.zeros((6, 4), np.uint8))
    summary = train(photographs.config())
    images = make_images(summary, store)
    truth = make_truth(summary, images, store)
    with pytest.raises(RequestError, match="in 6 of 6 images labels and mask contradict one another"):
        review(truth, images, ["nut"])


# --- On a real Ray ---------------------------------------------------------------------------------------------------


def test_the_stage_counts_masks_and_refuses_where_none_is_left(
    cluster: Cluster, one_bad_mask: Photographs, store: Store
) -> None:
    context = Context(cluster=cluster)
    for name in "de":
        one_bad_mask.add(f"{name}.png", encode(noise(6, 4)))
    summary = train(one_bad_mask.config(max_bad_fraction=0.4, rows_per_shard=1))  # so that shards are empty
    images = make_images(summary, store)
    output = store.artifact(TRUTH.name, TRUTH.version, TRUTH.identity(summary), {"images": images})
    told = TRUTH.run(summary, {"images": images}, output, context)
    assert (told["rows"], told["metrics"]) == (2, {"masks": 2})
    assert [problem.rpartition("/")[2] for problem in told["bad_masks"]] == ["b.png)"]
    assert list(rows_of(output)) == ["a", "c"]
    assert [info.base_name for info in output.entries()] == ["rows"]

    summary = train(one_bad_mask.config(max_bad_fraction=0.3, rows_per_shard=1))
    with pytest.raises(RequestError, match=r"1 of 3 masks are bad, dataset\.max_bad_fraction=0\.3 allows fewer"):
        TRUTH.run(summary, {"images": images}, output, context)
    assert not output.exists()

    for name in "ac":
        (one_bad_mask.root / f"images/{name}.png").write_bytes(b"broken")
    summary = train(one_bad_mask.config(max_bad_fraction=0.4))
    images = make_images(summary, store)
    output = store.artifact(TRUTH.name, TRUTH.version, TRUTH.identity(summary), {"images": images})
    with pytest.raises(RequestError, match=r"none of the 3 masks .*b\.png: mask is 4x3"):
        TRUTH.run(summary, {"images": images}, output, context)


def test_the_share_of_bad_masks_is_one_of_the_evaluated_images(voc: Path, store: Store, cluster: Cluster) -> None:
    """One of two is half, although three have masks."""
    (voc / "SegmentationClassAug/b.png").write_bytes(b"no image")
    images = make_images(train(VocConfig(name="voc", root=str(voc))), store)
    for allowed, version in ((0.4, 1), (0.5, 2)):
        summary = train(VocConfig(name="voc", root=str(voc), max_bad_fraction=allowed))
        output = store.artifact("truth", version, {}, {})
        if allowed < 0.5:
            with pytest.raises(RequestError, match=r"1 of 2 masks are bad"):
                TRUTH.run(summary, {"images": images}, output, Context(cluster=cluster))
        else:
            made = TRUTH.run(summary, {"images": images}, output, Context(cluster=cluster))
            assert len(made["bad_masks"]) == 1
            assert any("1 bad masks are left out" in warning for warning in made["warnings"])


def test_a_bad_mask_of_an_image_that_is_not_evaluated_is_named_and_left_out(
    voc: Path, store: Store, cluster: Cluster
) -> None:
    (voc / "SegmentationClassAug/c.png").write_bytes(b"no image")
    summary = train(VocConfig(name="voc", root=str(voc)))
    images = make_images(summary, store)
    output = store.artifact("truth", 1, {}, {})
    made = TRUTH.run(summary, {"images": images}, output, Context(cluster=cluster))
    assert (made["rows"], made["bad_masks"]) == (2, [])
    (warning,) = (sentence for sentence in made["warnings"] if "not evaluated" in sentence)
    assert warning.startswith("1 masks of images that are not evaluated cannot be used")
    assert "c.png" in warning
    (voc / "SegmentationClassAug/b.png").write_bytes(b"no image")
    with pytest.raises(RequestError, match=r"b\.png"):
        TRUTH.run(train(VocConfig(name="voc", root=str(voc))), {"images": images}, output, Context(cluster=cluster))
