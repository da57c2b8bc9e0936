"""The user's own images: `images/`, `labels.csv` and, where there is ground truth, `masks/`.

labels.csv has a header and the columns `image` (file name in images/), `labels` (class names) and optionally `split`
(train or val; without the column every image is in train); table.py and label_lists.py say in which forms. Masks are
named after their images (masks/files.py) and hold the labels of `dataset.classes` (0 = background, 255 = undefined),
or black and white, or colours (masks/decision.py). docs/data.md has all that is accepted.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from amn_ray.core.errors import RequestError
from amn_ray.data.class_names import BACKGROUND, is_background
from amn_ray.data.folder.label_lists import names_of
from amn_ray.data.folder.table import Row, Table, read_table
from amn_ray.data.masks import MaskRule, find_masks, mask_rule, masks_among, read_mask
from amn_ray.data.named_files import IMAGES, NamedFiles, image_ids
from amn_ray.data.source import IGNORE, DatasetConfig, Listing, Record, checked, existing, label_of
from amn_ray.data.text import read_text

TABLES = ("labels.csv", "labels.tsv", "labels.txt")
_MASKS = re.compile("mask|label|annot|segm|truth|target|^gt", re.IGNORECASE)
"""In names of folders that may hold masks."""
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
SHEETS = (".xlsx", ".xls", ".ods", ".numbers", ".json", ".parquet")


@dataclass(kw_only=True)
class FolderConfig(DatasetConfig):
    """`classes: null` takes the names that occur in labels.csv, in alphabetical order; whole numbers are the labels."""

    root: str | None = None
    """The folder that holds images/ and labels.csv."""
    separator: str | None = None
    """The sign between several labels in one cell of labels.csv; null finds it. (That between columns is always found.)
    With ';' a cell such as "nut, hex" is one name."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.separator == "":
            raise ValueError("separator='': must be a sign, such as ';'")
        if self.classes is not None and any(is_background(name) for name in self.classes):
            raise ValueError(f"classes={self.classes}: background is label 0 already; list the other classes only")


@dataclass(frozen=True)
class Entry:
    """An image of labels.csv."""

    image: str
    """Its file below images/."""
    image_id: str
    names: tuple[str, ...]
    """Of its classes, without background."""
    is_background: bool
    """It is labelled as background, so that no label is what its author meant."""
    split: str
    line: int
    missing: bool
    """There is no such file; told where its split is needed."""


class Folder:
    """Any classes, any image format that PIL reads."""

    def __init__(self, config: FolderConfig) -> None:
        if not config.root:
            raise RequestError(
                "dataset.root is not set: expected a folder with images/ and labels.csv; set dataset.root=/path"
            )
        self.config = config
        root = Path(config.root)
        self.root = existing(root, "a folder with images/ and labels.csv", "correct dataset.root")
        self._path = self._find_table()

    def __getstate__(self) -> dict[str, Any]:
        """Without what is listed: a source travels to workers."""
        listed = ("_table", "_names", "_files", "_entries", "_masks")
        return {name: value for name, value in vars(self).items() if name not in listed}

    @cached_property
    def classes(self) -> list[str]:
        """See Source."""
        if self.config.classes:
            return self.config.classes
        found = {name for row in self._names[0] for name in row if not is_background(name)}
        if not found:
            raise RequestError(f"{self._path}: names no class at all; fill the column `labels`")
        if len(found) >= IGNORE:
            raise RequestError(
                f"{self._path}: names {len(found)} classes, such as {', '.join(sorted(found)[:3])}, but masks hold up "
                f"to {IGNORE - 1}; set dataset.separator if several labels were taken for one, or dataset.classes"
            )
        order = self._numbered(found) if all(name.isdecimal() for name in found) else sorted(found)
        columns = [name for name in self._table.columns if name in found]
        if columns and columns != order and self._has_masks:
            raise RequestError(
                f"{self._path}: its columns are in the order {', '.join(columns)}, so masks may number classes like "
                f"this or by alphabet; set dataset.classes=[{','.join(columns)}] or another order"
            )
        return order

    def listing(self, split: str) -> Listing:
        """See Source; an image with a file in masks/ is evaluated."""
        label = label_of(self.classes)
        labelled = split == "train" and not self.config.allow_unlabelled
        masks, warnings = self._masks
        rule, doubts = self._rule_and_warnings  # of the whole set, whatever the split
        records = []
        for entry in self._entries:
            if entry.split != split:
                continue
            if entry.missing:
                raise RequestError(
                    f"{self._path}: image {self._images / entry.image} does not exist (line {entry.line}); remove its "
                    "line or add the file"
                )
            if labelled and not entry.names and not entry.is_background:
                raise RequestError(
                    f"{self._path}: image {entry.image_id!r} has no label of dataset.classes (line {entry.line}); "
                    "label it, remove it, or set dataset.allow_unlabelled=true to train on it as background"
                )
            mask = masks.get(entry.image)
            records.append(
                Record(
                    image_id=entry.image_id,
                    labels=tuple(sorted(label[name] for name in entry.names)),
                    image=str(self._images / entry.image),
                    mask=str(mask) if mask else None,
                )
            )
        if split == "val" and not records:
            return Listing([])
        listing = Listing(checked(records, where=f"{self._path} (split {split})", labelled=False))
        listing.reading["masks"] = str(rule)
        if split == "train":
            listing.warnings += [*self._warnings, *warnings, *doubts]
        return listing

    def image(self, record: Record) -> bytes:
        """See Source."""
        return Path(record.image).read_bytes()

    def mask(self, record: Record) -> np.ndarray:
        """See Source."""
        rule, _ = self._rule_and_warnings
        assert record.mask
        return read_mask(Path(record.mask).read_bytes(), rule, record.labels)

    # --- What labels.csv says ---

    def _find_table(self) -> Path:
        files = {path.name.casefold(): path for path in self.root.iterdir()} if self.root.is_dir() else {}
        for name in TABLES:
            if name in files:
                return files[name]
        other = next(
            (path for name, path in sorted(files.items()) if name.endswith(SHEETS) or name.endswith(".csv")), None
        )
        if other is not None:
            raise RequestError(
                f"{self.root}: has no labels.csv; save {other.name} as labels.csv, with the columns image, labels and "
                "optionally split"
            )
        return existing(self.root / TABLES[0], "the image labels", "see docs/data.md, Labels in a table")

    @cached_property
    def _table(self) -> Table:
        warnings: list[str] = []
        table = read_table(self._path, read_text(self._path, self.config.encoding, warnings))
        table.warnings[:0] = warnings
        return table

    @cached_property
    def _names(self) -> tuple[list[list[str]], list[str]]:
        rows = self._table.rows
        if self._table.columns and self.config.classes is None:
            return [list(row.labels) for row in rows], []
        names, warnings = names_of(self._path, rows, self.config.separator, self.config.classes)
        return [[_number(name) for name in row] for row in names] if self._numeric(names) else names, warnings

    def _numeric(self, names: Sequence[Sequence[str]]) -> bool:
        """Whether all classes are whole numbers, perhaps with the .0 that tables of floats give them."""
        found = {name for row in names for name in row if not is_background(name)}
        return self.config.classes is None and bool(found) and all(_number(name).isdecimal() for name in found)

    def _numbered(self, found: set[str]) -> list[str]:
        """Class n is label n, also where no image has the classes between."""
        numbers = sorted(map(int, found))
        if numbers[0] == 0:
            rest = ",".join(map(str, numbers[1:]))
            raise RequestError(
                f"{self._path}: classes are numbers from 0, but 0 is the background in masks; set "
                f"dataset.classes=[0,{rest}] if 0 is a class (label 1 in masks), or dataset.classes=[{rest}] if it is "
                "the background"
            )
        if numbers[-1] >= IGNORE or numbers[-1] > 2 * len(numbers):
            raise RequestError(
                f"{self._path}: classes are the numbers {', '.join(map(str, numbers[:8]))}, but labels are 1…N; set "
                "dataset.classes to the list of them in the order of the labels in masks"
            )
        return [str(number) for number in range(1, numbers[-1] + 1)]

    @cached_property
    def _entries(self) -> list[Entry]:
        """The images of the table, each once."""
        names, _ = self._names
        rows_of: dict[str, list[tuple[Row, list[str]]]] = defaultdict(list)
        for row, found in zip(self._table.rows, names, strict=True):
            rows_of[self._file_of(row) or row.image].append((row, found))
        ids = image_ids(rows_of)
        there = set(self._files.names)
        entries = []
        for image, rows in rows_of.items():
            first = rows[0][0]
            for row, _ in rows[1:]:
                if row.split != first.split:
                    raise RequestError(
                        f"{self._path}: image {image} is in split {first.split} (line {first.line}) and in {row.split} "
                        f"(line {row.line}); an image is in one split"
                    )
            found = list(dict.fromkeys(name for _, several in rows for name in several))
            entries.append(
                Entry(
                    image=image,
                    image_id=ids[image],
                    names=tuple(name for name in found if not is_background(name)),
                    is_background=any(is_background(name) for name in found),
                    split=first.split or "train",
                    line=first.line,
                    missing=image not in there,
                )
            )
        return entries

    @property
    def _warnings(self) -> list[str]:
        """What the table says in a way that may not be what its author meant."""
        entries = self._entries
        result = [*self._table.warnings, *self._names[1]]
        if len(self._table.rows) > len(entries):
            result.append(
                f"{self._path}: {len(self._table.rows)} lines name {len(entries)} images; an image has the labels of "
                "all its lines"
            )
        listed = {entry.image for entry in entries}
        others = {name for name in set(self._files.names) - listed if name.lower().endswith(IMAGES)}
        others -= set(masks_among(others, listed))
        if self._images != self.root and len(others) > self._table.left_out:
            result.append(
                f"{self._images}: {len(others) - self._table.left_out} images in it, such as {min(others)}, are named "
                f"by no line of {self._path.name}, so they are not read"
            )
        if any(entry.is_background for entry in entries):
            count = sum(entry.is_background for entry in entries)
            result.append(f"{self._path}: {BACKGROUND!r} is label 0 and no class of its own ({count} images name it)")
        count_of = Counter(name for entry in entries for name in entry.names)
        odd = [name for name in count_of if count_of[name] == 1 and set(name) & set(",/+&:")]
        if odd and self.config.classes is None and self.config.separator is None:
            result.append(
                f"{self._path}: {odd[0]!r} is read as one class, as are {', '.join(map(repr, self.classes[:12]))}; set "
                "dataset.separator if it is several"
            )
        return result

    # --- Files ---

    @cached_property
    def _images(self) -> Path:
        """images/, or the folder itself where images lie beside labels.csv."""
        folders = {path.name.casefold(): path for path in sorted(self.root.iterdir()) if path.is_dir()}
        return next((folders[name] for name in ("images", "image", "imgs", "img") if name in folders), self.root)

    @cached_property
    def _files(self) -> NamedFiles:
        return NamedFiles(self._images)

    def _file_of(self, row: Row) -> str | None:
        """The file below images/ that a line of the table names; None if there is none.

        Raises:
            RequestError: it may be several.
        """
        found = self._files.matches(row.image, moved=True) or self._files.matches_anywhere(row.image)
        if len(found) > 1:
            raise RequestError(
                f"{self._path}: image {row.image} (line {row.line}) may be {found[0]} or {found[1]} in {self._images}; "
                "write its whole name"
            )
        return found[0] if found else None

    @cached_property
    def _mask_folder(self) -> Path | None:
        folders = {path.name.casefold(): path for path in sorted(self.root.iterdir()) if path.is_dir()}
        return next((folders[name] for name in ("masks", "mask") if name in folders), None)

    @property
    def _has_masks(self) -> bool:
        return self._mask_folder is not None

    @cached_property
    def _masks(self) -> tuple[dict[str, Path], list[str]]:
        """The masks by image, and sentences for the user."""
        if self._mask_folder is not None:
            images = [entry.image for entry in self._entries]
            return find_masks(self._mask_folder, images, self.config.mask_pattern)
        if self.config.mask_pattern is not None:
            raise RequestError(
                f"{self.root}: has no masks/, but dataset.mask_pattern={self.config.mask_pattern} says how files in it "
                "are named; add the folder, or leave the setting out"
            )
        others = [path for path in sorted(self.root.iterdir()) if path != self._path and _MASKS.search(path.name)]
        gone = next((path for path in others if not path.exists()), None)
        if gone is not None:
            raise RequestError(f"{gone}: is a link to {os.readlink(gone)}, which does not exist; mend or remove it")
        others = [path for path in others if path.is_dir() or path.suffix.lower() in ARCHIVES]
        if others:
            return {}, [
                f"{self.root}: has no masks/, and {others[0].name} is not read; if it holds masks, make it a folder of "
                "the name masks"
            ]
        listed = {entry.image for entry in self._entries}
        beside = masks_among(set(self._files.names) - listed, listed)
        if beside:
            return {}, [
                f"{self._images}: {len(beside)} files, such as {beside[0]}, are no images of labels.csv; move them to "
                "masks/ if they are masks"
            ]
        return {}, []

    @cached_property
    def _rule_and_warnings(self) -> tuple[MaskRule, list[str]]:
        names = {label: name for name, label in label_of(self.classes).items()}
        return mask_rule(self._masks[0].values(), self.config, names)


def _number(name: str) -> str:
    """1, 01, 1.0 and 1e+00 are the number 1; other names stay as they are."""
    if re.fullmatch(r"\d+(\.\d*)?(e\+?\d{1,2})?", name, re.IGNORECASE) and float(name).is_integer():
        return str(int(float(name)))
    return name
