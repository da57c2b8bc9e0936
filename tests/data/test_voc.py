"""VOC's layout as people have it: their endings, ids, lists, annotations, classes and masks."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from amn_ray.core.errors import RequestError
from amn_ray.data.images import encode_palette_mask
from amn_ray.data.listing import list_here
from amn_ray.data.masks import MaskRule
from amn_ray.data.source import Listing
from amn_ray.data.voc import CLASSES, Voc, VocConfig
from tests.conftest import encode, noise

LISTS = "ImageSets/Segmentation"


def source(root: Path, **settings: object) -> Voc:
    return Voc(VocConfig(root=str(root), **settings))  # type: ignore[arg-type]


def train(root: Path, **settings: object) -> Listing:
    return source(root, **settings).listing("train")


def ids(listing: Listing) -> list[str]:
    return [record.image_id for record in listing.records]


def rename(root: Path, old: str, new: str, ending: str = ".jpg") -> None:
    """Give an image of the fixture `voc` another name and ending, in all folders and lists."""
    for folder, before, after in (
        ("JPEGImages", ".jpg", ending),
        ("Annotations", ".xml", ".xml"),
        ("SegmentationClassAug", ".png", ".png"),
    ):
        (root / folder / f"{new}{after}").parent.mkdir(parents=True, exist_ok=True)
        (root / folder / f"{old}{before}").rename(root / folder / f"{new}{after}")
    for path in (root / LISTS).glob("*.txt"):
        lines = [new if line == old else line for line in path.read_text().split("\n")]
        path.write_text("\n".join(lines))


def write_list(root: Path, content: str | bytes, name: str = "train_aug") -> None:
    (root / LISTS / f"{name}.txt").write_bytes(content if isinstance(content, bytes) else content.encode())


def write_objects(root: Path, image_id: str, *names: str) -> None:
    tags = "".join(f"<object><name>{name}</name></object>" for name in names)
    (root / f"Annotations/{image_id}.xml").write_text(f"<annotation>{tags}</annotation>")


def write_mask(path: Path, *values: int) -> None:
    """A mask of the fixture's size whose columns hold the values."""
    mask = np.zeros((24, 32), np.uint8)
    for column, value in enumerate(values):
        mask[:, column] = value
    path.write_bytes(encode(mask))


def own(root: Path, *objects: list[str]) -> Path:
    """The fixture `voc` with classes of one's own: the objects of a, b and c."""
    for image_id, names in zip("abc", objects, strict=True):
        write_objects(root, image_id, *names)
        write_mask(root / f"SegmentationClassAug/{image_id}.png", 1, 2, 255)
    return root


# --- Images and ids --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".jpeg", ".JPG", ".JPEG", ".png", ".PNG", ".bmp", ".tif", ".TIFF"])
def test_images_may_have_any_usual_ending(voc: Path, ending: str) -> None:
    rename(voc, "a", "a", ending)
    records = train(voc).records
    assert [Path(record.image).name for record in records] == [f"a{ending}", "b.jpg", "c.jpg"]
    assert records[0].labels == (8,)


@pytest.mark.parametrize("name", ["IMG.2021.01", "my photo 1", "a.jpg.copy", "sub/a", "#1", "ä", "1", "x -1"])
def test_ids_are_read_as_they_are(voc: Path, name: str) -> None:
    rename(voc, "a", name)
    records = train(voc).records
    assert [record.image_id for record in records] == [name, "b", "c"]
    assert records[0].labels == (8,)
    assert records[0].mask == str(voc / f"SegmentationClassAug/{name}.png")


@pytest.mark.parametrize(
    "line",
    [
        "a.jpg",
        "a.JPG",
        "./a",
        "A",
        "a.png",
        "JPEGImages/a.jpg",
        "JPEGImages\\a.jpg",
        "C:\\VOC2012\\JPEGImages\\a.jpg SegmentationClassAug\\a.png",
        "/JPEGImages/a.jpg /SegmentationClassAug/a.png",
        "/somewhere/else/VOC2012/JPEGImages/a.jpg",
        "JPEGImages/a.jpg\tSegmentationClassAug/a.png",
        "JPEGImages/a.jpg,SegmentationClassAug/a.png",
        "  a  ",
    ],
)
def test_a_line_may_be_an_id_a_file_or_the_paths_of_image_and_mask(voc: Path, line: str) -> None:
    write_list(voc, f"{line}\nb\nc\n")
    assert [name.lower() for name in ids(train(voc))] == ["a", "b", "c"]


def test_paths_with_spaces_are_found(voc: Path) -> None:
    rename(voc, "a", "my photo 1")
    write_list(voc, "JPEGImages/my photo 1.jpg SegmentationClassAug/my photo 1.png\nb\nc\n")
    write_list(voc, "my photo 1.jpg\n", "train")
    assert ids(train(voc)) == ["my photo 1", "b", "c"]


def test_the_unicode_form_of_names_makes_no_difference(voc: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Mühle") for form in ("NFC", "NFD"))
    rename(voc, "a", decomposed)
    (voc / f"Annotations/{decomposed}.xml").rename(voc / f"Annotations/{composed}.xml")
    for listed in (composed, decomposed):
        write_list(voc, f"{listed}\nb\nc\n")
        record = train(voc).records[0]
        assert record.image_id == composed
        assert record.labels == (8,)
        assert record.mask is not None
        assert Path(record.mask).is_file()


def test_two_images_of_one_name_are_asked_about(voc: Path) -> None:
    (voc / "JPEGImages/a.png").write_bytes(encode(noise(24, 32)))
    with pytest.raises(RequestError, match=r"'a\.jpg' and 'a\.png', either of which could be 'a'"):
        train(voc)
    for name in ("train_aug", "train"):
        write_list(voc, "a.png\nb\n", name)
    assert [Path(record.image).name for record in train(voc).records] == ["a.png", "b.jpg"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_files_whose_names_are_no_utf8_are_found(voc: Path, encoding: str) -> None:
    rename(voc, "a", "x")
    for folder, ending in (("JPEGImages", ".jpg"), ("Annotations", ".xml"), ("SegmentationClassAug", ".png")):
        (voc / folder / f"x{ending}").rename(voc / folder / (os.fsdecode(b"f\xfcr") + ending))
    for name in ("train_aug", "train"):
        write_list(voc, "für\nb\n".encode(encoding), name)
    listing = train(voc)
    assert ids(listing) == ["für", "b"]
    assert listing.records[0].labels == (8,)
    mask = source(voc).mask(listing.records[0])
    assert set(np.unique(mask)) == {0, 8, 255}


# --- Lists -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
def test_lists_may_be_in_any_usual_encoding(voc: Path, encoding: str) -> None:
    rename(voc, "a", "Mühle")
    write_list(voc, "Mühle\r\nb\r\n\r\nc\r\n".encode(encoding))
    assert ids(train(voc)) == ["Mühle", "b", "c"]


def test_comments_and_empty_lines_are_passed_over(voc: Path) -> None:
    write_list(voc, "# the training images\n\n a \n\nb\nc\n\n")
    assert ids(train(voc)) == ["a", "b", "c"]


def test_lists_of_one_class_hold_its_images(voc: Path) -> None:
    write_list(voc, "a  1\nb  0\nc -1\n")
    listing = train(voc)
    assert ids(listing) == ["a", "b"]
    assert any("1 images that do not show it (-1) are left out" in warning for warning in listing.warnings)
    write_list(voc, "a 1\nb 1\nc 1\n")
    assert ids(train(voc)) == ["a", "b", "c"]


def test_lists_with_other_numbers_are_refused(voc: Path) -> None:
    write_list(voc, "a 0\nb 1\nc 1\n")
    with pytest.raises(RequestError, match=r"train_aug\.txt: line 1 ends with 0"):
        train(voc)


def test_an_image_that_is_listed_twice_is_refused_with_both_lines(voc: Path) -> None:
    write_list(voc, "a\nb\n\nc\na.jpg\n")
    with pytest.raises(
        RequestError, match=r"train_aug\.txt: the image 'a' occurs more than once, in the lines 1 and 5"
    ):
        train(voc)


def test_a_missing_image_is_told_with_its_line(voc: Path) -> None:
    write_list(voc, "a\nb\nmy photo\nd 1\n")
    with pytest.raises(RequestError, match=r"train_aug\.txt: line 3 names 'my photo', .*/my photo\.jpg.*1 other lines"):
        train(voc)


def test_an_empty_list_is_refused_with_what_there_is(voc: Path) -> None:
    write_list(voc, "# none\n")
    with pytest.raises(RequestError, match=r"train_aug.txt: lists no image.*set dataset.train_list=train or"):
        train(voc)


def test_images_of_both_splits_are_told(voc: Path) -> None:
    images = sorted((voc / "JPEGImages").iterdir())
    for seed, path in enumerate(images):
        path.write_bytes(encode(noise(8, 8 + seed)))
    write_list(voc, f"{images[0].stem}\n{images[1].stem}\n")
    write_list(voc, f"{images[0].stem}\n", "train")
    write_list(voc, f"{images[1].stem}\n{images[2].stem}\n", "val")

    def told() -> list[str]:
        listed = list_here(VocConfig(root=str(voc), allow_unlabelled=True), True)
        assert isinstance(listed, dict)
        return [warning for warning in listed["val"].warnings if "also in train" in warning]

    assert "1 of 2 images of val are also in train" in told()[0]
    images[1].write_bytes(images[0].read_bytes())  # whatever it is called
    assert f"{images[1]} ({images[1]})" in told()[0]
    write_list(voc, f"{images[2].stem}\n", "val")
    assert told() == []


def test_a_missing_list_is_refused_with_what_there_is(voc: Path) -> None:
    (voc / LISTS / "train_aug.txt").unlink()
    with pytest.raises(RequestError, match=r"train_aug\.txt: not found.*set dataset\.train_list=train or .*=val$"):
        train(voc)
    assert ids(train(voc, train_list="train.txt")) == ["a", "b"]
    (voc / LISTS).rename(voc / "ImageSets/Main")
    with pytest.raises(RequestError, match=r"set dataset\.train_list=\.\./Main/train or"):
        train(voc)
    assert ids(train(voc, train_list="../Main/train", evaluate_list=None)) == ["a", "b"]


@pytest.mark.parametrize("content", [None, "", "\n\n"])
def test_a_val_list_may_be_missing_or_empty_until_it_is_needed(voc: Path, content: str | None) -> None:
    (voc / LISTS / "val.txt").unlink()
    if content is not None:
        write_list(voc, content, "val")
    config = VocConfig(root=str(voc))
    found = list_here(config, needs_val=False)
    assert isinstance(found, dict)
    assert list(found) == ["train"]
    assert "val.txt" in found["train"].warnings[0]
    refused = list_here(config, needs_val=True)
    assert isinstance(refused, RequestError)
    assert "val.txt" in str(refused)
    assert "dataset.val_list" in str(refused)
    none = list_here(VocConfig(root=str(voc), val_list=None), needs_val=True)
    assert isinstance(none, dict)
    assert list(none) == ["train"]


def test_a_pipeline_asks_for_the_val_list_where_it_reaches_the_segmentation_network(
    job: Callable[..., tuple[int, str]], voc: Path, tmp_path: Path
) -> None:
    (voc / LISTS / "val.txt").unlink()
    request = ["pipeline", "dataset=voc12", f"dataset.root={voc}", f"store={tmp_path}/s", "classifier.batch_size=99"]
    code, error = job(*request, "until=pseudo_masks")  # refused after listing, before Ray is needed
    assert code == 2
    assert "classifier.batch_size=99" in error
    for step in ("segmenter", "predictions"):
        code, error = job(*request, f"until={step}")
        assert code == 2
        assert "val.txt: not found" in error


@pytest.mark.parametrize("content", [None, ""])
def test_an_evaluate_list_may_be_missing_or_empty(voc: Path, content: str | None) -> None:
    (voc / LISTS / "train.txt").unlink()
    if content is not None:
        write_list(voc, content, "train")
    listing = train(voc)
    assert [record.mask for record in listing.records] == [None] * 3
    assert any("train.txt" in warning and "dataset.evaluate_list" in warning for warning in listing.warnings)
    assert not train(voc, evaluate_list=None).warnings


def test_images_that_are_not_evaluated_need_no_mask_but_one_that_they_have_is_read(voc: Path) -> None:
    def found() -> list[tuple[bool, bool]]:
        return [(record.mask is not None, record.evaluated) for record in train(voc).records]

    assert found() == [(True, True), (True, True), (True, False)]
    (voc / "SegmentationClassAug/c.png").unlink()
    assert found() == [(True, True), (True, True), (False, False)]
    (voc / "SegmentationClassAug/b.png").unlink()
    with pytest.raises(RequestError, match="has no mask of 'b', which is to be evaluated"):
        train(voc)


def test_masks_are_looked_at_in_the_order_of_the_list(voc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large sets are sampled: another order would be another sample in another process."""
    seen: list[str] = []

    def rule(masks: Sequence[Path], *rest: object) -> tuple[MaskRule, list[str]]:
        seen.extend(path.stem for path in masks)
        return MaskRule("index", (8, 12)), []

    monkeypatch.setattr("amn_ray.data.voc.source.mask_rule", rule)
    names = [f"image_{number:02}" for number in range(40)]
    for name in names:
        for folder, ending in (("JPEGImages", ".jpg"), ("Annotations", ".xml"), ("SegmentationClassAug", ".png")):
            (voc / folder / f"{name}{ending}").write_bytes((voc / folder / f"a{ending}").read_bytes())
    write_list(voc, "\n".join(names))
    write_list(voc, "\n".join(names), "train")
    train(voc)
    assert seen == names


def test_an_evaluate_list_that_was_asked_for_must_be_there(voc: Path) -> None:
    with pytest.raises(RequestError, match=r"trian\.txt: not found.*dataset\.evaluate_list"):
        train(voc, evaluate_list="trian")


# --- Annotations -----------------------------------------------------------------------------------------------------


def annotation(name: str, declared: str) -> str:
    return f"<?xml version='1.0' encoding='{declared}'?>\n<annotation><object><name>{name}</name></object></annotation>"


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        ("utf-8", "utf-8"),
        ("utf-8", "utf-8-sig"),
        ("utf-16", "utf-16"),
        ("utf-8", "utf-16"),
        ("utf-16", "utf-8"),
        ("ISO-8859-1", "latin-1"),
        ("utf-8", "latin-1"),
        ("ISO-8859-1", "utf-8"),
        ("no-such-thing", "utf-8"),
        ("ascii", "latin-1"),
    ],
)
def test_annotations_are_read_whatever_they_declare(voc: Path, declared: str, encoding: str) -> None:
    own(voc, ["Mühle"], ["Mühle"], ["Mühle"])
    (voc / "Annotations/a.xml").write_bytes(annotation("Mühle", declared).encode(encoding))
    assert train(voc, classes=["Fluss", "Mühle"]).records[0].labels == (2,)


def test_annotations_in_an_encoding_that_the_parser_does_not_know(voc: Path) -> None:
    own(voc, ["螺丝"], ["螺丝"], ["螺丝"])
    (voc / "Annotations/a.xml").write_bytes(annotation("螺丝", "gb2312").encode("gb2312"))
    assert train(voc, classes=["螺丝", "x"]).records[0].labels == (1,)


def test_annotations_that_declare_the_wrong_encoding_are_told_once(voc: Path) -> None:
    own(voc, ["Mühle"], ["Mühle"], ["Mühle"])
    for name in "ab":
        (voc / f"Annotations/{name}.xml").write_bytes(annotation("Mühle", "utf-8").encode("latin-1"))
    [warning] = [w for w in train(voc, classes=["Mühle", "x"]).warnings if "annotations" in w]
    assert "2 of 3 annotations" in warning


@pytest.mark.parametrize(
    "content",
    [
        "\n <annotation><object><name> cat </name></object></annotation>",
        "\n<?xml version='1.0'?><annotation><object><name>\n\tcat\n</name></object></annotation>",
        "<annotation><object><name>Cat</name></object></annotation>",
        "<ANNOTATION><OBJECT><NAME>cat</NAME></OBJECT></ANNOTATION>",
        "<annotation xmlns='http://host/voc'><object><name>cat</name></object></annotation>",
        "<v:annotation xmlns:v='u'><v:object><v:name>cat</v:name></v:object></v:annotation>",
        "<annotation><objects><object><pose/><name>cat</name></object></objects></annotation>",
        "<annotation><object><name>cat</name><part><name>head</name></part></object></annotation>",
        "<annotation><!-- by hand --><object><!-- x --><name>cat</name></object></annotation>",
    ],
)
def test_annotations_are_read_as_tools_write_them(voc: Path, content: str) -> None:
    (voc / "Annotations/a.xml").write_text(content)
    listing = train(voc)
    assert listing.records[0].labels == (8,)
    assert not listing.unknown_classes


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is not valid XML"),
        ("<annotation><object>", "is not valid XML"),
        ("<annotation><object><name/></object></annotation>", "an <object> has no <name>"),
        ("<annotation><object/></annotation>", "an <object> has no <name>"),
        ("<annotation/>", "image 'a' has no label"),
        (None, "not found, expected the image's labels"),
    ],
)
def test_an_annotation_without_label_is_refused_by_its_name(voc: Path, content: str | None, told: str) -> None:
    path = voc / "Annotations/a.xml"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(RequestError, match=told) as refused:
        train(voc)
    assert "a.xml" in str(refused.value) or "'a'" in str(refused.value)


# --- Classes ---------------------------------------------------------------------------------------------------------


def test_classes_of_ones_own_are_numbered_in_their_order(voc: Path) -> None:
    voc_source = source(own(voc, ["screw"], ["screw", "bolt"], ["bolt"]), classes=["screw", "bolt"])
    records = voc_source.listing("train").records
    assert [record.labels for record in records] == [(1,), (1, 2), (2,)]
    mask = voc_source.mask(records[0])
    assert mask[0].tolist() == [1, 2, 255, *[0] * 29]


def test_a_single_class_of_ones_own(voc: Path) -> None:
    own(voc, ["screw"], ["screw"], ["screw"])
    write_mask(voc / "SegmentationClassAug/a.png", 1)
    write_mask(voc / "SegmentationClassAug/b.png", 1)
    voc_source = source(voc, classes=["screw"])
    record = voc_source.listing("train").records[0]
    mask = voc_source.mask(record)
    assert record.labels == (1,)
    assert np.unique(mask).tolist() == [0, 1]


def test_objects_that_are_mostly_no_classes_of_voc_are_refused_with_their_names(voc: Path) -> None:
    own(voc, ["screw", "screw"], ["screw", "bolt"], ["cat"])
    with pytest.raises(
        RequestError, match=r"Annotations: 4 of 5 objects .* screw \(3\), bolt \(1\).*set dataset\.classes"
    ):
        train(voc)


def test_classes_that_are_numbers_are_numbered_in_their_order_too(voc: Path) -> None:
    own(voc, ["2"], ["1", "2"], ["1"])
    assert [record.labels for record in train(voc, classes=["1", "2"]).records] == [(2,), (1, 2), (1,)]
    assert loaded(source(voc, classes=["1", "2"]))[:3] == [1, 2, 255]


def test_voc_and_other_classes_need_to_be_told_apart(voc: Path) -> None:
    own(voc, ["person"], ["person", "helmet"], ["helmet"])
    with pytest.raises(RequestError, match=r"dataset\.classes: 'helmet' .* dataset\.numbering=classes"):
        train(voc, classes=["person", "helmet"])
    voc_source = source(voc, classes=["person", "helmet"], numbering="classes")
    records = voc_source.listing("train").records
    assert [record.labels for record in records] == [(1,), (1, 2), (2,)]
    mask = voc_source.mask(records[0])
    assert mask[0, :3].tolist() == [1, 2, 255]
    with pytest.raises(RequestError, match="'helmet' is not among"):
        source(voc, classes=["person", "helmet"], numbering="voc")


def test_masks_that_seem_to_count_chosen_classes_of_voc_are_asked_about(voc: Path) -> None:
    own(voc, ["person"], ["person"], ["person"])
    for name in "abc":
        write_mask(voc / f"SegmentationClassAug/{name}.png", 1)
    with pytest.raises(
        RequestError, match=r"masks hold 1, but VOC's numbers .* are 15; set dataset\.numbering=classes"
    ):
        train(voc, classes=["person"])
    assert loaded(source(voc, classes=["person"], numbering="classes"))[:2] == [1, 0]
    assert loaded(source(voc, classes=["person"], numbering="voc"))[:2] == [255, 0]


def test_classes_of_voc_may_be_numbered_in_another_order(voc: Path) -> None:
    for image_id in "abc":
        write_mask(voc / f"SegmentationClassAug/{image_id}.png", 1, 2)
    voc_source = source(voc, classes=["dog", "cat"], numbering="classes", allow_unlabelled=True)
    record = voc_source.listing("train").records[1]
    mask = voc_source.mask(record)
    assert record.labels == (1, 2)
    assert mask[0, :3].tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("class_names.txt", "__ignore__\n_background_\nbolt\nscrew\n"),  # labelme2voc
        ("labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\nbolt:128,0,0::\nscrew:0,128,0::\n"),
        ("labels.txt", "background\nbolt\nscrew"),
        ("classes.txt", "\ufeffbolt\r\nscrew\r\n\r\n"),
    ],
)
def test_a_file_of_class_names_tells_the_numbering_of_masks(voc: Path, name: str, content: str) -> None:
    own(voc, ["screw"], ["screw", "bolt"], ["bolt"])
    (voc / name).write_text(content)
    by_file = source(voc)
    assert by_file.classes == ["bolt", "screw"]
    assert [record.labels for record in by_file.listing("train").records] == [(2,), (1, 2), (1,)]
    asked = source(voc, classes=["screw", "bolt"])
    record = asked.listing("train").records[0]
    mask = asked.mask(record)
    assert record.labels == (1,)
    assert mask[0, :3].tolist() == [2, 1, 255]


def test_files_of_class_names_that_contradict_are_refused(voc: Path) -> None:
    (voc / "class_names.txt").write_text("bolt\nscrew")
    (voc / "labels.txt").write_text("screw\nbolt")
    with pytest.raises(RequestError, match=r"labels\.txt: says .* screw, bolt, but class_names\.txt says bolt, screw"):
        source(voc)


def test_the_background_is_the_first_of_class_names(voc: Path) -> None:
    (voc / "labels.txt").write_text("bolt\nbackground\nscrew")
    with pytest.raises(RequestError, match="line 2 is the background"):
        source(voc)


def test_another_numbering_is_another_truth_of_the_same_images(voc: Path) -> None:
    own(voc, ["cat"], ["cat", "dog"], ["dog"])

    def identities(numbering: str | None) -> tuple[object, object]:
        config = VocConfig(root=str(voc), classes=["cat", "dog"], numbering=numbering)
        found = list_here(config, needs_val=False)
        assert isinstance(found, dict)
        return found["train"].identity(), found["train"].truth_identity()

    official, counted = identities("voc"), identities("classes")
    assert official[0] == counted[0]
    assert official[1] != counted[1]
    (voc / "labels.txt").write_text("cat\ndog\n")
    assert identities(None) == counted


# --- Masks -----------------------------------------------------------------------------------------------------------


def test_masks_that_sbd_lacks_are_taken_from_voc(voc: Path) -> None:
    (voc / "SegmentationClass").mkdir()
    (voc / "SegmentationClassAug/b.png").rename(voc / "SegmentationClass/b.PNG")
    listing = train(voc)
    assert [record.mask and Path(record.mask).relative_to(voc).as_posix() for record in listing.records] == [
        "SegmentationClassAug/a.png",
        "SegmentationClass/b.PNG",
        "SegmentationClassAug/c.png",
    ]
    assert any("has no masks of 1 images" in warning for warning in listing.warnings)


def test_a_missing_mask_is_told_by_its_image(voc: Path) -> None:
    (voc / "SegmentationClassAug/b.png").unlink()
    with pytest.raises(RequestError, match="SegmentationClassAug: has no mask of 'b'"):
        train(voc)


def test_without_any_masks_nothing_is_evaluated_and_that_is_told(voc: Path) -> None:
    (voc / "SegmentationClassAug").rename(voc / "SegmentationObject")
    listing = train(voc)
    assert [record.mask for record in listing.records] == [None] * 3
    assert any("nothing is evaluated (SegmentationObject numbers objects" in warning for warning in listing.warnings)


VOC_COLOURS = {0: (0, 0, 0), 8: (64, 0, 0), 12: (64, 0, 128), 255: (224, 224, 192)}
"""Of background, cat, dog and undefined, as VOC's development kit computes them."""


def paint(path: Path, *columns: tuple[int, int, int]) -> None:
    """A coloured mask of the fixture's size."""
    mask = np.zeros((24, 32, 3), np.uint8)
    for number, colour in enumerate(columns):
        mask[:, number] = colour
    path.write_bytes(encode(mask))


def loaded(voc_source: Voc, index: int = 0) -> list[int]:
    """The first row of a training image's mask."""
    mask = voc_source.mask(voc_source.listing("train").records[index])
    return mask[0].tolist()


def test_masks_in_the_colours_of_voc_are_read(voc: Path) -> None:
    for name in "ab":
        paint(voc / f"SegmentationClassAug/{name}.png", VOC_COLOURS[8], VOC_COLOURS[12], VOC_COLOURS[255])
    assert loaded(source(voc))[:4] == [8, 12, 255, 0]
    assert loaded(source(voc, classes=["dog", "cat"], allow_unlabelled=True))[:4] == [2, 1, 255, 0]
    assert loaded(source(voc, classes=["dog"], allow_unlabelled=True))[:4] == [255, 1, 255, 0]


def test_the_masks_of_voc_and_of_sbd_are_read(voc: Path) -> None:
    """Palette PNGs and grey ones, mixed."""
    mask = np.zeros((24, 32), np.uint8)
    mask[:, :3] = 8, 12, 255
    (voc / "SegmentationClassAug/a.png").write_bytes(encode_palette_mask(mask))
    write_mask(voc / "SegmentationClassAug/b.png", 8, 12, 255)
    assert [loaded(source(voc), index)[:4] for index in (0, 1)] == [[8, 12, 255, 0]] * 2
    assert not train(voc).warnings


def test_masks_in_the_colours_of_a_labelmap_are_read(voc: Path) -> None:
    """CVAT's own colours; also those of VOC in another order."""
    own(voc, ["screw"], ["screw", "bolt"], ["bolt"])
    for bolt, screw in [((250, 50, 83), (61, 61, 245)), ((0, 128, 0), (128, 0, 0))]:
        lines = [f"{name}:{','.join(map(str, colour))}::" for name, colour in [("bolt", bolt), ("screw", screw)]]
        (voc / "labelmap.txt").write_text("\n".join(["# label:color_rgb:parts:actions", "background:0,0,0::", *lines]))
        for name in "ab":
            paint(voc / f"SegmentationClassAug/{name}.png", bolt, screw)
        assert loaded(source(voc))[:3] == [1, 2, 0]
        assert loaded(source(voc, classes=["screw", "bolt"]))[:3] == [2, 1, 0]


def test_masks_of_labels_beside_a_labelmap_are_read(voc: Path) -> None:
    own(voc, ["screw"], ["screw", "bolt"], ["bolt"])
    (voc / "labelmap.txt").write_text("background:0,0,0::\nbolt:250,50,83::\nscrew:61,61,245::\n")
    assert loaded(source(voc))[:4] == [1, 2, 255, 0]


def test_masks_in_unknown_colours_are_asked_about(voc: Path) -> None:
    own(voc, ["screw"], ["screw", "bolt"], ["bolt"])
    for name in "ab":
        paint(voc / f"SegmentationClassAug/{name}.png", (250, 50, 83), (61, 61, 245))
    with pytest.raises(RequestError, match=r"SegmentationClassAug/[ab]\.png.*dataset\.palette"):
        train(voc, classes=["screw", "bolt"])
    palette = {"screw": [250, 50, 83], "bolt": "#3d3df5"}
    assert loaded(source(voc, classes=["screw", "bolt"], palette=palette))[:3] == [1, 2, 0]


def test_black_and_white_masks_of_one_class_are_read(voc: Path) -> None:
    own(voc, ["screw"], ["screw"], ["screw"])
    for name in "ab":
        write_mask(voc / f"SegmentationClassAug/{name}.png", 255)
    assert loaded(source(voc, classes=["screw"]))[:2] == [1, 0]


def test_black_and_white_masks_of_a_class_of_voc(voc: Path) -> None:
    own(voc, ["cat"], ["cat"], ["cat"])
    for name in "ab":
        write_mask(voc / f"SegmentationClassAug/{name}.png", 255)
    with pytest.raises(RequestError, match=r"dataset\.mask_values=binary"):
        train(voc, classes=["cat"])
    assert loaded(source(voc, classes=["cat"], mask_values="binary"))[:2] == [1, 0]
    assert loaded(source(voc, classes=["cat"], numbering="classes"))[:2] == [1, 0]


def test_a_value_that_is_no_class_is_refused_while_listing(voc: Path) -> None:
    write_mask(voc / "SegmentationClassAug/b.png", 77)
    with pytest.raises(RequestError, match=r"SegmentationClassAug/b\.png.*77"):
        train(voc)


def test_masks_named_after_another_scheme_are_found(voc: Path) -> None:
    for name in "abc":
        (voc / f"SegmentationClassAug/{name}.png").rename(voc / f"SegmentationClassAug/{name}_mask.png")
    for settings in ({}, {"mask_pattern": "{id}_mask.png"}):
        masks = [record.mask and Path(record.mask).name for record in train(voc, **settings).records]
        assert masks == ["a_mask.png", "b_mask.png", "c_mask.png"]


def test_masks_of_no_image_are_refused(voc: Path) -> None:
    for name in "abc":
        (voc / f"SegmentationClassAug/{name}.png").rename(voc / f"SegmentationClassAug/other{name}.png")
    with pytest.raises(RequestError, match=r"SegmentationClassAug.*dataset\.mask_pattern"):
        train(voc)


def test_vocs_own_classes_are_the_default(voc: Path) -> None:
    assert source(voc).classes == CLASSES
