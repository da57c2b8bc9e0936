"""PASCAL VOC 2012 and anything in its layout (JPEGImages, Annotations, ImageSets/Segmentation, masks)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from amn_ray.core.checks import check_choice
from amn_ray.core.errors import RequestError
from amn_ray.data.class_names import is_background, squeezed
from amn_ray.data.images import BadFile, decoding, opened
from amn_ray.data.masks import MaskRule, find_masks, mask_rule, read_mask
from amn_ray.data.named_files import NamedFiles
from amn_ray.data.source import IGNORE, DatasetConfig, Listing, Record, checked, existing, label_of
from amn_ray.data.voc.texts import CLASS_FILES, Listed, object_names, read_class_file, read_list

CLASSES = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]  # fmt: skip
MASK_FOLDERS = ("SegmentationClassAug", "SegmentationClass", "SegmentationClassPNG", "SegmentationClassRaw")
"""SBD's and VOC's; labelme's; TensorFlow's. Where an image has a mask in two of them, the first counts."""
MASK_ENDINGS = (".png", ".bmp", ".tif", ".tiff", ".gif")
"""Those of formats that keep values as they are."""
NUMBERINGS = ("voc", "classes")
SAMPLE = 64
"""About so many masks tell how all are numbered and coloured."""
_VOID = (224, 224, 192)
"""VOC's colour of undefined pixels."""
SHOWN = 10
"""Class names that a sentence lists."""


@dataclass(kw_only=True)
class VocConfig(DatasetConfig):
    """Lists are names of files in ImageSets/Segmentation, without their ending.

    `classes: null` takes what a file class_names.txt, labelmap.txt, labels.txt or classes.txt in `root` says, else
    VOC's.
    """

    root: str | None = None
    """The folder that holds JPEGImages (usually …/VOCdevkit/VOC2012)."""
    train_list: str = "train_aug"
    """The images to train on (paper: 10,582)."""
    evaluate_list: str | None = "train"
    """Those of them whose pseudo-masks are measured (paper: the 1,464 of train); null = none. Where others of
    `train_list` have masks, too, scores of all of them stand beside."""
    val_list: str | None = "val"
    """The images that the segmentation network is measured on; null = there are none."""
    numbering: str | None = None
    """What the masks' values count: `voc` (its 20 classes) or `classes` (dataset.classes); null: what the file of class
    names says, else `voc` if all classes are VOC's and `classes` if none is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.numbering is not None:
            check_choice(self, "numbering", NUMBERINGS)


class Voc:
    """Image-level labels come from the object names in Annotations/*.xml, never from the masks."""

    def __init__(self, config: VocConfig) -> None:
        if not config.root:
            raise RequestError(
                "dataset.root is not set: expected the folder that holds JPEGImages; set dataset.root=/path/to/VOC2012"
            )
        self.config = config
        self.root = existing(Path(config.root), "the VOC folder", "correct dataset.root")
        background = [name for name in config.classes or () if is_background(name)]
        if background:
            raise RequestError(
                f"dataset.classes: {background[0]!r} is the value 0 of masks, and no class; remove it from the list"
            )
        self._file = read_class_file(self.root, config.encoding)
        self._names = self._numbering()
        """The name that each value of masks stands for."""
        known = list(self._names.values())
        self.classes = config.classes or known
        strange = [name for name in self.classes if name not in known]
        if strange:
            says = (
                self._file.path if self._file and config.numbering is None else f"dataset.numbering={config.numbering}"
            )
            raise RequestError(
                f"dataset.classes: {strange[0]!r} is not among the classes of masks ({_some(known)}) by {says}; "
                f"correct either, or set dataset.numbering=classes if masks hold 1…{len(self.classes)}"
            )
        self._label = label_of(self.classes)
        self._rule = MaskRule("index", tuple(self._names))
        # Classes that were not asked for become undefined.
        self._of_value = np.full(256, IGNORE, np.uint8)
        self._of_value[0] = 0
        for value, name in self._names.items():
            self._of_value[value] = self._label.get(name, IGNORE)

    def listing(self, split: str) -> Listing:
        """The records of `train` or `val`; see Source."""
        listing = Listing([], reading={"values": self._names})
        name = self.config.train_list if split == "train" else self.config.val_list
        if name is None:
            return listing
        images = NamedFiles(existing(self.root / "JPEGImages", "the images", self._remedy()))
        where = self._list_file(name, f"{split}_list")
        listed = read_list(where, images, self.config.encoding, listing.warnings)
        if split == "train" and not listed:
            raise RequestError(f"{where}: lists no image (dataset.train_list); {self._other_lists('train_list')}")
        labels = self._labels(listed, listing)
        evaluated = listed if split == "val" else self._evaluated(listed, images, listing.warnings)
        measured = {image.image_id for image in evaluated}
        masks = self._masks(listed if evaluated else [], measured, listing.warnings)
        # In the order of the list: large sets are sampled.
        own = [masks[image.image_id] for image in evaluated if image.image_id in masks]
        self._rule = self._mask_rule(own, listing.warnings)
        listing.reading["masks"] = str(self._rule)
        records = [
            Record(
                image_id=image.image_id,
                labels=labels[image.image_id],
                image=str(image.image),
                mask=str(masks[image.image_id]) if image.image_id in masks else None,
                evaluated=image.image_id in measured,
            )
            for image in listed
        ]
        labelled = split == "train" and not self.config.allow_unlabelled
        listing.records = checked(records, where=f"{where} (dataset.{split}_list)", labelled=labelled)
        return listing

    def image(self, record: Record) -> bytes:
        """See Source."""
        return Path(record.image).read_bytes()

    def mask(self, record: Record) -> np.ndarray:
        """See Source; values are renumbered to `classes`."""
        assert record.mask
        names = [self.classes[label - 1] for label in record.labels]
        values = [value for value, name in self._names.items() if name in names]
        return self._of_value[read_mask(Path(record.mask).read_bytes(), self._rule, values)]

    def _remedy(self) -> str:
        """What to do where JPEGImages is not there: a folder too high is usual (VOCdevkit)."""
        below = sorted(path.parent for path in self.root.glob("*/JPEGImages"))
        return f"set dataset.root={below[0]}" if below else "correct dataset.root"

    def _numbering(self) -> dict[int, str]:
        """See VocConfig.numbering."""
        asked = self.config.classes or []
        own = [name for name in asked if name not in CLASSES]
        if self.config.numbering is not None:
            return _counted(asked if asked and self.config.numbering == "classes" else CLASSES)
        if self._file:
            return _counted(self._file.names)
        if own and len(own) < len(asked):
            raise RequestError(
                f"dataset.classes: {own[0]!r} is not a class of VOC but others are, so what the masks' values count is "
                "not known; set dataset.numbering=classes if they count dataset.classes in its order (1, 2, …), or "
                f"write their names in the order of the values into {self.root / CLASS_FILES[0]}"
            )
        return _counted(own or CLASSES)

    def _evaluated(self, listed: Sequence[Listed], images: NamedFiles, warnings: list[str]) -> list[Listed]:
        """The images of `evaluate_list`, which are measured. The default list need not be there."""
        name = self.config.evaluate_list
        if name is None:
            return []
        if name == VocConfig.evaluate_list and not self._path(name).exists():
            warnings.append(
                f"{self._path(name)}: not found, so no pseudo-masks are measured; dataset.evaluate_list names the "
                "images that are"
            )
            return []
        evaluated = read_list(self._list_file(name, "evaluate_list"), images, self.config.encoding, warnings)
        if not evaluated:
            warnings.append(
                f"{self._path(name)}: lists no image (dataset.evaluate_list), so no pseudo-masks are measured"
            )
        trained = {image.image_id for image in listed}
        for image in evaluated:
            if image.image_id not in trained:
                raise RequestError(
                    f"dataset.evaluate_list={name}: {image.image_id!r} is not in dataset.train_list="
                    f"{self.config.train_list}; pseudo-masks are measured on images that have one"
                )
        return evaluated

    def _masks(self, listed: Sequence[Listed], evaluated: set[str], warnings: list[str]) -> dict[str, Path]:
        """The masks of images; none at all where there is no folder of masks. Each evaluated image must have one."""
        image_ids = [image.image_id for image in listed]
        folders = [self.root / name for name in MASK_FOLDERS if (self.root / name).is_dir()]
        if not folders and image_ids:
            wrong = " (SegmentationObject numbers objects, not classes)" * (self.root / "SegmentationObject").is_dir()
            warnings.append(
                f"{self.root}: has no folder {' or '.join(MASK_FOLDERS[:2])}, so nothing is evaluated{wrong}"
            )
            return {}
        masks: dict[str, Path] = {}
        for folder in folders if self.config.mask_pattern is None else ():
            files = NamedFiles(folder, MASK_ENDINGS)
            found = {name: files.find(name) for name in image_ids if name not in masks}
            masks |= {name: path for name, path in found.items() if path}
        if image_ids and not masks:  # another scheme than the images' names
            masks, _ = find_masks(folders[0], image_ids, self.config.mask_pattern)
        for name in image_ids:
            if name in evaluated and name not in masks:
                raise RequestError(
                    f"{folders[0]}: has no mask of {name!r}, which is to be evaluated; add it, remove the image from "
                    "the list, or see dataset.mask_pattern"
                )
        second = [path for path in masks.values() if folders[0] not in path.parents]
        if second and len(second) < len(masks):
            warnings.append(
                f"{folders[0]}: has no masks of {len(second)} images, which are taken from {second[0].parent.name}"
            )
        return masks

    def _mask_rule(self, masks: Sequence[Path], warnings: list[str]) -> MaskRule:
        """How masks are read: as the settings say, in the colours of a labelmap.txt, or as they show."""
        config = self.config
        palette = self._file.palette if self._file and config.numbering is None else {}
        if palette and config.palette is None and config.mask_values is None and _hold_only(masks, palette.values()):
            config = replace(config, palette=palette)
        rule, told = mask_rule(masks, config, self._names)
        warnings += told
        if config.classes and config.numbering is None and not self._file and set(config.classes) < set(CLASSES):
            self._check_official(masks, rule)
        return rule

    def _check_official(self, masks: Sequence[Path], rule: MaskRule) -> None:
        """Ask where masks seem to count the classes that were chosen, and not VOC's."""
        found: set[int] = set()
        for path in _some_of(masks):
            with suppress(OSError, ValueError):  # told with its name when it is loaded
                found |= set(np.unique(read_mask(path.read_bytes(), rule)).tolist()) - {0, IGNORE}
        official = {value for value, name in self._names.items() if name in self.classes}
        if found <= set(range(1, len(self.classes) + 1)) and not found <= official:
            raise RequestError(
                f"{masks[0].parent}: masks hold {', '.join(map(str, sorted(found)))}, but VOC's numbers of "
                f"dataset.classes are {', '.join(map(str, sorted(official)))}; set dataset.numbering=classes if they "
                "count dataset.classes in its order (1, 2, …), or dataset.numbering=voc if not"
            )

    def _labels(self, listed: Sequence[Listed], listing: Listing) -> dict[str, tuple[int, ...]]:
        """The labels of images, by their ids; names of objects that are no class are counted."""
        folder = self.root / "Annotations"
        remedy = "add it, or write the labels into a labels.csv (see dataset=folder)"
        annotations = NamedFiles(existing(folder, "the images' labels in XML", remedy), (".xml",))
        meant = _speller(list(self._names.values()))
        labels, objects, odd = {}, 0, list[str]()
        for image in listed:
            path = annotations.find(image.image_id)
            if path is None:
                raise RequestError(
                    f"{folder / image.image_id}.xml: not found, expected the image's labels; add it or drop the image"
                )
            found = object_names(path, self.config.encoding, odd)
            objects += len(found)
            names = list(map(meant, found))
            listing.unknown_classes.update(name for name, known in zip(found, names, strict=True) if known is None)
            labels[image.image_id] = tuple(sorted({self._label[name] for name in names if name in self._label}))
        if odd:
            listing.warnings.append(f"{odd[0]} ({len(odd)} of {len(listed)} annotations are like this)")
        self._check_known(listing.unknown_classes, objects, folder)
        return labels

    def _check_known(self, unknown: Counter[str], objects: int, folder: Path) -> None:
        """Refuse annotations that speak of other classes; a few of these among many are counted."""
        if unknown.total() * 2 > objects:
            counts = [f"{name} ({count})" for name, count in unknown.most_common()]
            raise RequestError(
                f"{folder}: {unknown.total()} of {objects} objects are of classes that are not in the class list: "
                f"{_some(counts)}, expected {_some(self.classes)}; set dataset.classes to the names, in the order of "
                "the masks' values 1, 2, …"
            )

    def _path(self, name: str) -> Path:
        return Path(os.path.normpath(self._lists / f"{name.removesuffix('.txt')}.txt"))

    @property
    def _lists(self) -> Path:
        return self.root / "ImageSets" / "Segmentation"

    def _list_file(self, name: str, key: str) -> Path:
        """The list of this name.

        Raises:
            RequestError: there is none; it says which there are, also in the folders beside.
        """
        return existing(self._path(name), "a list of images", f"correct dataset.root, or {self._other_lists(key)}")

    def _other_lists(self, key: str) -> str:
        """What may be asked for in place of a list."""
        folders = dict.fromkeys([self._lists, *sorted(self._lists.parent.glob("*/"))])
        there = [
            f"dataset.{key}={os.path.relpath(found.with_suffix(''), self._lists)}"
            for folder in folders
            for found in sorted(folder.glob("*.txt"))
            if found != self._path(getattr(self.config, key) or "")
        ]
        if key != "train_list":
            there.insert(0, f"dataset.{key}=null (no images)")
        return f"set {' or '.join(there[:SHOWN])}" if there else "write the ids into it, one a line"


def _counted(names: Sequence[str]) -> dict[int, str]:
    return dict(enumerate(names, start=1))


def _hold_only(masks: Sequence[Path], colours: Iterable[Sequence[int]]) -> bool:
    """Whether masks are painted in these colours: some of them, and not in black alone."""
    shown: set[object] = set()
    for path in _some_of(masks):
        try:
            with decoding(), opened(path.read_bytes()) as image:
                found = image.convert("RGB").getcolors()
        except BadFile:  # told with its name when it is loaded
            continue
        if found is None:  # more than 256
            return False
        shown |= {colour for _, colour in found}
    return shown <= {*map(tuple, colours), _VOID} and not shown <= {(0, 0, 0)}


def _some_of(masks: Sequence[Path]) -> Sequence[Path]:
    return masks[:: max(1, len(masks) // SAMPLE)]


def _speller(names: Sequence[str]) -> Callable[[str], str | None]:
    """Finds the name that is meant: this one, or the only one that differs by capitals and spaces."""
    count = Counter(map(squeezed, dict.fromkeys(names)))
    folded = {squeezed(name): name for name in names if count[squeezed(name)] == 1}
    return lambda name: name if name in names else folded.get(squeezed(name))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
