"""Selects the files that `predict` segments, and names their masks.

Folders of photographs also hold other files: an annotation tool's `.json`, a phone's `.MOV` and `.AAE`, `Thumbs.db`.
These are skipped and listed; a photograph that cannot be segmented is a failure.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count

import pyarrow as pa
from PIL import Image

from amn_ray.core.artifacts import Store
from amn_ray.core.errors import RequestError

ONLY_NAMED = ("BUFR", "GRIB", "HDF5", "MPEG", "WMF")
"""Formats whose name and size Pillow knows, but whose pixels it cannot decode."""
NOT_READ = (
    ".heic", ".heif", ".hif", ".jxl", ".3fr", ".arw", ".cr2", ".cr3", ".dng", ".erf", ".kdc", ".mos", ".mrw", ".nef",
    ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".sr2", ".srf", ".srw", ".x3f",
)  # fmt: skip
"""Photographs that Pillow cannot decode. (For some it would decode the thumbnail.)"""
HEADER = 2**16
"""Bytes that identify a file without a known extension."""
_ENDING = re.compile(r"\.[a-z0-9]*[a-z][a-z0-9]*")
"""A file name extension; `.0001` of `frame.0001` is not one."""


@dataclass(frozen=True)
class Found:
    """The files found at a path or URL."""

    source: Store
    """The folder that contains them."""
    images: Sequence[str]
    """Images to segment, as paths relative to it, in order."""
    others: Sequence[str] = ()
    """Files that are not images."""
    broken: Mapping[str, str] = field(default_factory=dict)
    """Photographs that cannot be segmented, and the reasons."""
    is_folder: bool = True
    """Whether a whole folder was requested."""


def find(url: str) -> Found:
    """The files at a path or URL: an image, or a folder of images with its sub-folders, without hidden files.

    Raises:
        RequestError: it does not exist, or has no image.
    """
    place = Store.reading(url, "images")
    kind = place.fs.get_file_info(place.path).type
    if kind == pa.fs.FileType.File:
        folder, name = posixpath.split(place.path)
        source = Store(place.fs, folder)
        if ending(name) not in endings() and not is_image(source, name):
            raise RequestError(
                f"images={place.url}: is not an image in a format that Pillow reads; expected an image, or a "
                "folder of images"
            )
        return Found(source, [name], is_folder=False)
    if kind != pa.fs.FileType.Directory:
        raise RequestError(f"images={place.url}: not found, expected an image or a folder of images")
    try:
        names, broken = _walk_local(place.path) if place.is_local else (_names(place), {})
    except OSError as error:
        raise RequestError(f"images={place.url}: cannot be listed ({error})") from error
    found = sort_out(place, names, broken)
    if found.images:
        return found
    listed = [f"{name} ({reason})" for name, reason in found.broken.items()] + list(found.others)
    raise RequestError(f"images={place.url}: contains no image" + (f", only {some(listed)}" * bool(listed)))


def sort_out(source: Store, names: Iterable[str], broken: Mapping[str, str]) -> Found:
    """Sort files into images, other files and broken ones."""
    ordered = sorted(names)
    unclear = [name for name in ordered if not ending(name)]
    with ThreadPoolExecutor() as pool:
        detected = dict(zip(unclear, pool.map(lambda name: is_image(source, name), unclear), strict=True))
    images = [name for name in ordered if detected.get(name, ending(name) in endings())]
    # A camera's raw file next to its JPEG is not reported.
    done = {stem(name) for name in images}
    missed = {name for name in ordered if ending(name) in NOT_READ and posixpath.splitext(name)[0] not in done}
    others = [name for name in ordered if name not in missed.union(images)]
    reasons = {name: f"{ending(name)[1:].upper()} is not decoded; convert it to JPEG" for name in sorted(missed)}
    return Found(source, images, others, {**broken, **reasons})


def ending(name: str) -> str:
    """The extension: `.jpg` of `a/b.JPG`; empty if the name has none."""
    found = posixpath.splitext(name)[1].lower()
    return found if _ENDING.fullmatch(found) else ""


@lru_cache(maxsize=1)
def endings() -> frozenset[str]:
    """The extensions of all formats that Pillow decodes."""
    registered = Image.registered_extensions().items()
    return frozenset(name for name, kind in registered if kind in Image.OPEN and kind not in ONLY_NAMED)


def is_image(source: Store, name: str) -> bool:
    """Whether the first bytes of a file are those of an image, whatever its name."""
    try:
        with (
            source.fs.open_input_stream(source.at(name)) as stream,
            Image.open(io.BytesIO(stream.read(HEADER))) as image,
        ):
            return image.format not in ONLY_NAMED
    except Exception:  # any exception: decoders may raise anything on files of other formats
        return False


def stem(name: str) -> str:
    """The name without an image's extension."""
    return posixpath.splitext(name)[0] if ending(name) in endings() else name


def assign(names: Sequence[str], known: Mapping[str, str]) -> dict[str, str]:
    """The mask of each image, as a path without extension: the image's stem if it is unique, else its whole name.

    `a.jpg` and `a.png` become `a.jpg` and `a.png` (and their masks `a.jpg.png` and `a.png.png`). Names that differ only
    in case, or in Unicode normalisation, count as one name: on some file systems they are one file.

    Args:
        names: the paths of the images, with `/`.
        known: earlier assignments, which stay: an existing mask is never assigned to another image.
    """
    taken = {_folded(mask) for mask in known.values()}
    unassigned = sorted(set(names) - known.keys())
    stems = Counter(_folded(stem(name)) for name in unassigned)
    assigned = {name: known[name] for name in names if name in known}
    for name in unassigned:
        short = [stem(name)] if stems[_folded(stem(name))] == 1 else []
        mask = next(mask for mask in _candidates(short, name) if _folded(mask) not in taken)
        taken.add(_folded(mask))
        assigned[name] = mask
    return assigned


def some(names: Sequence[str], shown: int = 5) -> str:
    """The first names, and the number of the others."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _candidates(short: Sequence[str], name: str) -> Iterator[str]:
    yield from short
    yield name
    yield from (f"{name}-{number}" for number in count(2))


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _names(source: Store) -> list[str]:
    found = source.fs.get_file_info(pa.fs.FileSelector(source.path, recursive=True))
    names = [posixpath.relpath(item.path, source.path) for item in found if item.type == pa.fs.FileType.File]
    return [name for name in names if not any(part.startswith(".") for part in name.split("/"))]


def _walk_local(root: str) -> tuple[list[str], dict[str, str]]:
    """The files in a folder and its sub-folders, and those that cannot be read.

    (PyArrow fails on names that are not UTF-8, and follows links in cycles.)
    """
    names, broken = [], {}
    parents = {root: frozenset([os.path.realpath(root)])}

    def unreadable(error: OSError) -> None:
        broken[os.path.relpath(error.filename, root)] = f"cannot be listed ({error.strerror})"

    for folder, folders, files in os.walk(root, followlinks=True, onerror=unreadable):
        real = {name: os.path.realpath(os.path.join(folder, name)) for name in folders if not name.startswith(".")}
        folders[:] = sorted(name for name in real if not _is_cycle(real[name], parents[folder]))
        parents |= {os.path.join(folder, name): parents[folder] | {real[name]} for name in folders}
        for name in (name for name in files if not name.startswith(".")):
            path = os.path.join(folder, name)
            relative, reason = os.path.relpath(path, root), ""
            if not os.path.isfile(path):
                reason = "is a broken link" if os.path.islink(path) else "is not a file"
            try:
                relative.encode()
            except UnicodeEncodeError:
                relative, reason = (
                    os.fsencode(relative).decode(errors="backslashreplace"),
                    "its name is not UTF-8; rename it",
                )
            if reason and ending(name) in endings():
                broken[relative] = reason
            elif os.path.isfile(path):
                names.append(relative)
    return names, broken


def _is_cycle(real: str, parents: frozenset[str]) -> bool:
    """Whether a folder is one of its parents, or contains one."""
    return any(f"{folder}/".startswith(f"{real.rstrip('/')}/") for folder in parents)
