"""COCO 2014, and anything in its layout: folders of images, and the instances of each split as JSON.

Ground truth is painted from the instances as `pycocotools` decodes them: crowds first, as undefined, then the objects
from the largest to the smallest, so that smaller ones lie over larger ones. Or it is read from PNGs of others.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np

from amn_ray.core.errors import RequestError
from amn_ray.data.class_names import is_background, squeezed
from amn_ray.data.coco.instances import Instances, Key, Size, read_instances
from amn_ray.data.coco.segmentations import defect, has_outline, paint
from amn_ray.data.images import LARGEST_SCALED, decoding, opened
from amn_ray.data.masks import MaskRule, find_masks, mask_rule, read_mask
from amn_ray.data.named_files import NamedFiles, folded, image_ids
from amn_ray.data.source import IGNORE, DatasetConfig, Listing, Record, checked, existing, label_of

READINGS = ("labels", "category_ids", "index", "binary", "colour")
PLACES = (
    "annotations/instances_*.json",
    "annotations/*.json",
    "*/_annotations.coco.json",
    "*/annotations.json",
    "*.json",
)
"""Where a split's instances are looked for: COCO and CVAT, mmdetection, Roboflow, one's own."""


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
    """What the pixels of ready-made masks hold: category_ids, or labels (1…N in the order of the category ids), as
    values or in colours, whichever the masks show; `index`, `binary` and `colour` say which."""

    readings: ClassVar[tuple[str, ...]] = READINGS


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
        self._rule = MaskRule("index", ())
        """How ready-made masks are read: known once they are listed."""

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

    @cached_property
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
        label = label_of(self.classes)  # before this split is parsed: two files take twice the memory
        instances = self._instances(folder)
        listing = Listing([])
        names = self._matched(instances, listing.warnings)
        value = {number: 0 if is_background(name) else label.get(name, IGNORE) for number, name in names.items()}
        places = self._located(list(instances.images), folder, instances.path, listing.warnings)
        ids = image_ids(places)
        masks = None
        if self.config.masks is not None:
            masks = self._masks(instances, ids, listing.warnings)
            listing.reading = {"masks": str(self._rule), "labels": sorted(self._label_of_value.items())}
        records = []
        for name, place in places.items():
            objects = [(value[category], *rest) for category, *rest in instances.objects.get(name, [])]
            painted = masks is None and all(has_outline(segmentation) for label, _, segmentation in objects if label)
            listing.unknown_classes.update(names[number] for number, *_ in instances.objects.get(name, []))
            records.append(
                Record(
                    image_id=ids[name],
                    labels=tuple(sorted({label for label, *_ in objects} - {0, IGNORE})),
                    image=str(place),
                    mask=masks[name] if masks is not None else "" if painted else None,
                    annotations=_painted(instances.images[name], objects) if painted else "",
                )
            )
        for name in {*self.categories.values(), *filter(is_background, names.values())}:
            listing.unknown_classes.pop(name, None)
        labelled = split == "train" and not self.config.allow_unlabelled
        listing.records = checked(records, where=str(instances.path), labelled=labelled)
        listing.warnings += [*instances.warnings, *self._told(instances, listing)]
        return listing

    def _told(self, instances: Instances, listing: Listing) -> Iterator[str]:
        """What the user may not expect of the categories and objects of a file."""
        path = instances.path
        for name in instances.categories.values():
            if is_background(name):
                yield f"{path}: category {name!r} is label 0, the background"
            elif name in self._groups and self.config.classes is None:
                yield (
                    f"{path}: category {name!r} has no object and is only the supercategory of others, so it is no "
                    "class; dataset.classes can name it"
                )
        if unknown := listing.unknown_classes:
            counts = ", ".join(f"{name}: {count}" for name, count in unknown.most_common(5))
            yield (
                f"{path}: {unknown.total()} objects are of categories that {self._file(self.config.train)} does not "
                f"have ({counts}): their pixels are undefined"
            )
        crowds = [crowd for found in instances.objects.values() for _, crowd, _ in found]
        if 2 * sum(crowds) > len(crowds):
            yield (
                f"{path}: {sum(crowds)} of {len(crowds)} objects are crowds, which are undefined in masks; some tools "
                "(CVAT) write iscrowd=1 for all that was painted: set it to 0 in the file for single objects"
            )
        if instances.outside:
            yield (
                f"{path}: {len(instances.outside)} objects lie wholly outside of their images (the first: one of "
                f"{instances.outside[0]}), as they do where images were scaled or cropped without their annotations"
            )
        if self.config.masks is None and (defects := list(_defects(instances))):
            name, reason = defects[0]
            yield (
                f"{path}: {len(defects)} images have an object that cannot be painted, so their masks are bad; the "
                f"first: {name} ({reason})"
            )
        if boxed := [Path(record.image).name for record in listing.records if record.mask is None]:
            yield (
                f"{path}: {len(boxed)} of {len(listing.records)} images have objects without an outline (only a box, "
                f"fewer than three points, or an empty segmentation; the first: {boxed[0]}): their labels count, but "
                "they are not scored; dataset.masks names masks that are"
            )

    def image(self, record: Record) -> bytes:
        """See Source."""
        return Path(record.image).read_bytes()

    def mask(self, record: Record) -> np.ndarray:
        """See Source."""
        assert record.mask is not None
        if record.annotations:
            content = json.loads(record.annotations)
            height, width = _checked_size(Path(record.image), content["size"])
            return paint(height, width, content["objects"])
        label_of_value = self._label_of_value
        values = [value for value, label in label_of_value.items() if label in record.labels]
        official_HW = read_mask(Path(record.mask).read_bytes(), self._rule, values)
        renumbered = np.full(256, IGNORE, np.uint8)
        renumbered[0] = 0
        for value, label in label_of_value.items():
            renumbered[value] = label
        return renumbered[official_HW]

    def _matched(self, instances: Instances, warnings: list[str]) -> dict[Key, str]:
        """The file's own categories by id, with the names that the training set has for them.

        Raises:
            RequestError: they have none in common.
        """
        spelt: dict[str, list[str]] = {}
        for name in dict.fromkeys(self.categories.values()):
            spelt.setdefault(squeezed(name), []).append(name)
        result = {}
        for number, name in instances.categories.items():
            others = spelt.get(squeezed(name), [])
            result[number] = name if name in others or len(others) != 1 else others[0]
            if result[number] != name:
                warnings.append(f"{instances.path}: category {name!r} is taken for {result[number]!r}")
        ours = set(self.categories.values())
        if not ours & set(result.values()):
            raise RequestError(
                f"{instances.path}: none of its categories ({', '.join(sorted(result.values())[:5])}) is one of "
                f"{self._file(self.config.train)} ({', '.join(sorted(ours)[:5])}); give both the same names"
            )
        return result

    def _check_numbering(self, instances: Instances) -> None:
        """Whether it is clear what the pixels of ready-made masks hold."""
        numbers = self.categories if self.config.mask_values == "category_ids" else {}
        strange = [
            number
            for number, name in numbers.items()
            if not isinstance(number, int) or not (0 < number < IGNORE or (number == 0 and is_background(name)))
        ]
        if strange:
            raise RequestError(
                f"dataset.mask_values={self.config.mask_values}: {strange[0]} is the number of a category, but pixels "
                f"hold 1 to {IGNORE - 1} (0 is background, {IGNORE} undefined); set dataset.masks=null to paint them"
            )
        if not numbers and (self._groups or len(set(self.categories.values())) < len(self.categories)):
            raise RequestError(
                f"{self._file(self.config.train)}: two categories have one name, or one only groups others, so that "
                "labels could be counted in several ways; set dataset.mask_values=category_ids, or dataset.masks=null"
            )
        theirs, number = self._matched(instances, []), {name: number for number, name in self.categories.items()}
        if numbers and any(number.get(name, other) != other for other, name in theirs.items()):
            raise RequestError(
                f"{instances.path}: numbers its categories otherwise than {self._file(self.config.train)}, so that "
                "dataset.mask_values=category_ids could mean either; renumber the masks and set "
                "dataset.mask_values=labels, or dataset.masks=null"
            )

    def _located(self, names: Sequence[str], folder: str, path: Path, warnings: list[str]) -> dict[str, Path]:
        """Where the images are.

        Raises:
            RequestError: more of them are missing than `dataset.max_bad_fraction` allows.
        """
        bases = (self.root / folder, self.root, self.root / "images" / folder, self.root / "images")
        found, moved = _located(names, [base for base in bases if base.is_dir()])
        missing = [name for name in names if name not in found]
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
        return found

    @cached_property
    def _name_of_value(self) -> dict[int, str]:
        """What a pixel of a ready-made mask holds -> the class."""
        if self.config.mask_values == "category_ids":
            return {int(number): name for number, name in self.categories.items() if number != 0}
        return dict(enumerate(self._names, start=1))

    @cached_property
    def _label_of_value(self) -> dict[int, int]:
        """The same -> our label; 255 where the class was not asked for, 0 for the background."""
        label = label_of(self.classes) | {name: 0 for name in self._name_of_value.values() if is_background(name)}
        return {value: label.get(name, IGNORE) for value, name in self._name_of_value.items()}

    def _masks(self, instances: Instances, ids: Mapping[str, str], warnings: list[str]) -> dict[str, str]:
        """The ready-made masks by the names of images, which tell how all are read.

        Raises:
            RequestError: an image has none, or it is not clear what they hold.
        """
        self._check_numbering(instances)
        folder = existing(self.root / str(self.config.masks), "the ready-made masks", "correct dataset.masks")
        found, _ = find_masks(folder, list(ids), self.config.mask_pattern)
        missing = [folder / f"{image_id}.png" for name, image_id in ids.items() if name not in found]
        if missing:
            raise RequestError(
                f"{folder}: {len(missing)} of {len(ids)} images have no mask; the first: mask {missing[0]} does not "
                "exist; add it, see dataset.mask_pattern, or set dataset.masks=null to paint them"
            )
        reading = {"labels": None, "category_ids": None if self.config.palette else "index"}
        values = self.config.mask_values
        config = replace(self.config, mask_values=reading.get(values or "labels", values))
        try:
            self._rule, told = mask_rule(found.values(), config, self._name_of_value)
        except RequestError as error:
            other = "; if they hold the numbers of categories, set dataset.mask_values=category_ids"
            raise RequestError(f"{error}{other if values == 'labels' else ''}") from None
        warnings += told
        return {name: str(path) for name, path in found.items()}

    def _instances(self, folder: str) -> Instances:
        return read_instances(self._file(folder), self.config.encoding)

    def _file(self, folder: str) -> Path:
        """The instances of a split.

        Raises:
            RequestError: they are not there; what is there is named.
        """
        ends = dict.fromkeys((folder, PurePosixPath(folder).name))
        places = [self.config.annotations] if self.config.annotations else PLACES
        paths = [self.root / place.replace("*", end) for end in ends for place in places]
        for path in paths:
            if path.is_file():
                return path
        near = sorted({str(file) for path in paths for file in path.parent.glob("*.json")})
        there = f"; there are {', '.join(near[:5])}" if near else ""
        raise RequestError(
            f"{paths[0]}: not found, expected the instances{there}; correct dataset.root, or dataset.train and "
            "dataset.val (null: there is no val), or name the file by dataset.annotations"
        )


def _located(names: Sequence[str], folders: Sequence[Path]) -> tuple[dict[str, Path], list[str]]:
    """Where images are that are listed by name.

    Args:
        names: paths with slashes.
        folders: where to look, in this order.

    Returns:
        The files by name, as far as they are there; and the names that were found by their last part only, which no
        other name has, or but for its spelling.
    """
    files = cache(lambda folder: NamedFiles(folder, endings=(), deep=False))  # read once something is not found
    ends = Counter(folded(PurePosixPath(name).name) for name in names)
    found, moved = {}, []
    for name in names:
        end = PurePosixPath(name).name
        place = _first(folder / name for folder in folders)
        if place is None and ends[folded(end)] == 1:
            spelt = (folder / match[0] for folder in folders if len(match := files(folder).matches(end)) == 1)
            place = _first(folder / end for folder in folders) or next(spelt, None)
            moved += [name] if place else []
        if place is not None:
            found[name] = place
    return found, moved


def _first(paths: Iterable[Path]) -> Path | None:
    """The first of them that is a file; a name that is too long for one is none."""
    for path in paths:
        with suppress(OSError):
            if path.is_file():
                return path
    return None


def _defects(instances: Instances) -> Iterator[tuple[str, str]]:
    """Each image with an object that cannot be painted, and why, as far as a quick look tells."""
    for name, objects in instances.objects.items():
        size = instances.images[name]
        reasons = (defect(segmentation, *size) for *_, segmentation in objects) if size else ()
        reason = next(filter(None, reasons), None)
        if reason is not None:
            yield name, reason


def _painted(size: Size, objects: Sequence[tuple[object, ...]]) -> str:
    return json.dumps({"size": list(size or ()), "objects": [entry for entry in objects if has_outline(entry[-1])]})


def _checked_size(path: Path, stated: list[int]) -> tuple[int, int]:
    """The (height, width) to paint: the stated one, if the image has it or is turned by its EXIF tag, else the image's.

    Before anything is painted, since what is stated could fill the memory.
    """
    with path.open("rb") as stream, decoding(), opened(stream, LARGEST_SCALED) as image:
        width, height = image.size
    if not stated:
        return height, width
    if stated not in ([height, width], [width, height]):
        raise ValueError(
            f"is {width}x{height}, but {stated[1]}x{stated[0]} in the annotations (width x height): they belong to "
            "another version of it"
        )
    return stated[0], stated[1]
