"""COCO 2014, and anything in its layout: folders of images, and the instances of each split as JSON.

Ground truth is painted from the instances as `pycocotools` decodes them: crowds first, as undefined, then the objects
from the largest to the smallest, so that smaller ones lie over larger ones. Or it is read from PNGs of others.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from amn_ray.data.images import decode_mask
from amn_ray.data.source import IGNORE, DatasetConfig, Listing, Record, checked, existing, label_of
from amn_ray.errors import RequestError

NUMBERINGS = ("labels", "category_ids")


@dataclass(kw_only=True)
class CocoConfig(DatasetConfig):
    """`classes: null` takes all categories of the training annotations, in the order of their ids (COCO: 80)."""

    root: str | None = None
    """The folder that holds `annotations/` and the folders of images."""
    allow_unlabelled: bool = True
    train: str = "train2014"
    """Folder of the training images; their instances are annotations/instances_<train>.json."""
    val: str | None = "val2014"
    """The same of the images that the segmentation network is measured on; null = there are none."""
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
    def categories(self) -> dict[int, str]:
        """The official classes by category id, in this order. Small, unlike the annotations they are read from."""
        path = self._annotations(self.config.train)
        found = {number: name for number, name in _rows(path, "categories", id=int, name=str)}
        doubles = [name for name, count in Counter(found.values()).items() if count > 1]
        if not found or doubles:
            raise RequestError(f"{path}: `categories` must be one or more different names, {doubles or 'none'} found")
        return dict(sorted(found.items()))

    @property
    def classes(self) -> list[str]:
        """See Source."""
        names = list(self.categories.values())
        unknown = [name for name in self.config.classes or () if name not in names]
        if unknown:
            raise RequestError(f"dataset.classes: {unknown[0]!r} is not a category; choose from {', '.join(names)}")
        chosen = self.config.classes or names
        if len(chosen) >= IGNORE:
            raise RequestError(
                f"{self._annotations(self.config.train)}: lists {len(chosen)} categories, but masks hold up "
                f"to {IGNORE - 1}; choose some by dataset.classes"
            )
        return chosen

    def listing(self, split: str) -> Listing:
        """See Source; every image of the split is listed, also one that no annotation mentions (K = 0)."""
        folder = self.config.train if split == "train" else self.config.val
        if folder is None:
            return Listing([])
        path = self._annotations(folder)
        if self.config.masks is not None and (strange := [n for n in self._label_of_value if not 0 < n < IGNORE]):
            raise RequestError(
                f"dataset.mask_values={self.config.mask_values}: {strange[0]} is the number of a category, but pixels "
                f"hold 1 to {IGNORE - 1} (0 is background, {IGNORE} undefined); set dataset.masks=null to paint them"
            )
        label = {number: self._label.get(name, IGNORE) for number, name in self.categories.items()}
        objects = defaultdict(list)
        columns = {"image_id": int, "category_id": int, "iscrowd": int, "segmentation": object}
        for image, category, crowd, segmentation in _rows(path, "annotations", **columns):
            if category not in label:
                raise RequestError(
                    f"{path}: an annotation has category_id {category}, which `categories` does not list"
                )
            objects[image].append((label[category], crowd, segmentation))
        records = []
        for image, name, height, width in _rows(path, "images", id=int, file_name=str, height=int, width=int):
            found = objects.pop(image, [])
            painted = json.dumps({"size": [height, width], "objects": found}) if self.config.masks is None else ""
            records.append(
                Record(
                    image_id=Path(name).stem,
                    labels=tuple(sorted({label for label, _, _ in found} - {IGNORE})),
                    image=str(self.root / folder / name),
                    mask="" if painted else str(self._masks / f"{Path(name).stem}.png"),
                    annotations=painted,
                )
            )
        if objects:
            raise RequestError(
                f"{path}: an annotation has image_id {next(iter(objects))}, which `images` does not list"
            )
        labelled = split == "train" and not self.config.allow_unlabelled
        return Listing(checked(records, where=str(path), labelled=labelled))

    def load(self, record: Record) -> tuple[bytes, np.ndarray | None]:
        """See Source."""
        image = Path(record.image).read_bytes()
        if record.annotations:
            content = json.loads(record.annotations)
            height, width = content["size"]
            return image, paint(height, width, content["objects"])
        official_HW = decode_mask(Path(record.mask or "").read_bytes())
        wrong = np.setdiff1d(official_HW, [0, IGNORE, *self._label_of_value])
        if wrong.size:
            raise ValueError(
                f"mask has the value {wrong[0]}, which dataset.mask_values={self.config.mask_values} does not know"
            )
        renumbered = np.full(256, IGNORE, np.uint8)
        renumbered[0] = 0
        for value, label in self._label_of_value.items():
            renumbered[value] = label
        return image, renumbered[official_HW]

    @property
    def _label(self) -> dict[str, int]:
        return label_of(self.classes)

    @cached_property
    def _label_of_value(self) -> dict[int, int]:
        """What a pixel of a ready-made mask holds -> our label; 255 where the class was not asked for."""
        numbered = enumerate(self.categories.values(), start=1) if self._holds_labels else self.categories.items()
        return {number: self._label.get(name, IGNORE) for number, name in numbered}

    @property
    def _holds_labels(self) -> bool:
        return self.config.mask_values == "labels"

    @property
    def _masks(self) -> Path:
        return existing(self.root / str(self.config.masks), "the ready-made masks", "correct dataset.masks")

    def _annotations(self, folder: str) -> Path:
        path = self.root / "annotations" / f"instances_{folder}.json"
        return existing(path, "the instances", "correct dataset.root, or dataset.train and dataset.val")


def paint(height: int, width: int, objects: Sequence[tuple[int, int, Any]]) -> np.ndarray:
    """Instances -> label values uint8 (height, width).

    Args:
        height: in pixels.
        width: in pixels.
        objects: (label, is a crowd, segmentation: polygons or a run-length encoding as in COCO's files).

    Raises:
        ValueError: a segmentation is none, or does not fit the size.
    """
    from pycocotools import mask as coco_mask  # where masks are painted only

    encoded = []
    for label, crowd, segmentation in objects:
        try:
            if isinstance(segmentation, list):
                code = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
            elif isinstance(segmentation["counts"], list):
                if sum(segmentation["counts"]) != height * width:  # pycocotools would read beyond its end
                    raise ValueError(f"its run lengths do not add up to {height} × {width}")
                code = coco_mask.frPyObjects(segmentation, height, width)
            else:
                code = segmentation
            object_HW = coco_mask.decode(code).astype(bool)
        except Exception as error:  # pycocotools raises bare ones
            raise ValueError(f"an object has a segmentation that cannot be decoded ({error})") from error
        if object_HW.shape != (height, width):
            raise ValueError(f"an object's mask is {object_HW.shape}, expected {(height, width)}")
        encoded.append((bool(crowd), int(object_HW.sum()), IGNORE if crowd else label, object_HW))
    mask_HW = np.zeros((height, width), np.uint8)
    for _, _, value, object_HW in sorted(encoded, key=lambda item: (not item[0], -item[1])):
        mask_HW[object_HW] = value
    return mask_HW


def _rows(path: Path, table: str, **columns: Callable[[Any], Any]) -> Iterator[list[Any]]:
    """The values of some keys of each entry of a list in a COCO file.

    Raises:
        RequestError: the file is no JSON, or a key is missing or of another type.
    """
    for number, entry in enumerate(_parsed(path).get(table) or []):
        try:
            entry = {"iscrowd": 0} | entry  # others' exports leave it out
            yield [entry[name] if kind is object else kind(entry[name]) for name, kind in columns.items()]
        except (KeyError, TypeError, ValueError) as error:
            raise RequestError(
                f"{path}: entry {number} of `{table}` needs {', '.join(columns)} ({error!r}); restore the file"
            ) from error


@lru_cache(maxsize=1)
def _parsed(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise RequestError(f"{path}: is not valid JSON ({error}); restore the file") from error
    if not isinstance(content, dict):
        raise RequestError(f"{path}: holds a {type(content).__name__}, expected an object with images and annotations")
    return content
