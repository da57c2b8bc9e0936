"""A file of instances in COCO's format, as others' tools and hands write them, without its images."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from amn_ray.core.errors import RequestError
from amn_ray.data.class_names import squeezed
from amn_ray.data.coco.segmentations import polygons
from amn_ray.data.text import decode_text

Key = int | str
"""An id: JSON has whole numbers, numbers as text, and names."""
Size = tuple[int, int] | None
"""(height, width), where an image's entry tells it."""
LARGEST_SHARE = 1.5
"""Coordinates that are shares of width and height are not larger, but for rounding; no object is so few pixels wide."""


@lru_cache(maxsize=1)
def read_instances(path: Path, encoding: str | None = None) -> Instances:
    """The file, parsed once for all that is asked of it; `encoding` as in `read_text`.

    Raises:
        RequestError: the file is no JSON, or not in COCO's format.
    """
    return Instances(path, encoding)


class Instances:
    """What a file says, with what ties it together checked: ids, names, and what annotations point to."""

    def __init__(self, path: Path, encoding: str | None) -> None:
        self.path = path
        self.warnings: list[str] = []
        """What was read in a way that the user may not expect; whole once all properties were asked for."""
        self._content = _parsed(path, encoding, self.warnings)

    @cached_property
    def categories(self) -> dict[Key, str]:
        """Names by id, ordered by the ids; two ids may have one name.

        Raises:
            RequestError: there is none, an id has two names, or a name stands for two things.
        """
        found: dict[Key, str] = {}
        parents: dict[str, set[str]] = defaultdict(set)
        for number, name, parent in self._rows("categories", id=_key, name=_name, supercategory=str):
            if found.setdefault(number, name) != name:
                raise RequestError(
                    f"{self.path}: category id {number} is {found[number]!r} and {name!r}; files that were put "
                    "together need ids of their own in each: renumber them"
                )
            parents[name].add(parent)
        if not found:
            raise RequestError(f"{self.path}: `categories` must be one or more names, none found")
        doubles = [name for name, count in Counter(found.values()).items() if count > 1]
        for name in doubles:
            if len(parents[name] - {"", "None", "none", name}) > 1:
                raise RequestError(
                    f"{self.path}: `categories` has the name {name!r} twice, below "
                    f"{' and '.join(sorted(parents[name]))}; give them different names"
                )
        spellings = defaultdict(list)
        for name in dict.fromkeys(found.values()):
            spellings[squeezed(name)].append(name)
        for first, *others in spellings.values():
            if others:
                self.warnings.append(
                    f"{self.path}: categories {first!r} and {others[0]!r} are two classes; give them one name in the "
                    "file if they are not"
                )
        if doubles:
            self.warnings.append(
                f"{self.path}: several categories have the name {doubles[0]!r}, and are taken for one class; rename "
                "them in the file if they are not"
            )
        return dict(sorted(found.items(), key=lambda item: (isinstance(item[0], str), item[0])))

    @cached_property
    def group_only(self) -> set[str]:
        """Categories without any object that others have as their supercategory, as Roboflow adds one of all."""
        parents = {parent for name, parent in self._rows("categories", name=_name, supercategory=str) if parent != name}
        used = {self.categories[category] for objects in self.objects.values() for category, _, _ in objects}
        return {name for name in self.categories.values() if name in parents and name not in used}

    @cached_property
    def images(self) -> dict[str, Size]:
        """Sizes by file name, in the order of the file.

        Raises:
            RequestError: there is none, an id is of two images, or an image has two sizes.
        """
        return self._images[0]

    @property
    def _name_of(self) -> dict[Key, str]:
        return self._images[1]

    @cached_property
    def _images(self) -> tuple[dict[str, Size], dict[Key, str]]:
        sizes: dict[str, Size] = {}
        names: dict[Key, str] = {}
        repeated = 0
        for number, name, height, width in self._rows(
            "images", id=_key, file_name=_file, height=_length, width=_length
        ):
            if names.setdefault(number, name) != name:
                raise RequestError(
                    f"{self.path}: image id {number} is of {names[number]} and of {name}; files that were put together "
                    "need ids of their own in each: renumber the images of one of them, and its annotations"
                )
            size = (height, width) if height and width else None
            if size and sizes.get(name) not in (None, size):
                raise RequestError(
                    f"{self.path}: image {name} is listed twice, with (height, width) {sizes[name]} and {size}; remove "
                    "the wrong entry"
                )
            repeated += name in sizes
            sizes[name] = size or sizes.get(name)
        if repeated:
            self.warnings.append(
                f"{self.path}: {repeated} entries of `images` name a file for the second time; its objects are put "
                "together"
            )
        return sizes, names

    @cached_property
    def objects(self) -> dict[str, list[tuple[Key, int, Any]]]:
        """By file name: (category id, is a crowd, segmentation or None) of each object.

        Raises:
            RequestError: there is none, or one is of an image or category that the file does not list.
        """
        found = defaultdict(list)
        columns = {"image_id": _key, "category_id": _key, "iscrowd": _flag, "segmentation": _as_it_is}
        for image, category, crowd, segmentation in self._rows("annotations", **columns):
            if category not in self.categories:
                raise RequestError(
                    f"{self.path}: an annotation has category_id {category}, which `categories` does not list; add it "
                    "there, or remove the annotation"
                )
            if image not in self._name_of:
                raise RequestError(
                    f"{self.path}: an annotation has image_id {image}, which `images` does not list; add it there, or "
                    "remove the annotation"
                )
            found[self._name_of[image]].append((category, crowd, segmentation))
        if self.images and not found:
            raise RequestError(
                f"{self.path}: has no `annotations`, as files of test images; take the file of a split that has labels"
            )
        return self._in_pixels(dict(found))

    @cached_property
    def outside(self) -> list[str]:
        """The image of each object whose polygons all lie beyond its edges."""
        return [
            name
            for name, found in self.objects.items()
            for *_, segmentation in found
            if (outlines := polygons(segmentation)) and all(_is_outside(part, self.images[name]) for part in outlines)
        ]

    def _in_pixels(self, objects: dict[str, list[tuple[Key, int, Any]]]) -> dict[str, list[tuple[Key, int, Any]]]:
        """Multiplied by width and height, if the coordinates of most polygons are shares of them."""
        outlines = (polygon for found in objects.values() for *_, item in found for polygon in polygons(item))
        shares = Counter(map(_holds_shares, outlines))
        if shares[True] <= shares[False]:
            return objects
        unknown = [name for name in objects if self.images[name] is None]
        if unknown:
            raise RequestError(
                f"{self.path}: the coordinates are shares of width and height, which `images` does not tell for "
                f"{unknown[0]}; add `height` and `width`"
            )
        self.warnings.append(
            f"{self.path}: the coordinates of polygons lie in 0…1, and are taken for shares of width and height"
        )
        return {
            name: [
                (category, crowd, [_enlarged(polygon, self.images[name]) for polygon in polygons(item)] or item)
                for category, crowd, item in found
            ]
            for name, found in objects.items()
        }

    def _rows(self, table: str, **columns: Callable[[Any], Any]) -> Iterator[list[Any]]:
        """The values of some keys of each entry of a list.

        Raises:
            RequestError: a key is missing or of another type.
        """
        entries = self._content.get(table) or []
        for number, entry in enumerate(entries if isinstance(entries, list) else [entries]):
            try:
                entry = DEFAULTS[table] | entry
                if table == "images":
                    entry["file_name"] = entry.get("file_name") or entry["coco_url"]  # LVIS
                yield [kind(entry[name]) for name, kind in columns.items()]
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise RequestError(
                    f"{self.path}: entry {number} of `{table}` needs {', '.join(columns)} ({error!r}); {_told(entry)}"
                ) from error


DEFAULTS: dict[str, dict[str, Any]] = {
    "categories": {"supercategory": ""},
    "images": {"height": None, "width": None},
    "annotations": {"iscrowd": 0, "segmentation": None},
}
"""What others' exports leave out."""


def _told(entry: Any) -> str:
    kinds = {"segments_info": "panoptic segmentation", "caption": "captions"}
    found = [kind for key, kind in kinds.items() if isinstance(entry, dict) and key in entry]
    return f"this is a file of {found[0]}, take that of the instances" if found else "restore the file"


def _holds_shares(polygon: list[Any]) -> bool:
    return all(abs(_number(value)) <= LARGEST_SHARE for value in polygon)


def _is_outside(polygon: list[Any], size: Size) -> bool:
    height, width = size or (math.inf, math.inf)
    try:
        xs, ys = polygon[::2], polygon[1::2]
        return min(xs) >= width or min(ys) >= height or max(xs) <= 0 or max(ys) <= 0
    except TypeError:  # text, or nothing at all
        return False


def _enlarged(polygon: list[Any], size: Size) -> list[float]:
    height, width = size or (1, 1)
    return [_number(value) * (height if number % 2 else width) for number, value in enumerate(polygon)]


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan  # told when the image is read


def _key(value: Any) -> Key:
    if isinstance(value, str) and value.strip():
        text = value.strip()
        return int(text) if text.removeprefix("-").isdecimal() else text
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise TypeError(f"{value!r} is no id")
    return int(value)


def _name(value: Any) -> str:
    if value is None or isinstance(value, bool | list | dict) or not str(value).strip():
        raise ValueError(f"{value!r} is no name")
    return str(value).strip()


def _file(value: Any) -> str:
    """A path with slashes, without `./`; of a URL its path."""
    text = _name(value)
    if "\0" in text:
        raise ValueError(f"{value!r} is no name")
    if "://" in text:
        text = unquote(urlsplit(text).path).lstrip("/")
    return str(PurePosixPath(text.replace("\\", "/")))


def _length(value: Any) -> int | None:
    """Pixels; others write 0 or −1 where they do not know."""
    return None if value is None or int(value) <= 0 else int(value)


def _flag(value: Any) -> int:
    return int(bool(int(value or 0)))


def _as_it_is(value: Any) -> Any:
    return value


def _parsed(path: Path, encoding: str | None, warnings: list[str]) -> dict[str, Any]:
    content = path.read_bytes()
    try:
        try:
            parsed = json.loads(decode_text(content, str(path), encoding) if encoding else content)
        except UnicodeDecodeError:
            parsed = json.loads(decode_text(content, str(path), None, warnings))
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path}: is not valid JSON ({error}); restore the file") from error
    if not isinstance(parsed, dict):
        raise RequestError(
            f"{path}: holds a {type(parsed).__name__}, expected an object with images, annotations and categories"
        )
    return parsed
