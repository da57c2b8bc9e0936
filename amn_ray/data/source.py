"""What every source of labelled images offers: records that are cheap to list, and their pixels on demand."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from amn_ray.core.checks import check_choice, check_positive
from amn_ray.core.errors import RequestError
from amn_ray.data.palette import check_colours, from_text
from amn_ray.data.pixels import Pixels
from amn_ray.data.text import check_encoding

IGNORE = 255
"""The label of undefined pixels, in ground truth, seeds and pseudo-masks alike (paper: 255, "undefined")."""


@dataclass(kw_only=True)
class DatasetConfig:
    """What all sources share; each source adds its own keys beside its code."""

    name: str = "?"
    """The data set's name in reports and MLflow."""
    classes: list[str] | None = None
    """Foreground class names in the order of their labels 1…N; null takes the source's own list."""
    allow_unlabelled: bool = False
    """Whether images may carry no label at all (K = 0): no map, an all-background seed."""
    max_bad_fraction: float = 0.0
    """The share of unreadable images, and of masks, that is left out and listed in the manifest; 0 stops at the first.
    An image whose mask is left out is trained on, but not scored."""
    exif: str = "apply"
    """`apply` turns photographs as their EXIF tag says; `ignore` takes the pixels as they lie in the file."""
    white: float | None = None
    """The value of white in images of more than 8 bits; null: 65535 for integers, 1.0 for floats."""
    max_side: int | None = None
    """Images are scaled down so that their longer side is at most this many pixels; null keeps their size."""
    encoding: str | None = None
    """Of text files (utf-8, utf-16, cp1252, …); null finds these three by itself."""
    mask_pattern: str | None = None
    """The file of an image's mask below the masks' folder, such as "{id}_mask.png" ({id}: the image's name without
    its ending, {name}: with it); null finds the scheme by itself."""
    mask_values: str | None = None
    """What the pixels of masks hold: `index` (labels), `binary` (white is the image's one class) or `colour` (VOC's
    colours, or `palette`); null: what the masks themselves show, if it is one thing only."""
    palette: Any = None
    """Colours of masks: {class name: colour, …} or a list of colours, background first. A colour is [red, green, blue],
    "#rrggbb", or a number (the value of a pixel). With mask_values=colour, other colours are undefined (blended edges);
    without, they are an error."""
    rows_per_shard: int = 64
    """Images in a Parquet shard of every table: the unit of parallel work, and what a crash can cost."""
    readings: ClassVar[tuple[str, ...]] = ("index", "binary", "colour")
    """What mask_values may be."""

    def __post_init__(self) -> None:
        check_choice(self, "exif", ("apply", "ignore"))
        check_encoding(self.encoding)
        if self.mask_values is not None:
            check_choice(self, "mask_values", self.readings)
        self.palette = from_text(self.palette)
        if self.palette is not None:
            check_colours(self.palette)
            if self.mask_values in ("index", "binary"):
                raise ValueError(f"palette={self.palette}: is of no use with mask_values={self.mask_values}; drop one")
        if self.mask_pattern is not None and "{id}" not in self.mask_pattern and "{name}" not in self.mask_pattern:
            raise ValueError(
                f'mask_pattern={self.mask_pattern}: must hold {{id}} or {{name}}, such as "{{id}}_mask.png"'
            )
        for name in ("white", "max_side"):
            if getattr(self, name) is not None:
                check_positive(self, name)
        if not 0 <= self.max_bad_fraction < 1:
            raise ValueError(f"max_bad_fraction={self.max_bad_fraction}: must be in [0, 1)")
        if self.rows_per_shard < 1:
            raise ValueError(f"rows_per_shard={self.rows_per_shard}: must be at least 1")
        if self.classes is not None:
            doubles = [name for name, count in Counter(self.classes).items() if count > 1]
            if doubles or not 1 <= len(self.classes) < IGNORE:
                raise ValueError(f"classes={self.classes}: must be 1 to 254 different names")

    @property
    def pixels(self) -> Pixels:
        """How the image files are to be read."""
        return Pixels(upright=self.exif == "apply", white=self.white, max_side=self.max_side)


@dataclass(frozen=True)
class Record:
    """One image as its source lists it; the pixels are read later, on a worker."""

    image_id: str
    labels: tuple[int, ...]
    """Labels 1…N of the classes in the image, sorted; empty if it has none (K = 0)."""
    image: str
    """Where the encoded image is (a path; empty for drawn images)."""
    mask: str | None = None
    """Where its ground truth is (a path; empty where the source draws it); None where it has none."""
    annotations: str = ""
    """What the ground truth is drawn from, if it is not in a file (COCO: JSON)."""
    image_digest: str = ""
    """Of the content of `image` (see digests.py); empty while it is not known."""
    mask_digest: str = ""
    """The same of `mask`."""
    evaluated: bool = True
    """Whether its mask counts in the scores; else only in those of all images that have masks."""


@dataclass
class Listing:
    """The records of one split, and what was noticed while listing them."""

    records: list[Record]
    unknown_classes: Counter[str] = field(default_factory=Counter)
    """Objects of classes that are not in the class list, by name: ignored, but not silently."""
    warnings: list[str] = field(default_factory=list)
    """Sentences for the user: what was read in a way that they may not expect."""
    reading: dict[str, Any] = field(default_factory=dict)
    """How files are to be read, where the source found it out and no setting says it (JSON): part of the identity."""


class Source(Protocol):
    """A data set. Listing is cheap and checks names; `image` and `mask` read files.

    Itself it is small, whatever it lists: it travels to workers.
    """

    @property
    def classes(self) -> list[str]:
        """Foreground class names in the order of their labels 1…N."""
        ...

    def listing(self, split: str) -> Listing:
        """The records of `train` or `val`, ordered.

        Raises:
            RequestError: a file, list or label is missing or wrong.
        """
        ...

    def image(self, record: Record) -> bytes:
        """The encoded image, as it is in its file.

        Raises:
            OSError: the file is unreadable.
        """
        ...

    def mask(self, record: Record) -> np.ndarray:
        """The ground truth of a record that has one: labels uint8 (H, W), as it is in its file.

        Raises:
            ValueError: it does not fit the class list, or the image.
            OSError: a file is unreadable.
        """
        ...


def checked(records: Iterable[Record], *, where: str, labelled: bool) -> list[Record]:
    """The records, if they form a usable split; with `labelled`, every image must have a label.

    Raises:
        RequestError: no image at all, an id twice or one that no file can be named after, an image without label that
            may not have none, a missing file.
    """
    result = [replace(record, image_id=_checked_id(record.image_id, where)) for record in records]
    if not result:
        raise RequestError(f"{where}: lists no image, expected at least one; check the list or choose another split")
    doubles = [name for name, count in Counter(record.image_id for record in result).items() if count > 1]
    if doubles:
        raise RequestError(f"{where}: image id {doubles[0]!r} occurs more than once; image ids must be unique")
    for record in result:
        if record.image and not Path(record.image).is_file():
            raise RequestError(f"{where}: image {record.image} does not exist; remove its line or add the file")
        if record.mask and not Path(record.mask).is_file():
            raise RequestError(f"{where}: mask {record.mask} does not exist; remove it from the split or add the file")
        if labelled and not record.labels:
            raise RequestError(
                f"{where}: image {record.image_id!r} has no label of dataset.classes; label it, remove it, or set "
                "dataset.allow_unlabelled=true to train on it as background"
            )
    return result


def _checked_id(image_id: str, where: str) -> str:
    """The id in its composed Unicode form; it is the name of a file, perhaps in folders, wherever masks are written."""
    try:
        image_id.encode()
    except UnicodeEncodeError as error:  # Python holds other bytes as surrogates
        shown = os.fsencode(image_id).decode(errors="backslashreplace")
        raise RequestError(f"{where}: image {shown} is not in UTF-8, as ids must be; rename the file") from error
    control = any(unicodedata.category(character) == "Cc" for character in image_id)
    if control or set(image_id.split("/")) & {"", ".", ".."}:
        raise RequestError(
            f"{where}: image id {image_id!r} cannot be the path of a mask below a folder; rename the image, without "
            "empty or dotted folders and control characters"
        )
    return unicodedata.normalize("NFC", image_id)


def existing(path: Path, what: str, remedy: str) -> Path:
    """`path`, if it is there.

    Raises:
        RequestError: it is not; `what` says what it should be and `remedy` what to do.
    """
    if not path.exists():
        raise RequestError(f"{path}: not found, expected {what}; {remedy}")
    return path


def label_of(classes: Sequence[str]) -> dict[str, int]:
    """Class name -> label 1…N."""
    return {name: label for label, name in enumerate(classes, start=1)}
