"""PASCAL VOC 2012 and anything in its layout (JPEGImages, Annotations, ImageSets/Segmentation, masks)."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amn_ray.data.images import decode_mask
from amn_ray.data.source import IGNORE, DatasetConfig, Listing, Record, checked, existing, label_of
from amn_ray.errors import RequestError

CLASSES = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]  # fmt: skip
MASK_FOLDERS = ("SegmentationClassAug", "SegmentationClass")


@dataclass(kw_only=True)
class VocConfig(DatasetConfig):
    """Lists are names of files in ImageSets/Segmentation, without their ending."""

    root: str | None = None
    """The folder that holds JPEGImages (usually …/VOCdevkit/VOC2012)."""
    train_list: str = "train_aug"
    """The images to train on (paper: 10,582)."""
    evaluate_list: str = "train"
    """Those of them whose pseudo-masks are measured (paper: the 1,464 of train)."""
    val_list: str = "val"
    """The images that the segmentation network is measured on."""


class Voc:
    """Image-level labels come from the object names in Annotations/*.xml, never from the masks."""

    def __init__(self, config: VocConfig) -> None:
        if not config.root:
            raise RequestError(
                "dataset.root is not set: expected the folder that holds JPEGImages; set dataset.root=/path/to/VOC2012"
            )
        self.config = config
        root = Path(config.root)
        self.root = existing(root, "the VOC folder", "correct dataset.root")
        self.classes = config.classes or CLASSES
        unknown = [name for name in self.classes if name not in CLASSES]
        if unknown:
            raise RequestError(f"dataset.classes: {unknown[0]!r} is not a VOC class; choose from {', '.join(CLASSES)}")
        self._label = label_of(self.classes)
        # Masks always carry the official numbering; classes that were not asked for become undefined.
        self._from_official = np.full(256, IGNORE, np.uint8)
        self._from_official[0] = 0
        for official, name in enumerate(CLASSES, start=1):
            self._from_official[official] = self._label.get(name, IGNORE)

    def listing(self, split: str) -> Listing:
        """The records of `train` (masks for `evaluate_list` only) or `val`; see Source."""
        names = self._names(self.config.train_list if split == "train" else self.config.val_list)
        evaluated = set(self._names(self.config.evaluate_list)) if split == "train" else set(names)
        if not evaluated <= set(names):
            raise RequestError(
                f"dataset.evaluate_list={self.config.evaluate_list}: {sorted(evaluated - set(names))[0]!r} is not in "
                f"dataset.train_list={self.config.train_list}; pseudo-masks are measured on images that have one"
            )
        masks = self._mask_folder() if evaluated else None
        unknown: Counter[str] = Counter()
        records = []
        for name in names:
            labels = {self._label.get(found) for found in self._objects(name, unknown)} - {None}
            records.append(
                Record(
                    image_id=name,
                    labels=tuple(sorted(label for label in labels if label is not None)),
                    image=str(self.root / "JPEGImages" / f"{name}.jpg"),
                    mask=str(masks / f"{name}.png") if masks and name in evaluated else None,
                )
            )
        where = f"{self._list_file(self.config.train_list if split == 'train' else self.config.val_list)}"
        labelled = split == "train" and not self.config.allow_unlabelled
        return Listing(checked(records, where=where, labelled=labelled), unknown)

    def load(self, record: Record) -> tuple[bytes, np.ndarray | None]:
        """See Source; mask values are renumbered to `classes`."""
        image = Path(record.image).read_bytes()
        if record.mask is None:
            return image, None
        official_HW = decode_mask(Path(record.mask).read_bytes())
        wrong = np.unique(official_HW[(official_HW > len(CLASSES)) & (official_HW != IGNORE)])
        if wrong.size:
            raise ValueError(
                f"mask has the value {wrong[0]}, expected 0…{len(CLASSES)} or {IGNORE}: the class list does not match"
            )
        return image, self._from_official[official_HW]

    def _list_file(self, name: str) -> Path:
        return self.root / "ImageSets" / "Segmentation" / f"{name}.txt"

    def _names(self, name: str) -> list[str]:
        path = existing(self._list_file(name), "an image list", "correct dataset.root or the list's name")
        # SBD's lists name "/JPEGImages/ID.jpg /SegmentationClassAug/ID.png"; VOC's just "ID".
        return [Path(line.split()[0]).stem for line in path.read_text().splitlines() if line.strip()]

    def _mask_folder(self) -> Path:
        for name in MASK_FOLDERS:
            if (self.root / name).is_dir():
                return self.root / name
        raise RequestError(f"{self.root}: has neither {' nor '.join(MASK_FOLDERS)}; masks are needed to evaluate")

    def _objects(self, name: str, unknown: Counter[str]) -> set[str]:
        path = existing(self.root / "Annotations" / f"{name}.xml", "the image's labels", "add it or drop the image")
        try:
            found = [element.text or "" for element in ET.parse(path).iterfind("object/name")]
        except ET.ParseError as error:
            raise RequestError(f"{path}: is not valid XML ({error}); restore the file") from error
        unknown.update(label for label in found if label not in CLASSES)
        return set(found)
