"""COCO 2014, and anything in its layout: folders of images, and the instances of each split as JSON.

Ground truth is painted from the instances as `pycocotools` decodes them: crowds first, as undefined, then the objects
from the largest to the smallest, so that smaller ones lie over larger ones. Or it is read from PNGs of others.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from amn_ray.data.image_files import image_ids, locate
from amn_ray.data.images import decode_mask
from amn_ray.data.instances import Instances, Key, Size, is_background, read_instances
from amn_ray.data.segmentations import has_outline, paint
from amn_ray.data.source import IGNORE, DatasetConfig, Listing, Record, checked, existing, label_of
from amn_ray.errors import RequestError

NUMBERINGS = ("labels", "category_ids")
PLACES = ("annotations/instances_{}.json", "annotations/{}.json", "{}/_annotations.coco.json", "{}.json")
"""Where a split's instances are looked for: COCO, CVAT and mmdetection, Roboflow, one's own."""


@dataclass(kw_only=True)
class CocoConfig(DatasetConfig):
    """`classes: null` takes all categories of the training annotations, in the order of their ids (COCO: 80)."""

    root: str | None = None
    """The folder that holds `annotations/` and the folders of images."""
    allow_unlabelled: bool = True
    train: str = "train2014"
    """Folder of the training images; their instances are annotations/instances_<train>.json (or see `annotations`)."""
    val: str | None = "val2014"
    """The same of the images that the segmentation network is measured on; null = there are none."""
    annotations: str | None = None
    """The file of instances below `root`, * = `train` or `val`; null looks where COCO, CVAT and Roboflow put it."""
    masks: str | None = None
    """Folder of ready-made masks <image name>.png (absolute, or below `root`); null paints the instances."""
    mask_values: str | None = "labels"
    """What the pixels of ready-made masks hold: labels (1…N in the order of the category ids) or category_ids."""

    readings: ClassVar[tuple[str, ...]] = NUMBERINGS


class Coco:
    """An image's labels are the categories of all its objects, crowds included: the class is to be seen there."""

    def __init__(self, config: CocoConfig) -> None:
        if not config.root:
            raise RequestError(
                "dataset.root is not set: expected the folder that holds annotations/ and train2014/; set "
                "dataset.root=/path/to/coco"
            )
        self.config = config
        root = Path(config.root)
        self.root = existing(root, "the COCO folder", "correct dataset.root")

    @cached_property
    def categories(self) -> dict[Key, str]:
        """The training set's categories by id, in this order. Small, unlike the annotations they are read from."""
        return self._instances(self.config.train).categories

    @cached_property
    def _groups(self) -> set[str]:
        return self._instances(self.config.train).group_only

    @property
    def _names(self) -> list[str]:
        """Of all classes that can be chosen, in the order of the category ids."""
        names = dict.fromkeys(self.categories.values())
        return [name for name in names if not is_background(name)]

    @property
    def classes(self) -> list[str]:
        """See Source."""
        path = self._file(self.config.train)
        wrong = [name for name in self.config.classes or () if name not in self._names]
        if wrong and is_background(wrong[0]):
            raise RequestError(f"dataset.classes: {wrong[0]!r} is label 0 in every data set; leave it out")
        if wrong:
            raise RequestError(f"dataset.classes: {wrong[0]!r} is not a category; choose from {', '.join(self._names)}")
        chosen = self.config.classes or [name for name in self._names if name not in self._groups]
        if not chosen:
            raise RequestError(f"{path}: `categories` has no name but {', '.join(self.categories.values())}")
        if len(chosen) >= IGNORE:
            raise RequestError(
                f"{path}: lists {len(chosen)} categories, but masks hold up to {IGNORE - 1}; choose some by "
                "dataset.classes"
            )
        return chosen

    def listing(self, split: str) -> Listing:
        """See Source; every image of the split is listed, also one that no annotation mentions (K = 0)."""
        folder = self.config.train if split == "train" else self.config.val
        if folder is None:
            return Listing([])
        instances = self._instances(folder)
        path = instances.path
        names = self._matched(instances)
        value = {number: self._value(name) for number, name in names.items()}
        if self.config.masks is not None:
            self._check_numbering(instances)
        places, warnings = self._located(list(instances.images), folder, path)
        ids = image_ids(places)
        records, boxed = [], []
        for name, place in places.items():
            objects = [(value[category], *rest) for category, *rest in instances.objects.get(name, [])]
            outlined = all(has_outline(segmentation) for label, _, segmentation in objects if label)
            if self.config.masks is None and not outlined:
                boxed.append(name)
            records.append(
                Record(
                    image_id=ids[name],
                    labels=tuple(sorted({label for label, *_ in objects} - {0, IGNORE})),
                    image=str(place),
                    mask=self._mask(ids[name], name) if self.config.masks is not None else "" if outlined else None,
                    annotations=_painted(instances.images[name], objects)
                    if self.config.masks is None and outlined
                    else "",
                )
            )
        if boxed:
            warnings.append(
                f"{path}: {len(boxed)} of {len(records)} images have objects without an outline (only a box, fewer "
                f"than three points, or an empty segmentation; the first: {boxed[0]}): their labels count, but they "
                "are not scored; dataset.masks names masks that are"
            )
        unknown = Counter(
            names[category]
            for name in places
            for category, *_ in instances.objects.get(name, [])
            if names[category] not in self.categories.values()
        )
        labelled = split == "train" and not self.config.allow_unlabelled
        return Listing(
            checked(records, where=str(path), labelled=labelled),
            unknown,
            [*instances.warnings, *self._left_out(path, names.values()), *warnings],
        )

    def load(self, record: Record) -> tuple[bytes, np.ndarray | None]:
        """See Source."""
        image = Path(record.image).read_bytes()
        if record.mask is None:
            return image, None
        if record.annotations:
            content = json.loads(record.annotations)
            height, width = _checked_size(image, content["size"])
            return image, paint(height, width, content["objects"])
        official_HW = decode_mask(Path(record.mask).read_bytes())
        wrong = np.setdiff1d(official_HW, [0, IGNORE, *self._label_of_value])
        if wrong.size:
            raise ValueError(
                f"mask has the value {wrong[0]}, which dataset.mask_values={self.config.mask_values} does not know"
            )
        renumbered = np.full(256, IGNORE, np.uint8)
        renumbered[0] = 0
        for value, label in self._label_of_value.items():
            renumbered[int(value)] = label
        return image, renumbered[official_HW]

    def _value(self, name: str) -> int:
        """What the pixels of a category's objects become: its label, 0 for the background, 255 if not asked for."""
        return 0 if is_background(name) else self._label.get(name, IGNORE)

    def _matched(self, instances: Instances) -> dict[Key, str]:
        """The file's own categories by id, with the names that the training set has for them.

        Raises:
            RequestError: they have none in common.
        """
        folded: dict[str, list[str]] = {}
        for name in dict.fromkeys(self.categories.values()):
            folded.setdefault(name.casefold(), []).append(name)
        result = {}
        for number, name in instances.categories.items():
            others = folded.get(name.casefold(), [])
            result[number] = name if name in others or len(others) != 1 else others[0]
        ours = set(self.categories.values())
        if not ours & set(result.values()):
            raise RequestError(
                f"{instances.path}: none of its categories ({', '.join(sorted(result.values())[:5])}) is one of "
                f"{self._file(self.config.train)} ({', '.join(sorted(ours)[:5])}); give both the same names"
            )
        return result

    def _check_numbering(self, instances: Instances) -> None:
        """Whether it is clear what the pixels of ready-made masks hold."""
        strange = [n for n in self._label_of_value if not isinstance(n, int) or not 0 < n < IGNORE]
        strange = [n for n in strange if n != 0 or not is_background(self.categories.get(0, ""))]
        if strange:
            raise RequestError(
                f"dataset.mask_values={self.config.mask_values}: {strange[0]} is the number of a category, but pixels "
                f"hold 1 to {IGNORE - 1} (0 is background, {IGNORE} undefined); set dataset.masks=null to paint them"
            )
        if self._holds_labels and len(set(self.categories.values())) < len(self.categories):
            raise RequestError(
                f"{self._file(self.config.train)}: categories have the same name, so that dataset.mask_values=labels "
                "does not tell which label is which; set dataset.mask_values=category_ids, or dataset.masks=null"
            )
        theirs, number = self._matched(instances), {name: number for number, name in self.categories.items()}
        if not self._holds_labels and any(number.get(name, other) != other for other, name in theirs.items()):
            raise RequestError(
                f"{instances.path}: numbers its categories otherwise than {self._file(self.config.train)}, so that "
                "dataset.mask_values=category_ids could mean either; renumber the masks and set "
                "dataset.mask_values=labels, or dataset.masks=null"
            )

    def _left_out(self, path: Path, names: Iterable[str]) -> list[str]:
        """What is said of categories that are no classes."""
        warnings = [f"{path}: category {name!r} is label 0, the background" for name in names if is_background(name)]
        if self.config.classes is None and (groups := [name for name in names if name in self._groups]):
            warnings.append(
                f"{path}: category {groups[0]!r} has no object and is only the supercategory of others, so it is no "
                "class; dataset.classes can name it"
            )
        return warnings

    def _located(self, names: Sequence[str], folder: str, path: Path) -> tuple[dict[str, Path], list[str]]:
        """Where the images are, and what is to be said of it.

        Raises:
            RequestError: more of them are missing than `dataset.max_bad_fraction` allows.
        """
        bases = (self.root / folder, self.root, self.root / "images" / folder, self.root / "images")
        found, moved = locate(names, [base for base in bases if base.is_dir()])
        missing = [name for name in names if name not in found]
        warnings = []
        if moved:
            warnings.append(
                f"{path}: {len(moved)} images lie in another folder than `file_name` says, or are spelt otherwise; the "
                f"first: {moved[0]} is {found[moved[0]]}"
            )
        if missing:
            told = (
                f"{path}: {len(missing)} of {len(names)} images are missing; the first: "
                f"{self.root / folder / missing[0]} does not exist"
            )
            if len(missing) > self.config.max_bad_fraction * len(names):
                raise RequestError(
                    f"{told}; add them, correct dataset.root or the folder, or set dataset.max_bad_fraction to leave "
                    "out a share"
                )
            warnings.append(f"{told}; they are left out")
        return found, warnings

    @property
    def _label(self) -> dict[str, int]:
        return label_of(self.classes)

    @cached_property
    def _label_of_value(self) -> dict[Key, int]:
        """What a pixel of a ready-made mask holds -> our label; 255 where the class was not asked for."""
        if self._holds_labels:
            return {number: self._value(name) for number, name in enumerate(self._names, start=1)}
        return {number: self._value(name) for number, name in self.categories.items()}

    @property
    def _holds_labels(self) -> bool:
        return self.config.mask_values == "labels"

    def _mask(self, image_id: str, name: str) -> str:
        """The ready-made mask of an image: by its id, or in the same folders as the image."""
        folder = existing(self.root / str(self.config.masks), "the ready-made masks", "correct dataset.masks")
        nested = folder / f"{PurePosixPath(name).with_suffix('')}.png"
        return str(nested if nested.is_file() else folder / f"{image_id}.png")

    def _instances(self, folder: str) -> Instances:
        return read_instances(self._file(folder))

    def _file(self, folder: str) -> Path:
        """The instances of a split.

        Raises:
            RequestError: they are not there; what is there is named.
        """
        places = [self.config.annotations.replace("*", folder)] if self.config.annotations else PLACES
        paths = [self.root / place.format(folder) for place in places]
        for path in paths:
            if path.is_file():
                return path
        near = sorted({file for path in paths for file in path.parent.glob("*.json")})
        there = f"; there are {', '.join(str(file.relative_to(self.root)) for file in near[:5])}" if near else ""
        raise RequestError(
            f"{paths[0]}: not found, expected the instances{there}; correct dataset.root, or dataset.train and "
            "dataset.val (null: there is no val), or name the file by dataset.annotations"
        )


def _painted(size: Size, objects: Sequence[tuple[object, ...]]) -> str:
    return json.dumps({"size": list(size or ()), "objects": [entry for entry in objects if has_outline(entry[-1])]})


def _checked_size(image: bytes, stated: list[int]) -> tuple[int, int]:
    """The (height, width) to paint: the stated one, if the file has it or is turned by its EXIF tag, else the file's.

    Before anything is painted, since what is stated could fill the memory.
    """
    try:
        with Image.open(io.BytesIO(image)) as opened:
            width, height = opened.size
    except UnidentifiedImageError as error:
        raise OSError("is not an image of any format that Pillow reads") from error
    if not stated:
        return height, width
    if stated not in ([height, width], [width, height]):
        raise ValueError(
            f"is {width}x{height}, but {stated[1]}x{stated[0]} in the annotations (width x height): they belong to "
            "another version of it"
        )
    return stated[0], stated[1]
