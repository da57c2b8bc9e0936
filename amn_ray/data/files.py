"""The files of a folder, found by the name of what they belong to, however that is spelled."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from amn_ray.data.text import same_name
from amn_ray.errors import RequestError

IMAGES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".pbm",
    ".pnm", ".avif", ".heic", ".heif", ".jp2", ".j2k", ".jpx", ".tga", ".dds", ".mpo", ".qoi",
)  # fmt: skip
"""Endings of photographs, in lower case. What else stands after a dot belongs to the name: IMG.2021.01."""
MASKS = (".png", ".bmp", ".tif", ".tiff", ".gif")
"""Endings of masks: those of formats that keep values as they are."""


class Files:
    """The files below a folder that have one of some endings, by their paths below it without the ending.

    Capitals and the Unicode form (macOS decomposes ü, others do not) make a difference only where files of both
    spellings are there. Names that are no UTF-8, as old archives have them, count as Windows-1252.
    """

    def __init__(self, folder: Path, endings: Sequence[str]) -> None:
        self.folder = folder
        self.endings = endings
        self._whole: dict[str, list[str]] = defaultdict(list)
        self._plain: dict[str, list[str]] = defaultdict(list)
        self._folded: dict[str, list[str]] = defaultdict(list)
        for file in _names(folder):
            name = _readable(file)
            plain = without_ending(name, endings)
            if plain != name:
                self._whole[name].append(file)
                self._plain[plain].append(file)
                self._folded[plain.casefold()].append(file)

    def find(self, name: str) -> Path | None:
        """The file of this name, with its ending or without; None if there is none.

        Raises:
            RequestError: two files have the name.
        """
        name = same_name(name)
        plain = without_ending(name, self.endings)
        for found in (
            self._whole.get(name),
            self._plain.get(name),
            self._plain.get(plain),
            self._folded.get(name.casefold()),
            self._folded.get(plain.casefold()),
        ):
            if found and len(found) > 1:
                one, other = map(_readable, found[:2])
                raise RequestError(
                    f"{self.folder}: holds {one!r} and {other!r}, either of which could be {name!r}; remove or rename "
                    "one of them"
                )
            if found:
                return self.folder / found[0]
        return None

    def name_of(self, path: Path) -> str:
        """The name of a file of this folder: its path below it, without the ending."""
        return without_ending(_readable(path.relative_to(self.folder).as_posix()), self.endings)


def without_ending(name: str, endings: Sequence[str]) -> str:
    """A name without its ending, if that is one of these, in whatever capitals."""
    return next((name[: -len(ending)] for ending in endings if name.lower().endswith(ending)), name)


def _readable(name: str) -> str:
    """The name of a file as text in its composed form."""
    try:
        name.encode()
    except UnicodeEncodeError:  # Python holds bytes that are no UTF-8 as surrogates
        name = os.fsencode(name).decode("cp1252", errors="replace")
    return same_name(name)


def _names(folder: Path) -> Iterator[str]:
    """The paths of all files below a folder, hidden ones left out."""
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = Path(where).relative_to(folder)
        yield from (str(inside / name) for name in sorted(files) if not name.startswith("."))
