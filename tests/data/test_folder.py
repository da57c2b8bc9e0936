"""A folder of one's own: labels.csv in every usual notation, images as tables name them, masks found and read."""

from __future__ import annotations

import csv
import io
import pickle
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from amn_ray.core.errors import RequestError
from amn_ray.data.folder import Folder, FolderConfig
from amn_ray.data.source import Listing

BOTH = {"0": ("cat",), "1": ("dog",), "2": ("cat", "dog"), "3": ("dog",)}


def picture(value: int | None = None) -> bytes:
    stream = io.BytesIO()
    pixels = np.zeros((4, 6, 3), np.uint8) if value is None else np.full((4, 6), value, np.uint8)
    if value is not None:
        pixels[0] = 0
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """`write(text, images, masks)` -> the folder."""

    def run(
        text: str | bytes, images: Sequence[str] = ("0.png", "1.png", "2.png", "3.png"), name: str = "labels.csv",
        masks: dict[str, int] | None = None,
    ) -> Path:  # fmt: skip
        files = {f"images/{image}": picture() for image in images}
        files |= {f"masks/{mask}": picture(value) for mask, value in (masks or {}).items()}
        for file, content in (files | {name: text.encode() if isinstance(text, str) else text}).items():
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_bytes(content)
        return tmp_path

    return run


def source(root: Path, **settings: Any) -> Folder:
    return Folder(FolderConfig(root=str(root), **settings))


def names(root: Path, split: str = "train", **settings: Any) -> dict[str, tuple[str, ...]]:
    """Image id -> the names of its classes."""
    found = source(root, **settings)
    return {
        record.image_id: tuple(found.classes[label - 1] for label in record.labels)
        for record in found.listing(split).records
    }


def told(root: Path, **settings: Any) -> str:
    return "\n".join(source(root, **settings).listing("train").warnings)


CELLS = [
    "cat,dog", '"cat,dog"', '"cat, dog"', "cat;dog", "cat ; dog", "cat|dog", "cat/dog", "cat + dog", "cat & dog",
    "\"['cat', 'dog']\"", "['cat', 'dog']", '["cat","dog"]', '"[""cat"", ""dog""]"', "[cat, dog]", "['cat' 'dog']",
    "{cat,dog}", '"(cat, dog)"', "'cat','dog'", '"cat\ndog"', "cat\tdog", "dog;cat;cat", "cat;dog;", '"cat,dog',
    "“cat”;“dog”", " cat ;\tdog ", "cat,dog,,", "cat，dog", "cat、dog", "cat；dog",
    "\"array(['cat', 'dog'], dtype=object)\"", "\"frozenset({'cat', 'dog'})\"", '"{""choices"":[""cat"",""dog""]}"',
]  # fmt: skip


@pytest.mark.parametrize("cell", CELLS)
def test_several_labels_in_a_cell_are_read_in_any_usual_notation(write: Any, cell: str) -> None:
    root = write(f"image,labels\n0.png,cat\n1.png,dog\n2.png,{cell}\n3.png,dog\n")
    assert source(root).classes == ["cat", "dog"]
    assert names(root) == BOTH


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    "header",
    [
        "image,labels,split",
        "Image, Labels , Split",
        '"image","labels","split"',
        "filename,label,SET",
        "File Name,Class,subset",
    ],
)
def test_columns_are_found_whatever_separates_them_and_however_they_are_spelled(
    write: Any, sign: str, header: str
) -> None:
    rows = ["0.png,cat,train", "1.png,dog,Train", '2.png,"cat;dog", TRAINING', "3.png,dog,valid"]
    root = write("\n".join(line.replace(",", sign) for line in [header, *rows, "", sign * 2]) + "\n")
    assert names(root) == {name: BOTH[name] for name in "012"}
    assert names(root, "val") == {"3": ("dog",)}


def test_a_table_may_begin_with_what_spreadsheets_put_there(write: Any) -> None:
    rows = "0.png;cat\n1.png;dog\n2.png;cat,dog\n3.png;dog\n"
    assert names(write(f"sep=;\nimage;labels\n{rows}")) == BOTH
    assert names(write(f"\n# made by hand\n;;\nimage;labels;;\n{rows}")) == BOTH
    assert names(write('"image,labels"\n"0.png,cat"\n"1.png,dog"\n"2.png,cat;dog"\n"3.png,dog"\n')) == BOTH
    assert names(write(",image,labels\n0,0.png,cat\n1,1.png,dog\n2,2.png,cat;dog\n3,3.png,dog\n")) == BOTH


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_tables_of_any_usual_encoding_are_read(write: Any, encoding: str, ending: str) -> None:
    text = "image,labels\n0.png,Würfel\n1.png,Öse\n2.png,Würfel;Öse\n"
    root = write(text.replace("\n", ending).encode(encoding))
    assert names(root) == {"0": ("Würfel",), "1": ("Öse",), "2": ("Würfel", "Öse")}
    assert source(root).classes == ["Würfel", "Öse"]


@pytest.mark.parametrize("name", ["Labels.CSV", "labels.tsv", "labels.txt"])
def test_the_table_may_have_another_ending(write: Any, name: str) -> None:
    assert names(write("image\tlabels\n0.png\tcat\n", name=name)) == {"0": ("cat",)}


def test_a_quote_left_open_swallows_no_lines(write: Any) -> None:
    root = write('image,labels\n0.png,"cat\n1.png,dog\n2.png,cat;dog\n3.png,dog"\n')
    assert list(names(root)) == ["0", "1", "2", "3"]
    assert source(root).classes == ["cat", "dog"]
    assert "line 2 opens a quote" in told(root)


def test_commas_without_quotes_before_the_split_are_read_where_the_line_fits_in_one_way_only(write: Any) -> None:
    root = write("image,labels,split\n0.png,cat,train\n1.png,cat,dog,train\n2.png,dog,val\n")
    assert names(root) == {"0": ("cat",), "1": ("cat", "dog")}
    root = write("image,labels,split\n0.png,cat,train\n1.png,cat,dog\n2.png,dog,val\n")
    with pytest.raises(RequestError, match=r"split 'dog' of image 1.png \(line 3\), expected train or val"):
        names(root)
    root = write("image,labels,split,size\n0.png,cat,train,3\n1.png,cat,dog,train,4\n")
    with pytest.raises(RequestError, match=r"line 3 has 5 fields, the header 4.*dataset.separator"):
        names(root)


def test_a_row_for_each_label_and_doubled_rows_are_one_image(write: Any) -> None:
    root = write("image,labels\n0.png,cat\n1.png,dog\n2.png,cat\n2.png,dog\n2.png,cat\n3.png,dog\n")
    assert names(root) == BOTH
    assert "6 lines name 4 images" in told(root)
    root = write("image,labels,split\n0.png,cat,train\n0.png,cat,val\n")
    with pytest.raises(RequestError, match=r"split train \(line 2\) and in val \(line 3\)"):
        names(root)


def test_a_column_of_0_and_1_for_each_class_is_read(write: Any) -> None:
    root = write("image,split,cat,dog\n0.png,train,1,0\n1.png,train,0,1\n2.png,train,1.0,1.0\n3.png,train,,1\n")
    assert names(root) == BOTH
    root = write("image,background,cat,dog\n0.png,0,1,0\n1.png,1,0,0\n2.png,0,1,1\n3.png,0,0,1\n")
    assert names(root) == BOTH | {"1": ()}
    root = write("image,cat,dog\n0.png,0.7,0.3\n")
    with pytest.raises(RequestError, match=r"no column 'labels'; its columns are image, cat, dog.*line 2 has '0.7'"):
        names(root)


def test_columns_of_classes_in_another_order_than_the_alphabet_are_asked_about_if_there_are_masks(write: Any) -> None:
    text = "image,dog,cat\n0.png,1,0\n1.png,0,1\n"
    root = write(text, masks={"0.png": 1})
    with pytest.raises(RequestError, match=r"set dataset.classes=\[dog,cat\]"):
        names(root)
    assert source(root, classes=["dog", "cat"]).listing("train").records[0].labels == (1,)


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ("picture,labels", r"has no column 'image'; its first line has 'picture', 'labels', expected image, labels"),
        ("0.png,cat", r"has no column 'image'.*'0.png', 'cat'"),
        ("image,weight", "no column 'labels'; its columns are image, weight"),
        ("file,path,labels", "several columns may be 'image': file, path"),
        ("image,labels,Labels", "several columns may be 'labels'"),
        ("", "is empty|has no column"),
    ],
)
def test_a_header_without_the_columns_is_refused_with_what_it_has(write: Any, header: str, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        names(write(f"{header}\n0.png,cat\n" if header else ""))


def test_columns_that_are_not_read_are_told(write: Any) -> None:
    root = write("image,labels,is_valid\n0.png,cat,True\n")
    assert "image, labels are read, and is_valid are not" in told(root)
    assert "named split" in told(root)


def test_a_split_that_is_open_is_refused(write: Any) -> None:
    root = write("image,labels,split\n0.png,cat,train\n1.png,dog,\n")
    with pytest.raises(RequestError, match=r"line 3 has no split for image 1.png"):
        names(root)
    assert len(names(write("image,labels,split\n0.png,cat,\n1.png,dog,\n"))) == 2
    with pytest.raises(RequestError, match=r"split 'test' of image 1.png \(line 3\)"):
        names(write("image,labels,split\n0.png,cat,train\n1.png,dog,test\n"))
    root = write("image,labels,split\n0.png,cat,train\n1.png,cat,val\n2.png,cat,test\n")
    assert list(names(root)) == ["0"]
    assert "1 images of split test are not read" in told(root)


@pytest.mark.parametrize("cell", ["cat dog", "cat/bird"])
def test_what_may_be_one_class_or_several_is_asked_and_the_answer_taken(write: Any, cell: str) -> None:
    root = write(f"image,labels\n0.png,cat\n1.png,dog\n2.png,{cell}\n")
    with pytest.raises(RequestError, match=rf"line 4 has the labels '{cell}'.*dataset.separator.*dataset.classes"):
        names(root)
    sign = cell.strip("abcdefghijklmnopqrstuvwxyz")
    assert names(root, separator=sign)["2"] == tuple(sorted(cell.split(sign)))
    assert names(root, separator=";")["2"] == (cell,)
    assert names(root, classes=["cat", "dog", cell])["2"] == (cell,)


@pytest.mark.parametrize("sign", [":", "-", "_", "#", "~", "\\", ".", " > ", " and "])
def test_signs_that_are_in_names_are_asked_about_where_both_sides_are_classes(write: Any, sign: str) -> None:
    root = write(f"image,labels\n0.png,cat\n1.png,traffic light\n2.png,cat{sign}traffic light\n")
    with pytest.raises(RequestError, match=r"line 4 has the labels 'cat.*dataset.separator=.*dataset.classes") as error:
        names(root)
    answer = str(error.value).split("dataset.separator='")[1].split("' if")[0].replace("\\\\", "\\")
    assert names(root, separator=answer)["2"] == ("cat", "traffic light")
    assert names(root, separator=";")["2"] == (f"cat{sign}traffic light",)


@pytest.mark.parametrize("cells", [("[1, 0, 1]", "[0, 1, 1]"), ("1 0 1", "0 0 1"), ("1;0", "0;1"), ("(1., 0.)",) * 2])
def test_vectors_of_0_and_1_are_no_names(write: Any, cells: tuple[str, str]) -> None:
    root = write(f'image,labels\n0.png,"{cells[0]}"\n1.png,"{cells[1]}"\n')
    with pytest.raises(RequestError, match=r"\(line 2\) are a 0 or 1 for each class.*a column of its own"):
        names(root)


def test_objects_in_cells_are_no_names(write: Any) -> None:
    with pytest.raises(RequestError, match=r"line 3 has the labels .*expected names of classes.*dataset.separator"):
        names(write("image,labels\n0.png,cat\n1.png,\"{'cat': 0.9, 'dog': 0.1}\"\n"))


def test_a_table_separated_by_spaces_is_read_where_names_have_none(write: Any) -> None:
    assert names(write("image labels\n0.png cat\n1.png  dog\n2.png   cat;dog\n3.png dog\n")) == BOTH
    with pytest.raises(RequestError, match=r"labels.csv: image .*my does not exist \(line 2\)"):
        names(write("image labels\nmy photo.png cat\n", images=["my photo.png"]))


@pytest.mark.parametrize("note", ["x" * 200_000, '"' + "x," * 100_000 + '"'])
def test_a_column_may_hold_very_much(write: Any, note: str) -> None:
    assert names(write(f"image,labels,note\n0.png,cat,{note}\n1.png,dog,y\n"))["0"] == ("cat",)


@pytest.mark.parametrize(
    "name", ["traffic light", "C++", "R&D", "and/or", "bolt (M3)", 'monitor 15"', "don't", "T-shirt"]
)
def test_signs_in_names_stay(write: Any, name: str) -> None:
    assert names(write(f"image,labels\n0.png,{name}\n1.png,dog;{name}\n"))["1"] in ((name, "dog"), ("dog", name))


def test_a_comma_that_no_other_cell_explains_is_told(write: Any) -> None:
    root = write('image,labels\n0.png,"nut, hex"\n1.png,bolt\n')
    assert names(root)["0"] == ("hex", "nut")
    assert "labels 'nut, hex' (line 2) are read as 2 classes; set dataset.separator=';'" in told(root)
    assert names(root, separator=";")["0"] == ("nut, hex",)
    assert names(root, classes=["nut, hex", "bolt"])["0"] == ("nut, hex",)


def test_spellings_of_one_name_are_one_class_and_told(write: Any) -> None:
    root = write("image,labels\n0.png,cat\n1.png,Cat;Wu\u0308rfel\n2.png,cat ;W\u00fcrfel\n")
    assert source(root).classes == ["W\u00fcrfel", "cat"]
    assert "'cat', 'Cat'" in told(root)
    assert names(root, classes=["CAT", "würfel"])["1"] == ("CAT", "würfel")
    assert source(write("image,labels\n0.png,T-shirt\n1.png,t_shirt\n2.png,T-shirt\n")).classes == ["T-shirt"]
    root = write("image,labels\n0.png,cat\n1.png,\u200ecat\n2.png,ca\u00adt;dog\n3.png,cat\n")
    assert source(root).classes == ["cat", "dog"]
    root = write("image,labels\n0.png,A\n1.png,a\n")
    with pytest.raises(RequestError, match=r"'A', 'a' differ in capitals only.*dataset.classes"):
        names(root)
    assert names(root, classes=["A", "a"]) == {"0": ("A",), "1": ("a",)}


@pytest.mark.parametrize("word", ["background", "Background", "__background__"])
def test_background_is_no_class_and_its_images_have_none(write: Any, word: str) -> None:
    root = write(f"image,labels\n0.png,cat\n1.png,{word}\n2.png,{word};cat\n")
    assert source(root).classes == ["cat"]
    assert names(root) == {"0": ("cat",), "1": (), "2": ("cat",)}
    assert "'background' is label 0" in told(root)
    assert names(root, classes=["cat"])["1"] == ()
    with pytest.raises(ValueError, match="background is label 0 already"):
        FolderConfig(classes=["background", "cat"])


@pytest.mark.parametrize("cell", ["", "nan", "None", "[]", "n/a", '""'])
def test_an_empty_cell_is_no_label(write: Any, cell: str) -> None:
    root = write(f"image,labels\n0.png,cat\n1.png,{cell}\n")
    with pytest.raises(RequestError, match=r"image '1' has no label of dataset.classes \(line 3\)"):
        names(root)
    assert names(root, allow_unlabelled=True) == {"0": ("cat",), "1": ()}


def test_classes_that_are_numbers_are_the_labels(write: Any) -> None:
    images = [f"{n}.png" for n in range(1, 13)]
    root = write("image,labels\n" + "".join(f"{n}.png,{n}\n" for n in range(1, 13)), images)
    assert [record.labels for record in source(root).listing("train").records] == [(n,) for n in range(1, 13)]
    root = write("image,labels\n1.png,1.0\n2.png,2.0\n3.png,1.0;5\n", images)
    assert source(root).classes == ["1", "2", "3", "4", "5"]
    assert source(root).listing("train").records[2].labels == (1, 5)
    root = write("image,labels\n1.png,1.00\n2.png,1e+01\n3.png,2.;3\n4.png,4;5;6\n", images)
    assert [record.labels for record in source(root).listing("train").records] == [(1,), (10,), (2, 3), (4, 5, 6)]


@pytest.mark.parametrize("numbers", [(0, 1, 2), (100, 200), (1, 255)])
def test_numbers_that_are_no_labels_are_asked_about(write: Any, numbers: tuple[int, ...]) -> None:
    root = write("image,labels\n" + "".join(f"{n}.png,{number}\n" for n, number in enumerate(numbers)))
    with pytest.raises(RequestError, match=r"classes are.*numbers.*dataset.classes"):
        names(root)
    listed = [str(number) for number in numbers]
    assert list(names(root, classes=listed).values()) == [(number,) for number in listed]
    if numbers[0] == 0:
        assert list(names(root, classes=listed[1:]).values()) == [(), ("1",), ("2",)]


@pytest.mark.parametrize(
    "written",
    ["a b.1.JPG", "a b.1.jpg", "a b.1", "images/a b.1.JPG", r"images\a b.1.JPG", "./a b.1.JPG",
     r"C:\data\images\a b.1.JPG",
     "/home/me/set/images/a b.1.JPG", '"a b.1.JPG"', " a b.1.JPG ", "A B.1.jpg", "'a b.1.JPG'"],
)  # fmt: skip
def test_images_are_found_as_tables_name_them(write: Any, written: str) -> None:
    assert names(write(f"image,labels\n{written},cat\n", ["a b.1.JPG", "a b.2.JPG"])) == {"a b.1": ("cat",)}


def test_names_in_another_unicode_form_or_no_utf_8_are_found(write: Any, tmp_path: Path) -> None:
    root = write("image,labels\nW\u00fcrfel.png,cat\nÖse.png,dog\n", ["Wu\u0308rfel.png"])
    with open(bytes(tmp_path / "images") + b"/\xd6se.png", "wb") as stream:
        stream.write(picture())
    assert names(root) == {"W\u00fcrfel": ("cat",), "Öse": ("dog",)}
    for record in source(root).listing("train").records:
        assert source(root).image(record) == picture()


def test_images_of_one_name_in_two_folders_keep_their_folder_in_the_id(write: Any) -> None:
    images = ["a/1.png", "b/1.png", "b/2.png"]
    root = write("image,labels\na/1.png,cat\nb/1.png,dog\n2.png,dog\n", images, masks={"a/1.png": 1, "b/1.png": 2})
    assert names(root) == {"a/1": ("cat",), "b/1": ("dog",), "b/2": ("dog",)}
    records = source(root).listing("train").records
    assert [Path(record.mask or "?").parts[-2:] for record in records[:2]] == [("a", "1.png"), ("b", "1.png")]
    with pytest.raises(RequestError, match=r"image 1.png \(line 2\) may be a/1.png or b/1.png"):
        names(write("image,labels\n1.png,cat\n", images))


def test_images_that_differ_in_their_ending_only_keep_it_in_the_id(write: Any) -> None:
    root = write("image,labels\n1.jpg,cat\n1.png,dog\n", ["1.jpg", "1.png"])
    assert names(root) == {"1.jpg": ("cat",), "1.png": ("dog",)}
    with pytest.raises(RequestError, match=r"image 1 \(line 2\) may be 1.(jpg|png) or 1.(png|jpg)"):
        names(write("image,labels\n1,cat\n", ["1.jpg", "1.png"]))


def test_an_image_that_is_not_there_is_named_with_its_line(write: Any) -> None:
    with pytest.raises(RequestError, match=r"images/9.png does not exist \(line 3\)"):
        names(write("image,labels\n0.png,cat\n9.png,dog\n"))


def test_images_that_no_line_names_are_counted(write: Any) -> None:
    lines = "image,labels,split\n0.png,cat,train\n1.png,dog,train\n"
    assert "2 images in it, such as 2.png, are named by no line" in told(write(lines))
    assert "named by no line" not in told(write(f"{lines}2.png,cat,val\n3.png,cat,test\n"))


def test_images_may_lie_beside_the_table(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,labels\n0.png,cat\n")
    (tmp_path / "0.png").write_bytes(picture())
    assert names(tmp_path) == {"0": ("cat",)}


def test_a_spreadsheet_in_place_of_the_table_is_named(write: Any) -> None:
    with pytest.raises(RequestError, match=r"has no labels.csv; save labels.xlsx as labels.csv"):
        source(write(b"PK\x03\x04", name="labels.xlsx"))


@pytest.mark.parametrize("scheme", ["{}.png", "{}.PNG", "{}_mask.png", "{}.png.png", "mask_{}.png"])
def test_masks_are_found_and_read(write: Any, scheme: str) -> None:
    rows = "".join(f"{n}.png,{('bolt', 'nut')[n % 2]}\n" for n in range(4))
    root = write("image,labels\n" + rows, masks={scheme.format(n): 1 + n % 2 for n in range(4)})
    found = source(root)
    for record in found.listing("train").records:
        assert np.unique(found.mask(record)).tolist() == [0, *record.labels]


def test_masks_of_which_none_belongs_to_an_image_are_refused(write: Any) -> None:
    root = write("image,labels\n0.png,cat\n", masks={"x.png": 1})
    with pytest.raises(RequestError, match=r"masks: holds 1 files, such as x.png.*dataset.mask_pattern"):
        names(root)


@pytest.mark.parametrize("folder", ["annotations", "SegmentationClass", "gt"])
def test_masks_in_a_folder_of_another_name_are_not_ignored_silently(write: Any, folder: str) -> None:
    root = write("image,labels\n0.png,cat\n", masks={"0.png": 1})
    (root / "masks").rename(root / folder)
    assert f"has no masks/, and {folder} is not read; if it holds masks" in told(root)
    (root / folder).rename(root / "Masks")
    assert source(root).listing("train").records[0].mask is not None


def test_masks_in_an_archive_or_behind_a_dead_link_are_not_ignored_silently(write: Any) -> None:
    root = write("image,labels\n0.png,cat\n")
    (root / "masks.zip").touch()
    assert "has no masks/, and masks.zip is not read" in told(root)
    (root / "masks").symlink_to("/no/such/disk")
    with pytest.raises(RequestError, match=r"/masks: is a link to /no/such/disk, which does not exist"):
        told(root)


def test_masks_beside_the_images_are_not_ignored_silently(write: Any) -> None:
    root = write("image,labels\n0.png,cat\n1.png,cat\n", ["0.png", "1.png", "0_mask.png", "1_mask.png", "other.png"])
    assert "2 files, such as 0_mask.png, are no images of labels.csv; move them to masks/" in told(root)
    with pytest.raises(RequestError, match=r"has no masks/, but dataset.mask_pattern=\{id\}_mask.png"):
        names(root, mask_pattern="{id}_mask.png")


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_what_a_program_writes_is_what_is_read(write: Any, sign: str, quoting: Any) -> None:
    draw = random.Random(f"{sign}{quoting}")
    every = ["cat", "traffic light", "C++", "R&D", "Würfel", '15" wheel', "x-ray", "d'or", "日本"]
    rows = {f"im {n}.v{n}.png": draw.sample(every, draw.randint(1, 4)) for n in range(40)}
    rows |= {f"one {n}.png": [name] for n, name in enumerate(every)}
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=sign, quoting=quoting)
    writer.writerow(["image", "labels"])
    for image, labels in rows.items():
        writer.writerow([image, draw.choice([";", "|", "; ", ","]).join(labels)])
    root = write(stream.getvalue(), list(rows))
    assert source(root).classes == sorted(every)
    assert names(root) == {Path(image).stem: tuple(sorted(labels)) for image, labels in rows.items()}


def test_the_rule_of_masks_travels_with_the_source_and_the_table_does_not(write: Any) -> None:
    root = write("image,labels\n0.png,crack\n1.png,crack\n", masks={"0.png": 255, "1.png": 255})
    found = source(root)
    listing: Listing = found.listing("train")
    assert "taken for the one class" in "\n".join(listing.warnings)
    (root / "labels.csv").unlink()
    sent = pickle.loads(pickle.dumps(found))
    assert "_entries" not in vars(sent)
    assert np.unique(sent.mask(listing.records[0])).tolist() == [0, 1]
    assert sent.classes == ["crack"]


def test_too_many_classes_are_told_as_what_they_may_be(write: Any) -> None:
    images = [f"{n}.png" for n in range(300)]
    root = write("image,labels\n" + "".join(f"{n}.png,thing {n}\n" for n in range(300)), images)
    with pytest.raises(RequestError, match=r"names 300 classes.*masks hold up to 254.*dataset.separator"):
        names(root)
