"""labels.csv as spreadsheets, editors and scripts write it: its columns found, its lines as fields.

Columns are separated by the sign by which the header has the columns that are needed. What is in a cell of labels is
the matter of label_lists.py.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from amn_ray.core.errors import RequestError
from amn_ray.data.text import same_name

csv.field_size_limit(2**31 - 1)  # some columns hold polygons or whole files; by default, 128 kB are an error
SIGNS = (",", ";", "\t", "|")
NAMES = {
    "image": ("image", "images", "imagename", "imagefile", "imagefilename", "imagepath", "imageid", "img", "imgname",
              "imgpath", "imgid", "file", "filename", "filepath", "path", "fname"),
    "labels": ("labels", "label", "class", "classes", "classname", "classnames", "category", "categories",
               "categoryname", "tags", "tag"),
    "split": ("split", "splits", "set", "subset", "partition", "phase"),
}  # fmt: skip
"""The names of each column without spaces, capitals and signs; the first is the one that wins."""
SPLITS = {
    "train": "train", "training": "train", "trn": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""How people write a split -> the split; images of `test` are no part of training or measuring here."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    line: int
    image: str
    labels: tuple[str, ...]
    """Cells, each with no, one or several class names; in a table of 0 and 1, names of columns."""
    split: str
    """train, val, test, or as it is written; empty where there is none."""


@dataclass
class Table:
    """What labels.csv says."""

    rows: list[Row] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    """The classes of a table of 0 and 1 in their order; else empty."""
    left_out: int = 0
    """Lines of the split test."""
    warnings: list[str] = field(default_factory=list)


def read_table(path: Path, text: str) -> Table:
    """The rows of a table with the columns image, labels and optionally split, or a column of 0 and 1 for each class.

    Raises:
        RequestError: a column is missing or there twice, or a line does not fit them.
    """
    lines = text.split("\n")
    if all(
        len(_split(line, ",") or ()) == 1 and re.fullmatch(r'"[^"]*[,;\t|].*"', line) for line in lines if line.strip()
    ):
        lines = ["".join(_split(line, ",") or ()) for line in lines]  # a spreadsheet has quoted whole lines
    start = next((n for n, line in enumerate(lines) if line.strip(" ,;\t|") and not line.startswith("#")), None)
    if start is None:
        raise RequestError(f"{path}: is empty, expected a line with image,labels and one for each image")
    told = re.fullmatch(r'"?sep=(.)"?\s*', lines[start], re.IGNORECASE)
    start += bool(told)
    header = lines[start] if start < len(lines) else ""
    sign = told[1] if told else _sign(header)
    names = [_plain(name) for name in _split(header, sign) or header.split(sign)]
    while names and not names[-1]:
        names.pop()
    table = Table()
    column = _columns(path, names)
    rows = list(_lines(path, lines, start + 1, sign, table.warnings))
    if "labels" in column:
        _labels_column(path, table, names, column, rows)
    else:
        _class_columns(path, table, names, column, rows)
    return table


def _labels_column(
    path: Path, table: Table, names: Sequence[str], column: dict[str, int], rows: Sequence[tuple[int, list[str]]]
) -> None:
    others = [name for place, name in enumerate(names) if place not in column.values() and name]
    others = [name for name in others if not re.fullmatch(r"unnamed.*|index|id|#", name, re.IGNORECASE)]
    if others:
        table.warnings.append(
            f"{path}: of its columns {', '.join(column)} are read, and {', '.join(others)} are not; a column that says "
            "which images to train on is named split"
        )
    for line, fields in rows:
        before, cells, after = _around_labels(path, line, fields, names, column)
        known = dict(enumerate([*before, "", *after]))
        image, split = (_plain(known.get(column.get(role, -1), "")) for role in ("image", "split"))
        _add(path, table, line, image, cells, split)
    _spread(path, table, "split" in column)


def _around_labels(
    path: Path, line: int, fields: Sequence[str], names: Sequence[str], column: dict[str, int]
) -> tuple[Sequence[str], tuple[str, ...], Sequence[str]]:
    """The fields before the labels, those of the labels, and those after them.

    A line has more fields than the header where commas between labels have no quotes. They are labels if no other
    column follows, or only the split, and the line ends with one.

    Raises:
        RequestError: there are more fields, and it is not clear of what.
    """
    place = column["labels"]
    fields = [*fields, *[""] * (len(names) - len(fields))]
    while len(fields) > len(names) and not fields[-1].strip():
        fields.pop()
    end = len(fields) - (len(names) - place - 1)
    clear = place == len(names) - 1 or (
        column.get("split") == len(names) - 1 == place + 1 and _plain(fields[-1]).casefold() in SPLITS
    )
    if len(fields) > len(names) and not clear:
        raise RequestError(
            f"{path}: line {line} has {len(fields)} fields, the header {len(names)}; put labels in quotes, or write "
            "another sign between them (dataset.separator)"
        )
    return fields[:place], tuple(fields[place:end]), fields[end:]


def _class_columns(
    path: Path, table: Table, names: Sequence[str], column: dict[str, int], rows: Sequence[tuple[int, list[str]]]
) -> None:
    """A table with a column for each class."""
    yes, no = {"1", "1.0", "true", "yes", "x"}, {"0", "0.0", "false", "no", ""}
    classes = {place: name for place, name in enumerate(names) if name and place not in column.values()}
    for line, fields in rows:
        fields = [*fields, *[""] * (len(names) - len(fields))]
        marks = {place: fields[place].strip().casefold() for place in classes}
        wrong = next((place for place, mark in marks.items() if mark not in yes | no), None)
        if wrong is not None or len(classes) < 2:
            raise RequestError(
                f"{path}: has no column 'labels'; its columns are {', '.join(names)}, expected image, labels and "
                "optionally split, or a column with 0 and 1 for each class"
                + (f" (line {line} has {fields[wrong]!r} under {classes[wrong]})" if wrong is not None else "")
            )
        present = tuple(classes[place] for place, mark in marks.items() if mark in yes)
        split = _plain(fields[column["split"]]) if "split" in column else ""
        _add(path, table, line, _plain(fields[column["image"]]), present, split)
    table.columns = list(classes.values())
    _spread(path, table, "split" in column)
    if not rows:
        raise RequestError(f"{path}: has no column 'labels'; its columns are {', '.join(names)}")


def _add(path: Path, table: Table, line: int, image: str, labels: tuple[str, ...], split: str) -> None:
    if not image:
        raise RequestError(f"{path}: line {line} names no image; fill the column image or remove the line")
    if split and split.casefold() not in SPLITS:
        raise RequestError(
            f"{path}: split {split!r} of image {image} (line {line}), expected train or val; a sign between labels "
            "that also separates columns needs quotes"
        )
    table.rows.append(Row(line, image, labels, SPLITS.get(split.casefold(), "")))


def _spread(path: Path, table: Table, has_split: bool) -> None:
    """What the column `split` leaves open."""
    splits = {row.split for row in table.rows}
    if has_split and "" in splits and splits != {""}:
        row = next(row for row in table.rows if not row.split)
        raise RequestError(f"{path}: line {row.line} has no split for image {row.image}; write train or val")
    if "test" in splits:
        row = next(row for row in table.rows if row.split == "test")
        count = sum(row.split == "test" for row in table.rows)
        if "val" not in splits:
            raise RequestError(
                f"{path}: split 'test' of image {row.image} (line {row.line}), expected train or val; write val for "
                "images that results are measured on, or remove the line"
            )
        table.warnings.append(f"{path}: {count} images of split test are not read, only train and val are")
        table.rows = [row for row in table.rows if row.split != "test"]
        table.left_out = count


def _sign(header: str) -> str:
    """The sign that makes the needed columns of the header; else the one that makes most."""

    def worth(sign: str) -> tuple[int, int]:
        keys = {_key(name) for name in _split(header, sign) or header.split(sign)}
        return sum(bool(keys & set(names)) for names in NAMES.values()), len(keys)

    return max(SIGNS, key=worth) if any(sign in header for sign in SIGNS) else " "


def _columns(path: Path, names: Sequence[str]) -> dict[str, int]:
    """The place of each column that there is.

    Raises:
        RequestError: image is missing, or a column is there twice.
    """
    keys = [_key(name) for name in names]
    column = {}
    for role, known in NAMES.items():
        places = [place for place, key in enumerate(keys) if key in known]
        exact = [place for place in places if keys[place] == known[0]]
        if len(exact or places) > 1:
            raise RequestError(
                f"{path}: several columns may be {role!r}: {', '.join(names[place] for place in exact or places)}; "
                f"name one of them {role} and the others otherwise"
            )
        if places:
            column[role] = (exact or places)[0]
    if "image" not in column:
        raise RequestError(
            f"{path}: has no column 'image'; its first line has {', '.join(map(repr, names))}, expected image, labels "
            "and optionally split; write these names into the first line"
        )
    return column


def _lines(
    path: Path, lines: Sequence[str], start: int, sign: str, warnings: list[str]
) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of each line that has any."""
    at, stray = start, []
    while at < len(lines):
        number, fields, next_at = at + 1, _split(lines[at], sign), at + 1
        if fields is None:  # a quote that this line does not close: the cell goes on, or the quote is left open
            end = _closing(lines, at, sign)
            if end is None:
                fields = [part.replace('"', "").strip() for part in lines[at].split(sign)]
                stray.append(number)
            else:
                fields, next_at = _split("\n".join(lines[at : end + 1]), sign) or [], end + 1
        at = next_at
        if any(part.strip() for part in fields):
            yield number, fields
    if stray:
        warnings.append(
            f"{path}: line {stray[0]} opens a quote that is not closed ({len(stray)} lines do), so the line was read "
            "without it"
        )


def _closing(lines: Sequence[str], at: int, sign: str) -> int | None:
    """The line that closes a cell of several lines; None if what follows looks like lines of the table."""
    for end in range(at + 1, len(lines)):
        inside, quote, _ = lines[end].partition('"')
        if sign in inside or not inside.strip():
            return None
        if quote:
            return end if _split("\n".join(lines[at : end + 1]), sign) is not None else None
    return None


def _split(line: str, sign: str) -> list[str] | None:
    """The fields of a line; None if a quote is left open."""

    def parse(strict: bool) -> list[str]:
        return next(csv.reader([line], delimiter=sign, skipinitialspace=sign != "\t", strict=strict), [])

    try:
        return parse(strict=True)
    except csv.Error as error:
        if "unexpected end" in str(error):
            return None
    return parse(strict=False)


def _plain(cell: str) -> str:
    """Without spaces and quotes around."""
    cell = same_name(cell).strip()
    while len(cell) > 1 and cell[0] in "\"'“”‘’`" and cell[-1] in "\"'“”‘’`":
        cell = cell[1:-1].strip()
    return cell


def _key(name: str) -> str:
    return re.sub(r"[\W_]+", "", _plain(name).casefold())
