"""Names of image files, as lists and annotations give them -> the files, and the images' ids."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath

from amn_ray.data.text import same_name


def locate(names: Sequence[str], folders: Sequence[Path]) -> tuple[dict[str, Path], list[str]]:
    """Where images are that are listed by name.

    Args:
        names: paths with slashes.
        folders: where to look, in this order.

    Returns:
        The files by name, as far as they are there; and the names that were found by their last part only, which no
        other name has, or but for capitals and the form of accents.
    """
    spelt = [_Spellings(folder) for folder in folders]
    ends = Counter(_folded(PurePosixPath(name).name) for name in names)
    found, moved = {}, []
    for name in names:
        end = PurePosixPath(name).name
        place = _first(folder / name for folder in folders)
        if place is None and ends[_folded(end)] == 1:
            place = _first(folder / end for folder in folders)
            place = place or next(filter(None, (spellings.find(end) for spellings in spelt)), None)
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


def image_ids(names: Iterable[str]) -> dict[str, str]:
    """Ids by name: the last part without its ending, as far as these differ, else more of the path."""
    whole = {
        name: PurePosixPath(*[part for part in PurePosixPath(name).parts if part not in ("/", "..")]) for name in names
    }
    ids = {name: path.stem for name, path in whole.items()}
    if len(set(ids.values())) < len(ids):
        ids = {name: str(path.with_suffix("")) for name, path in whole.items()}
    return ids if len(set(ids.values())) == len(ids) else {name: str(path) for name, path in whole.items()}


class _Spellings:
    """The files of a folder by their names without capitals, accents composed: read once something is not found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, name: str) -> Path | None:
        """The one file with this name but for its spelling."""
        files = self._files.get(_folded(name), [])
        return files[0] if len(files) == 1 else None

    @cached_property
    def _files(self) -> dict[str, list[Path]]:
        result = defaultdict(list)
        for file in self.folder.iterdir():
            result[_folded(file.name)].append(file)
        return result


def _folded(name: str) -> str:
    return same_name(name).casefold()
