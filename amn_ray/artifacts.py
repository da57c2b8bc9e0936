"""What the stages hand to each other: fingerprinted folders of Parquet tables and weights.

An artifact is the folder `<store>/<stage>/<fingerprint>/`. The fingerprint is a hash of everything that decides
its content, and `manifest.json` is written last and atomically: **a folder without a manifest does not exist**. A
stage whose manifest is there is never run again, which is how pipelines resume and how runs share work.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import posixpath
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import fsspec.core
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from amn_ray.errors import RequestError

MANIFEST = "manifest.json"
PACKAGES = ("amn-ray", "ray", "torch", "torchvision", "pydensecrf2", "numpy", "pyarrow", "mlflow")
"""Whose versions a manifest records."""
MODULES = ("ray", "torch", "torchvision", "pydensecrf", "numpy", "pyarrow", "mlflow", "safetensors")
"""That some step imports, perhaps only after hours."""


def fingerprint(*parts: Any) -> str:
    """The first 16 hex digits of the SHA-256 of the parts' canonical JSON; dataclasses count as dicts."""
    text = json.dumps([_plain(part) for part in parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def locate(url: str, key: str = "store") -> tuple[pa.fs.FileSystem, str]:
    """The file system and path of a local path, or of any URL that pyarrow or an installed fsspec package opens.

    Of a path every character is meant; of a `file://` URL, too, but for what is encoded in it (`%20`).

    Raises:
        RequestError: no such kind of URL, or no place at all; `key` is the setting that named it.
    """
    if not url:
        raise RequestError(f"{key}= is empty: expected a directory or URL")
    if url.startswith("file:"):  # pyarrow would end it at # or ?, and refuses spaces
        found = _FILE_URL.fullmatch(url)
        if found is None:
            raise RequestError(f"{key}={url}: expected three slashes, as in file:///path, or a plain path")
        return pa.fs.LocalFileSystem(), local_path(unquote(found[1], errors="surrogateescape"), key)
    if "://" not in url:
        if _ONE_SLASH.match(url):
            raise RequestError(f"{key}={url}: expected two slashes, as in s3://bucket/prefix, or a plain path")
        return pa.fs.LocalFileSystem(), local_path(url, key)
    try:
        if url.split("://")[0] in OF_PYARROW:
            return pa.fs.FileSystem.from_uri(url)
        fs, path = fsspec.core.url_to_fs(url)
        return pa.fs.PyFileSystem(pa.fs.FSSpecHandler(fs)), path
    except (OSError, ValueError, ImportError) as error:
        raise RequestError(f"{key}={without_secrets(url)}: cannot be opened ({_first_line(error, url)})") from error


def local_path(path: str, key: str) -> str:
    """A path of this machine as an absolute one, with `~` filled in.

    Raises:
        RequestError: there is no such home, or the name is not UTF-8; `key` is the setting that named it.
    """
    try:
        found = str(Path(path).expanduser().resolve())
        found.encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise RequestError(f"{key}={shown}: its name is not UTF-8; rename it, or a link to it") from error
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: no home, or links in a circle
        raise RequestError(f"{key}={path}: is not a path ({_first_line(error, path)}); write it in full") from error
    return found


_FILE_URL = re.compile(r"file:(?://(?:localhost)?|(?!//))(/.*)")
_ONE_SLASH = re.compile(r"(s3|gs|gcs|hdfs|viewfs|abfss?|https?):/")


OF_PYARROW = ("s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss")
"""The kinds of URL, besides `file`, that pyarrow opens by itself."""
OBJECT_STORES = ("s3", "gcs", "abfs")
"""Of these, those without directories and renames."""


def without_secrets(url: str) -> str:
    """A URL (or a text with URLs) as it may be shown and stored: without user, password and secret parameters."""
    return _PARAMETER.sub(r"\1=***", _USER.sub("://***@", url))


_USER = re.compile(r"://([^/\s:]*:\S*|[^/\s]*)@")
"""Also with a password that holds / or @, as one that was not encoded does."""
_PARAMETER = re.compile(r"([?&][^=&\s]*(?:secret|password|token|key|sig)[^=&\s]*)=[^&\s]*", re.IGNORECASE)


def write_whole(fs: pa.fs.FileSystem, path: str, content: bytes) -> None:
    """Write a file so that readers see all of it or nothing, and of two writers the last one wins.

    It is written beside its place and then renamed. An object store has no rename, and needs none: an object exists
    when its upload has been completed, and a process that dies before leaves nothing. Other file systems than disks
    (HDFS, SFTP, …) do not all rename onto a file: what is there already is overwritten in place.
    """
    fs.create_dir(posixpath.dirname(path), recursive=True)
    in_place = fs.type_name in OBJECT_STORES or (
        not isinstance(fs, pa.fs.LocalFileSystem) and fs.get_file_info(path).type == pa.fs.FileType.File
    )
    target = path if in_place else f"{path}.{time.time_ns()}.partial"
    with fs.open_output_stream(target) as stream:
        stream.write(content)
    if isinstance(fs, pa.fs.LocalFileSystem):
        _flush(target)  # or a power loss may leave the new name on an empty file
    if not in_place:
        fs.move(target, path)
    if isinstance(fs, pa.fs.LocalFileSystem):
        with suppress(OSError):  # some network disks flush no folders
            _flush(posixpath.dirname(path))


def _flush(path: str) -> None:
    """Return when a local file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Folder:
    """A folder of the store; small and picklable, so that it can travel to workers."""

    fs: pa.fs.FileSystem = field(compare=False)
    path: str

    @property
    def url(self) -> str:
        """For the reader: a path, or `s3://bucket/…`."""
        if "://" in self.path:  # of HTTP, whose paths are whole
            return without_secrets(self.path)
        return self.path if isinstance(self.fs, pa.fs.LocalFileSystem) else f"{_scheme(self.fs)}://{self.path}"

    @property
    def name(self) -> str:
        """The last part of its path."""
        return posixpath.basename(self.path)

    def at(self, name: str) -> str:
        return posixpath.join(self.path, name)

    def folder(self, *names: str) -> Folder:
        """A folder below it, whether it exists or not."""
        return Folder(self.fs, posixpath.join(self.path, *names))

    def entries(self) -> list[pa.fs.FileInfo]:
        """The files and folders in it, by name."""
        found = self.fs.get_file_info(pa.fs.FileSelector(self.path, allow_not_found=True))
        return sorted(found, key=lambda info: info.base_name)

    def exists(self, name: str = "") -> bool:
        return self.fs.get_file_info(self.at(name)).type != pa.fs.FileType.NotFound

    def read(self, name: str) -> bytes:
        with self.fs.open_input_stream(self.at(name)) as stream:
            return stream.read()

    def write(self, name: str, content: bytes) -> None:
        """Write a file so that readers see all of it or nothing."""
        write_whole(self.fs, self.at(name), content)

    def remove(self, name: str = "") -> None:
        """Delete a file or a folder in it (or the whole) if it is there."""
        path = self.at(name) if name else self.path
        kind = self.fs.get_file_info(path).type
        with suppress(FileNotFoundError):  # somebody else was faster
            if kind == pa.fs.FileType.Directory:
                self.fs.delete_dir(path)
            elif kind == pa.fs.FileType.File:
                self.fs.delete_file(path)


def _scheme(fs: pa.fs.FileSystem) -> str:
    return fs.type_name.removeprefix("py::fsspec+")


@dataclass(frozen=True)
class Store(Folder):
    """Where artifacts live: a directory, or any URL that pyarrow or fsspec opens (`s3://bucket/prefix`)."""

    @classmethod
    def open(cls, url: str, key: str = "store") -> Store:
        """Open a place to write to, and probe it; `key` is the setting that named it.

        Raises:
            RequestError: the store cannot be created or written to.
        """
        try:
            store = cls(*locate(url, key))
            store.fs.create_dir(store.path, recursive=True)
            # os.access lies for root and for network mounts; only a write tells.
            probe = f".probe-{time.time_ns()}"
            store.write(probe, b"probe")
            store.remove(probe)
        except OSError as error:
            raise _refused(url, key, "written", error) from error
        return store

    @classmethod
    def reading(cls, url: str, key: str = "store") -> Store:
        """Open a place to read from, whether there is something or not; `key` is the setting that named it.

        Raises:
            RequestError: the store cannot be asked.
        """
        store = cls(*locate(url, key))
        try:
            store.exists()
        except OSError as error:
            raise _refused(url, key, "read", error) from error
        return store

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, pa.fs.LocalFileSystem)

    def artifact(self, stage: str, version: int, config: Any, inputs: Mapping[str, Artifact]) -> Artifact:
        """The artifact that `stage` makes of `config` and `inputs`, whether it exists yet or not."""
        sources = {name: item.fingerprint for name, item in inputs.items()}
        digest = fingerprint(stage, version, config, sources)
        return Artifact(self.fs, posixpath.join(self.path, stage, digest), stage, digest)


@dataclass(frozen=True)
class Artifact(Folder):
    """One fingerprinted folder of the store."""

    stage: str
    fingerprint: str
    check: Callable[[], None] | None = field(default=None, compare=False, repr=False)
    """Called before the artifact is committed or anything in it removed; raises if another process makes it now. It
    stays in the process that has the claim."""

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "check": None}

    def check_claim(self) -> None:
        """Before it is changed for good.

        Raises:
            RunError: the claim was lost.
        """
        if self.check is not None:
            self.check()

    def remove(self, name: str = "") -> None:
        """See Folder; not if the claim was lost."""
        self.check_claim()
        super().remove(name)

    @property
    def complete(self) -> bool:
        return self.exists(MANIFEST)

    def manifest(self) -> dict[str, Any]:
        return json.loads(self.read(MANIFEST))

    def commit(
        self, *, config: Any, inputs: Mapping[str, Artifact], seconds: float, result: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write the manifest, which makes the artifact exist; `result` is what the stage returned.

        Raises:
            RunError: the claim was lost.
        """
        manifest = {
            "stage": self.stage,
            "fingerprint": self.fingerprint,
            "config": _plain(config),
            "inputs": {name: item.fingerprint for name, item in inputs.items()},
            "seconds": round(seconds, 2),
            "versions": versions(),
            "git_commit": git_commit(),
            **result,
        }
        if isinstance(self.fs, pa.fs.LocalFileSystem):
            self._flush_all()
        self.check_claim()
        self.write(MANIFEST, json.dumps(manifest, indent=2).encode())
        return manifest

    def _flush_all(self) -> None:
        """What a manifest vouches for is on the disk before it."""
        for info in self.fs.get_file_info(pa.fs.FileSelector(self.path, recursive=True, allow_not_found=True)):
            if info.type == pa.fs.FileType.File:
                _flush(info.path)

    def table(self, name: str) -> Table:
        """One of the artifact's tables, opened (and its index read) once per process."""
        return _open_table(self, name)


@lru_cache(maxsize=16)
def _open_table(artifact: Artifact, name: str) -> Table:
    return Table(artifact.fs, artifact.at(name))


class Table:
    """A folder of Parquet shards with one row per image, looked up by `image_id`.

    Stages join their inputs by looking rows up: shards hold neighbouring images in every table, so the rows that one
    batch needs lie in one or two row groups, and no shuffle moves any data.
    """

    def __init__(self, fs: pa.fs.FileSystem, path: str) -> None:
        self.fs = fs
        self.path = path
        self._row_group = lru_cache(maxsize=4)(self._read_row_group)
        self._rows: dict[str, int] = {}

    def __reduce__(self) -> tuple[type[Table], tuple[pa.fs.FileSystem, str]]:
        return Table, (self.fs, self.path)  # without what this process has read of it

    @property
    def files(self) -> list[str]:
        selector = pa.fs.FileSelector(self.path, allow_not_found=True)
        return sorted(item.path for item in self.fs.get_file_info(selector) if item.path.endswith(".parquet"))

    def count(self) -> int:
        """Rows of the shards that are whole at this moment (a shard in the making is left out)."""
        files = self.files
        for path in files:
            if path not in self._rows:  # a shard never changes
                with suppress(pa.ArrowInvalid, OSError), pq.ParquetFile(path, filesystem=self.fs) as shard:
                    self._rows[path] = shard.metadata.num_rows
        return sum(self._rows.get(path, 0) for path in files)

    @cached_property
    def _places(self) -> dict[str, tuple[str, int, int]]:
        """image_id -> (file, row group, row in the group)."""
        places: dict[str, tuple[str, int, int]] = {}
        for path in self.files:
            with pq.ParquetFile(path, filesystem=self.fs) as shard:
                for group in range(shard.num_row_groups):
                    ids = shard.read_row_group(group, columns=["image_id"]).column(0).to_pylist()
                    places.update((image_id, (path, group, row)) for row, image_id in enumerate(ids))
        return places

    def ids(self) -> list[str]:
        """All image ids, sorted."""
        return sorted(self._places)

    def all_ids(self) -> list[str]:
        """What is in the column at this moment, sorted: an id that is there twice is told twice."""
        ids: list[str] = []
        for path in self.files:
            with suppress(pa.ArrowInvalid, OSError), pq.ParquetFile(path, filesystem=self.fs) as shard:
                ids += shard.read(columns=["image_id"]).column(0).to_pylist()
        return sorted(ids)

    def find(self, ids: Sequence[str], columns: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of a few ids, in their order, without an index of the whole table.

        Raises:
            KeyError: an id is not in the table.
        """
        from pyarrow import dataset  # brings pandas: a quarter of a second, and few processes need it

        wanted = dataset.dataset(self.files, filesystem=self.fs, format="parquet").to_table(
            columns=["image_id", *columns], filter=dataset.field("image_id").isin(list(ids))
        )
        rows = {row["image_id"]: row for row in wanted.to_pylist()}
        return [rows[image_id] for image_id in ids]

    def column(self, name: str) -> dict[str, Any]:
        """One (small) column of the whole table by image id."""
        rows = self.read([name])
        return dict(zip(rows.column("image_id").to_pylist(), rows.column(name).to_pylist(), strict=True))

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Whole columns, with `image_id`, ordered by it."""
        shards = [
            pq.read_table(path, columns=["image_id", *columns], filesystem=self.fs, partitioning=None)
            for path in self.files
        ]
        return pa.concat_tables(shards).sort_by("image_id")

    def take(self, ids: Iterable[str], columns: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of `ids`, in their order, as dicts of `columns`.

        Raises:
            KeyError: an id is not in the table.
        """
        names = tuple(columns)
        rows = []
        for image_id in ids:
            path, group, row = self._places[image_id]
            table = self._row_group(path, group, names)
            rows.append({name: table.column(name)[row].as_py() for name in names})
        return rows

    def _read_row_group(self, path: str, group: int, columns: tuple[str, ...]) -> pa.Table:
        with pq.ParquetFile(path, filesystem=self.fs) as shard:
            return shard.read_row_group(group, columns=list(columns))


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """The versions of PACKAGES; "unknown" where a package was not installed under this name (a source tree)."""
    found = dict.fromkeys(PACKAGES, "unknown")
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def missing_modules() -> str | None:
    """What this Python lacks for a pipeline, in words that follow a node's name; found without importing anything."""
    missing = [name for name in MODULES if find_spec(name) is None]
    return f"lacks the Python module(s) {', '.join(missing)}; install requirements.txt there" if missing else None


@lru_cache(maxsize=1)
def git_commit() -> str:
    """The commit of the source tree; in an image, which has none, what AMN_GIT_COMMIT says; or "unknown"."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("AMN_GIT_COMMIT", "unknown")


def _refused(url: str, key: str, done: str, error: OSError) -> RequestError:
    return RequestError(
        f"{key}={without_secrets(url)}: cannot be {done} ({_first_line(error, url)}); give a directory or URL that you "
        "have the right to, and for an object store its credentials (s3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
        "AWS_ENDPOINT_URL)"
    )


def _first_line(error: BaseException, url: str) -> str:
    """What went wrong, without the secrets that the URL may hold."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return without_secrets(text.replace(url, without_secrets(url)))
