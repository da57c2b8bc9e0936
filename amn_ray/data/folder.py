"""The user's own images: `images/`, `labels.csv` and, where there is ground truth, `masks/`.

labels.csv has a header and the columns `image` (file name in images/), `labels` (class names separated by ;) and
optionally `split` (train or val; without the column every image is in train). A mask has its image's name with
the ending .png, and the label values of `dataset.classes` (0 = background, 255 = undefined).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from amn_ray.data.images import decode_mask
from amn_ray.data.source import DatasetConfig, Listing, Record, checked, existing, label_of
from amn_ray.errors import RequestError

SPLITS = ("train", "val")


@dataclass(kw_only=True)
class FolderConfig(DatasetConfig):
    """`classes: null` takes the names that occur in labels.csv, in alphabetical order."""

    root: str | None = None
    """The folder that holds images/ and labels.csv."""


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
        self._table = existing(self.root / "labels.csv", "the image labels", "see README, Own data")

    @cached_property
    def classes(self) -> list[str]:
        """See Source."""
        found = self.config.classes or sorted({name for _, names, _ in self._rows() for name in names})
        if not found:
            raise RequestError(f"{self._table}: names no class at all; fill the column `labels`")
        return found

    def listing(self, split: str) -> Listing:
        """See Source; an image with a file in masks/ is evaluated."""
        label = label_of(self.classes)
        records = []
        for image, names, row_split in self._rows():
            wrong = [name for name in names if name not in label]
            if wrong:
                raise RequestError(
                    f"{self._table}: class {wrong[0]!r} of image {image} is not in dataset.classes={self.classes}; "
                    "correct the name or the list"
                )
            if row_split != split:
                continue
            mask = (self.root / "masks" / image).with_suffix(".png")
            records.append(
                Record(
                    image_id=Path(image).stem,
                    labels=tuple(sorted(label[name] for name in set(names))),
                    image=str(self.root / "images" / image),
                    mask=str(mask) if mask.is_file() else None,
                )
            )
        if split == "val" and not records:
            return Listing([])
        return Listing(
            checked(
                records,
                where=f"{self._table} (split {split})",
                labelled=split == "train" and not self.config.allow_unlabelled,
            )
        )

    def load(self, record: Record) -> tuple[bytes, np.ndarray | None]:
        """See Source."""
        mask = decode_mask(Path(record.mask).read_bytes()) if record.mask else None
        return Path(record.image).read_bytes(), mask

    def _rows(self) -> Iterator[tuple[str, list[str], str]]:
        """(image, class names, split) of every line."""
        try:
            yield from self._read()
        except (UnicodeDecodeError, csv.Error) as error:
            raise RequestError(f"{self._table}: cannot be read ({error}); save it as CSV in UTF-8") from error

    def _read(self) -> Iterator[tuple[str, list[str], str]]:
        with self._table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = {"image", "labels"} - set(reader.fieldnames or ())
            if missing:
                raise RequestError(f"{self._table}: has no column {sorted(missing)[0]!r}; see README, Own data")
            for row in reader:
                split = (row.get("split") or "train").strip()
                if split not in SPLITS:
                    raise RequestError(f"{self._table}: split {split!r} of image {row['image']}, expected train or val")
                yield row["image"], [name.strip() for name in (row["labels"] or "").split(";") if name.strip()], split
