"""Jobs submitted with `ray job submit`: Ray copies their working directory, and removes the copy later."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amn_ray.core.console import log
from amn_ray.core.errors import RequestError
from amn_ray.core.places import local_path
from amn_ray.platform.ray_internals import JOB_CONFIG

READ = ("root", "weights", "files")
"""The last parts of the keys of what jobs read, besides `images`."""
PRETRAINED = "pretrained"
"""The one value of `weights` that is not a file."""


def runtime_env() -> Mapping[str, Any]:
    """The job's own runtime environment; what it sets must not be set again."""
    config = json.loads(os.environ.get(JOB_CONFIG) or "{}")
    return config.get("runtime_env") or {}


def variables() -> Mapping[str, str]:
    """Its environment variables."""
    return runtime_env().get("env_vars") or {}


def leave() -> None:
    """Drop the job's runtime environment, which belongs to its cluster, before a local Ray starts."""
    os.environ.pop(JOB_CONFIG, None)


def check_places(settings: Mapping[str, Any], written: str) -> None:
    """Refuse results in a folder that Ray removes, and relative paths missing in the copy; log where results will be.

    Args:
        settings: dotted keys and values.
        written: the key of the path that the job writes to.

    Raises:
        RequestError: it is in a folder of Ray's session; or an input has a relative path that does not exist in the
            copy of the working directory.
    """
    place = _path(settings, written)
    if place is not None and _session_folder(place) is not None:
        raise RequestError(
            f"{written}={settings[written]}: would be in {place}, a folder of Ray's session that Ray removes; give an "
            "absolute path that all nodes mount, or s3://bucket/prefix"
        )
    if place is not None and JOB_CONFIG in os.environ and not Path(settings[written]).is_absolute():
        log(written, f"{place} (of the machine on which Ray runs this job)")
    if _session_folder(Path.cwd()) is None:
        return
    for key in settings:
        place = _path(settings, key) if key == "images" or key.rpartition(".")[2] in READ else None
        named = settings[key] != PRETRAINED
        if named and place is not None and not Path(settings[key]).is_absolute() and not place.exists():
            raise RequestError(
                f"{key}={settings[key]}: not found in {Path.cwd()}, the copy of the working directory in which Ray "
                "runs this job; give the absolute path, the same on all nodes"
            )


def _path(settings: Mapping[str, Any], key: str) -> Path | None:
    """The path on this machine that a setting names; None if it is not a path."""
    value = settings.get(key)
    return Path(local_path(value, key)) if isinstance(value, str) and "://" not in value else None


def _session_folder(path: Path) -> Path | None:
    """The folder of Ray's session that contains a path; None if there is none."""
    for parent in (path, *path.parents):
        if parent.name.startswith("session_") and (parent / "runtime_resources").is_dir():
            return parent
    return None
