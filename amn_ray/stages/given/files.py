"""The files of a folder that the user names: where they are, and what they hold as a whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path

from amn_ray.core.errors import RequestError
from amn_ray.core.places import local_path
from amn_ray.data.digests import digests
from amn_ray.data.named_files import names_below


def folder_of(files: str | None, key: str) -> Path:
    """The folder that the setting `key` names.

    Raises:
        RequestError: it is not set, or there is no such folder.
    """
    if not files:
        raise RequestError(f"{key} is not set: expected the folder of the files; set {key}=/path")
    folder = Path(local_path(files, key))
    if not folder.is_dir():
        raise RequestError(f"{key}={files}: is not a folder")
    return folder


def content_digest(folder: Path, endings: Collection[str]) -> str:
    """The digest of all files with these endings: of their names, and of what they hold."""
    names = sorted(name for name in names_below(folder) if name.lower().endswith(tuple(endings)))
    known = digests(str(folder / name) for name in names)
    return hashlib.sha256(json.dumps([(name, known[str(folder / name)]) for name in names]).encode()).hexdigest()


def check_missing(missing: Sequence[str], total: int, allowed: float, key: str, what: str) -> list[str]:
    """Refuse more images without a file than are allowed; otherwise a sentence about those that are left out.

    Args:
        missing: the ids of images without one.
        total: the number of images.
        allowed: the share of them that may be missing.
        key: the step, for its settings.
        what: maps or masks.

    Raises:
        RequestError: more are missing.
    """
    if len(missing) > allowed * total:
        raise RequestError(
            f"{key}.files: {len(missing)} of {total} images have no {what}, such as {missing[0]}; add them, or set "
            f"{key}.max_missing to leave out a share of images"
        )
    if len(missing) == total:
        raise RequestError(f"{key}.files: none of {total} images has {what}, such as {missing[0]}")
    if not missing:
        return []
    return [f"{len(missing)} of {total} images have no {what} and are left out, such as {missing[0]}"]


def named_after(sentence: str, step: str) -> str:
    """A sentence about masks with the settings of this step, in place of those of the data set."""
    return sentence.replace("dataset.mask_", f"{step}.mask_").replace("dataset.palette", f"{step}.palette")


def missing_folder(folder: str) -> str | None:
    """What a node lacks, in words."""
    return None if Path(folder).is_dir() else f"has no {folder}; mount it at the same path on all nodes"
