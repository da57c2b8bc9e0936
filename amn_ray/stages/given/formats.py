"""Maps as other codes write them: which file is of which image, what form the files have, and what they hold.

| form | file | content |
|---|---|---|
| irn | `<id>.npy` | dictionary: `keys` 0-based classes, `cam` (K, h, w) at stride 4, `high_res` (K, H, W) (IRN, RIB) |
| amn | `<id>.npy` | the same, with a background: `keys` are 0 and then 1-based classes, K + 1 channels (AMN) |
| psa | `<id>.npy` | dictionary: 0-based class → map (H, W); PSA, SEAM |
| png | `<id>_<class>.png` | a grey image per 0-based class, 255 = 1; WSSS-BED |
| npz | `<id>.npz` | `keys` 1-based classes, `maps` (K, h, w) at stride 4, or (K, H, W) |

Legend: K = classes of one image, H W = its pixels, h w = ⌈H/4⌉ ⌈W/4⌉.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from amn_ray.core.errors import RequestError
from amn_ray.data.images import opened
from amn_ray.data.maps import stored_size
from amn_ray.data.named_files import NamedFiles
from amn_ray.stages.given.unpickling import load_dictionary

ENDINGS = {"irn": ".npy", "amn": ".npy", "psa": ".npy", "png": ".png", "npz": ".npz"}
"""By form, the ending of its files."""
FORMATS = tuple(ENDINGS)
ROUNDING = 1e-2
"""By how much values may leave [0, 1]: SEAM's lowest values are slightly negative."""
_WITH_CLASS = re.compile(r"(.+)_(\d+)")
Content = Mapping[Any, Any]


@dataclass(frozen=True)
class GivenMaps:
    """The maps of one image."""

    keys: list[int]
    """Labels 1…N, without background."""
    maps: np.ndarray
    """float32, on the grid of stride 4 (K, h, w) or at the size of the image (K, H, W)."""


def files_of(folder: Path, ending: str, ids: Sequence[str]) -> dict[str, list[Path]]:
    """The files of each image that has some: one of the image's name, or with .png one for each class.

    Raises:
        RequestError: two files may be those of an image.
    """
    if ending == ".png":
        return _files_by_class(folder, ids)
    files = NamedFiles(folder, (ending,))
    found = ((image_id, files.find(f"{image_id}{ending}", moved=True)) for image_id in ids)
    return _unshared({image_id: [path] for image_id, path in found if path is not None})


def _unshared(found: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """Refuse files that may be those of two images.

    Raises:
        RequestError: there are some.
    """
    owner: dict[Path, str] = {}
    for image_id, paths in found.items():
        for path in paths:
            if path in owner:
                raise RequestError(
                    f"{path}: may be of image {owner[path]} and of {image_id}; put the files into folders as the "
                    "images are"
                )
            owner[path] = image_id
    return found


def _files_by_class(folder: Path, ids: Sequence[str]) -> dict[str, list[Path]]:
    by_stem = defaultdict(list)
    for name in NamedFiles(folder, (".png",)).names:
        parts = _WITH_CLASS.fullmatch(PurePosixPath(name).stem)
        if parts is not None and name.lower().endswith(".png"):
            by_stem[(PurePosixPath(name).parent / parts[1]).as_posix()].append(folder / name)
    found = {}
    for image_id in ids:
        files = by_stem.get(image_id) or by_stem.get(PurePosixPath(image_id).name)
        if files:
            found[image_id] = sorted(files)
    return _unshared(found)


def load(form: str, files: Sequence[Path]) -> Content:
    """The content of the files of one image, by key.

    Raises:
        ValueError: a file is damaged or holds something else; the message does not name it.
        OSError: it cannot be read.
    """
    if form == "png":
        if len({_class_of(path) for path in files}) < len(files):
            raise ValueError(f"is one of {len(files)} files of an image, two of which are of one class")
        return {_class_of(path): _grey(path) for path in files}
    if form == "npz":
        try:
            with np.load(files[0], allow_pickle=False) as content:
                return dict(content)
        except OSError:
            raise
        except Exception as error:  # a damaged archive makes its readers raise anything
            raise ValueError(f"cannot be read ({' '.join(str(error).split()) or type(error).__name__})") from error
    return load_dictionary(files[0])


def _class_of(path: Path) -> int:
    parts = _WITH_CLASS.fullmatch(path.stem)
    assert parts is not None
    return int(parts[2])


def _grey(path: Path) -> np.ndarray:
    with opened(path.read_bytes()) as image:
        if image.mode != "L":
            raise ValueError(f"{path.name} is an image of mode {image.mode}, expected grey values of 8 bits")
        return np.asarray(image, np.float32) / 255


def parsed(form: str, content: Content) -> GivenMaps:
    """The maps in a file's content.

    Raises:
        ValueError: it is not of this form.
    """
    return _PARSERS[form](content)


def _keyed(content: Content) -> tuple[list[int], np.ndarray]:
    """Keys and channels of a dictionary of IRN's kind."""
    found = [content[name] for name in ("cam", "high_res") if content.get(name) is not None]
    if "keys" not in content or not found:
        raise ValueError(f"holds {_names(content)}, expected `keys`, and `cam` or `high_res`")
    keys = _integers(content["keys"])
    maps = _floats(found[0])
    if len(keys) != len(maps):
        raise ValueError(f"holds {len(keys)} keys for {len(maps)} maps")
    return keys, maps


def _irn(content: Content) -> GivenMaps:
    keys, maps = _keyed(content)
    return GivenMaps([key + 1 for key in keys], maps)


def _amn(content: Content) -> GivenMaps:
    keys, maps = _keyed(content)
    if not keys or keys[0] != 0:
        raise ValueError(f"holds the keys {keys}, expected 0 for the background first")
    return GivenMaps(keys[1:], maps[1:])


def _psa(content: Content) -> GivenMaps:
    if not all(isinstance(key, int | np.integer) for key in content):
        raise ValueError(f"holds {_names(content)}, expected numbers of classes")
    keys = sorted(content)
    maps = [_floats(content[key], dimensions=2) for key in keys]
    if len({map_HW.shape for map_HW in maps}) > 1:
        raise ValueError(f"holds maps of different sizes: {', '.join(str(map_HW.shape) for map_HW in maps)}")
    return GivenMaps([int(key) + 1 for key in keys], np.stack(maps) if maps else np.zeros((0, 1, 1), np.float32))


def _npz(content: Content) -> GivenMaps:
    if not {"keys", "maps"} <= content.keys():
        raise ValueError(f"holds {_names(content)}, expected `keys` and `maps`")
    keys, maps = _integers(content["keys"]), _floats(content["maps"])
    if len(keys) != len(maps):
        raise ValueError(f"holds {len(keys)} keys for {len(maps)} maps")
    return GivenMaps(keys, maps)


_PARSERS: Mapping[str, Callable[[Content], GivenMaps]] = {
    "irn": _irn, "amn": _amn, "psa": _psa, "png": _psa, "npz": _npz,
}  # fmt: skip


def _names(content: Content) -> str:
    return ", ".join(map(repr, list(content)[:5])) or "nothing"


def _integers(value: Any) -> list[int]:
    array = np.asarray(value)
    is_real = np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)
    whole = is_real and np.isfinite(array).all() and (array == np.round(array)).all()
    if array.size and not (array.ndim == 1 and whole):
        raise ValueError(f"holds the keys {str(value)[:60]}, expected whole numbers")
    return [int(key) for key in array.ravel()]


def _floats(value: Any, dimensions: int = 3) -> np.ndarray:
    try:
        array = np.asarray(value, np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"holds {type(value).__name__} where a map should be") from error
    if array.ndim != dimensions:
        raise ValueError(f"holds an array of shape {array.shape}, expected {dimensions} dimensions")
    return array


def check(given: GivenMaps, labels: Sequence[int], size: tuple[int, int], num_classes: int) -> None:
    """Refuse maps that are not those of an image.

    Args:
        given: its maps.
        labels: its labels 1…N, each of which needs a map; maps of others may be there.
        size: (H, W) of the image.
        num_classes: N.

    Raises:
        ValueError: one sentence.
    """
    if len(set(given.keys)) != len(given.keys):
        raise ValueError(f"holds two maps of one class (labels {given.keys})")
    if wrong := [key for key in given.keys if not 1 <= key <= num_classes]:
        raise ValueError(f"holds a map of label {wrong[0]}, and the data set has the labels 1…{num_classes}")
    if missing := [label for label in labels if label not in given.keys]:
        raise MissingMap(f"holds no map of label {missing[0]}, which its image has")
    if labels and given.maps.shape[1:] not in (size, stored_size(*size)):
        height, width = given.maps.shape[1:]
        stored = stored_size(*size)
        raise ValueError(
            f"holds maps of {height}x{width}, expected {size[0]}x{size[1]} (height x width of its image, as "
            f"dataset.max_side and dataset.exif leave it) or {stored[0]}x{stored[1]} (at stride 4)"
        )
    chosen = given.maps[[given.keys.index(label) for label in labels]]
    if not np.isfinite(chosen).all():
        raise ValueError("holds a map with NaN or infinite values")
    # (A map of SEAM that is the same everywhere is −1: nothing of it is positive, so it shows nothing.)
    shown = chosen[(chosen > 0).any((1, 2))]
    if shown.size and (shown.max() > 1 + ROUNDING or shown.min() < -ROUNDING):
        extreme = shown.max() if shown.max() > 1 + ROUNDING else shown.min()
        raise ValueError(f"holds the value {extreme:.4g}, expected maps in [0, 1]; divide each by its maximum")


class MissingMap(ValueError):
    """An image without a map of one of its classes."""


def recognised(samples: Mapping[Path, tuple[Content, Sequence[int]]]) -> str:
    """The form of dictionaries in `.npy` files.

    A single file never decides between IRN's and AMN's forms, which differ in what 0 means: it needs the labels of
    several.

    Args:
        samples: by file, its content, and the labels of its image.

    Raises:
        RequestError: no form fits all of them, or several do.
    """
    fitting = [form for form in ("irn", "amn", "psa") if all(_fits(form, content) for content, _ in samples.values())]
    first, (content, _) = next(iter(samples.items()))
    if not fitting:
        raise RequestError(
            f"{first}: holds {_names(content)}; the files are of none of the forms {', '.join(FORMATS)}, or not all of "
            "one (docs/data.md)"
        )
    if len(fitting) == 1:
        return fitting[0]
    agreeing = {
        form: sum(set(parsed(form, content).keys) == set(labels) for content, labels in samples.values())
        for form in fitting
    }
    best = max(fitting, key=lambda form: agreeing[form])
    if agreeing[best] < 2 or sum(count > 0 for count in agreeing.values()) > 1:
        raise RequestError(
            f"maps.files={first.parent}: the labels of images do not tell whether a key 0 is the first class or the "
            "background; set maps.format=irn if it is the first class, or maps.format=amn if it is the background"
        )
    return best


def _fits(form: str, content: Content) -> bool:
    try:
        parsed(form, content)
    except ValueError:
        return False
    return True


def on_stored_grid(maps_Khw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps at either size -> float32 (K, ⌈H/4⌉, ⌈W/4⌉) in [0, 1]; bilinear, as CAM's maps are sampled (method 2)."""
    stored = stored_size(*size)
    if maps_Khw.shape[1:] != stored:
        import torch  # here: maps of the stored size are read without it
        import torch.nn.functional as F  # noqa: N812

        maps_KHW = torch.from_numpy(np.ascontiguousarray(maps_Khw))[None]
        maps_Khw = F.interpolate(maps_KHW, stored, mode="bilinear", align_corners=False)[0].numpy()
    return np.clip(maps_Khw, 0, 1)
