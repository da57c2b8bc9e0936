"""Which file is meant by a name that people wrote, and what its image is called.

files = NamedFiles(folder)
files.matches("IMG_1", moved=True)       # names below the folder: ["IMG_1.JPG"], or several, or none
image_ids(names)                         # name -> id of the image
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from amn_ray.core.errors import RequestError
from amn_ray.data.text import same_name

IMAGES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".pbm",
    ".pnm", ".avif", ".heic", ".heif", ".jp2", ".j2k", ".jpx", ".tga", ".dds", ".mpo", ".qoi", ".pcx", ".ico", ".exr",
    ".hdr", ".npy",
)  # fmt: skip
"""Endings of images, in lower case. What else stands after a dot belongs to the name: IMG.2021.01."""
NO_DATA = ("thumbs.db", "desktop.ini", "__macosx")
"""What Windows and macOS put beside files, in lower case."""


class NamedFiles:
    """The files below a folder by their names: paths below it.

    A name means the file that is spelled so. Only where none is, it may lack its ending, then be in other capitals.
    The Unicode form (macOS decomposes ü, others do not) makes no difference unless files of both forms are there.
    Names that are no UTF-8, as old archives have them, count as Windows-1252.
    """

    def __init__(self, folder: Path, endings: Sequence[str] = IMAGES, *, deep: bool = True) -> None:
        """`endings` are those that names may lack; files in folders below count if `deep`."""
        self.folder = folder
        self.endings = endings
        self.names = sorted(names_below(folder, deep=deep))
        """As the file system has them."""
        self._by_name = _Spellings(endings)
        for name in self.names:
            self._by_name.add(name, name)

    def matches(self, name: str, *, moved: bool = False) -> list[str]:
        """The files that a name may mean, all of them equally; empty if there is none.

        With `moved` the name may be a path that begins elsewhere, also with backslashes: folders are taken from its
        beginning until there is such a file.
        """
        if found := self._by_name.find(name):
            return found
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")] if moved else []
        rests = ("/".join(parts[start:]) for start in range(len(parts)))
        return next(filter(None, map(self._by_name.find, rests)), [])

    def matches_anywhere(self, name: str) -> list[str]:
        """The files in whatever folder that the last part of a name may mean."""
        return self._by_end.find(name.replace("\\", "/").rpartition("/")[2])

    def find(self, name: str, *, moved: bool = False) -> Path | None:
        """The file that a name means (see `matches`); None if there is none.

        Raises:
            RequestError: it may mean several.
        """
        found = self.matches(name, moved=moved)
        if len(found) > 1:
            one, other = map(readable, found[:2])
            raise RequestError(
                f"{self.folder}: holds {one!r} and {other!r}, either of which could be {same_name(name)!r}; remove or "
                "rename one of them"
            )
        return self.folder / found[0] if found else None

    def name_of(self, path: Path) -> str:
        """The name of a file of this folder, without its ending."""
        return without_ending(readable(path.relative_to(self.folder).as_posix()), self.endings)

    @cached_property
    def _by_end(self) -> _Spellings:
        result = _Spellings(self.endings)
        for name in self.names:
            result.add(PurePosixPath(name).name, name)
        return result


class _Spellings:
    """Files by ways to spell a name, the closest first: as it is, in one Unicode form, without ending, in capitals."""

    def __init__(self, endings: Sequence[str]) -> None:
        self._endings = endings
        self._files: tuple[dict[str, list[str]], ...] = tuple(defaultdict(list) for _ in range(5))

    def add(self, name: str, file: str) -> None:
        whole = readable(name)
        short = without_ending(whole, self._endings)
        forms = (name, whole, short, whole.casefold(), short.casefold())
        for files, form in zip(self._files, forms, strict=True):
            files[form].append(file)

    def find(self, name: str) -> list[str]:
        whole = same_name(name)
        forms = (name, whole, whole, whole.casefold(), whole.casefold())
        return next((files[form] for files, form in zip(self._files, forms, strict=True) if form in files), [])


def image_ids(names: Iterable[str]) -> dict[str, str]:
    """Ids by name: the last part without its ending if these differ in the set, else with its folders, else all of it.

    Args:
        names: paths with slashes, as the file system has them.
    """
    whole = {name: "/".join(p for p in PurePosixPath(readable(name)).parts if p not in ("/", "..")) for name in names}
    for shorter in (lambda path: without_ending(PurePosixPath(path).name), without_ending, str):
        ids = {name: shorter(path) for name, path in whole.items()}
        if len(set(ids.values())) == len(ids):
            break
    return ids


def without_ending(name: str, endings: Sequence[str] = IMAGES) -> str:
    """A name without its ending, if that is one of these, in whatever capitals."""
    stem, dot, ending = name.rpartition(".")
    return stem if stem and f"{dot}{ending}".lower() in endings else name


def readable(name: str) -> str:
    """The name of a file as text, in one Unicode form."""
    try:
        return same_name(os.fsencode(name).decode())
    except UnicodeDecodeError:
        return same_name(os.fsencode(name).decode("cp1252", errors="replace"))
    except UnicodeEncodeError:  # half a character, as JSON can hold it: no file is called so
        return same_name(name)


def folded(name: str) -> str:
    """What is equal in names of files that differ by capitals and their Unicode form only."""
    return readable(name).casefold()


def names_below(folder: Path, *, deep: bool = True) -> Iterator[str]:
    """The paths below a folder of all its files, but for what is hidden or an operating system's own."""

    def counts(name: str) -> bool:
        return not name.startswith(".") and name.lower() not in NO_DATA

    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = filter(counts, folders) if deep else []
        inside = Path(where).relative_to(folder)
        yield from ((inside / name).as_posix() for name in files if counts(name))
