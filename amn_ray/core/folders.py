"""Folders on a disk or in an object store, and atomic writes of files."""

from __future__ import annotations

import os
import posixpath
import time
from contextlib import suppress
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.fs

from amn_ray.core.places import OBJECT_STORES, without_secrets


def write_atomic(fs: pa.fs.FileSystem, path: str, content: bytes) -> None:
    """Write a file atomically: readers see all of it or nothing, and of two writers the last one wins.

    The file is written under a temporary name and then renamed. Object stores need no rename: an object exists only
    once its upload is complete. Other file systems (HDFS, SFTP, …) may be unable to rename onto an existing file, which
    is then overwritten in place.
    """
    fs.create_dir(posixpath.dirname(path), recursive=True)
    in_place = fs.type_name in OBJECT_STORES or (
        not isinstance(fs, pa.fs.LocalFileSystem) and fs.get_file_info(path).type == pa.fs.FileType.File
    )
    target = path if in_place else f"{path}.{time.time_ns()}.partial"
    with fs.open_output_stream(target) as stream:
        stream.write(content)
    if isinstance(fs, pa.fs.LocalFileSystem):
        flush(target)  # otherwise a power loss may leave an empty file
    if not in_place:
        fs.move(target, path)
    if isinstance(fs, pa.fs.LocalFileSystem):
        with suppress(OSError):  # some network disks cannot flush folders
            flush(posixpath.dirname(path))


def flush(path: str) -> None:
    """Wait until a local file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Folder:
    """A folder of the store; small and picklable, so it can be sent to workers."""

    fs: pa.fs.FileSystem = field(compare=False)
    path: str

    @property
    def url(self) -> str:
        """As shown to users: a path, or `s3://bucket/…`."""
        if "://" in self.path:  # HTTP: the path is the URL
            return without_secrets(self.path)
        return self.path if isinstance(self.fs, pa.fs.LocalFileSystem) else f"{_scheme(self.fs)}://{self.path}"

    @property
    def name(self) -> str:
        """The last part of its path."""
        return posixpath.basename(self.path)

    def at(self, name: str) -> str:
        return posixpath.join(self.path, name)

    def folder(self, *names: str) -> Folder:
        """A subfolder, which need not exist."""
        return Folder(self.fs, posixpath.join(self.path, *names))

    def entries(self) -> list[pa.fs.FileInfo]:
        """The files and folders in it, by name."""
        infos = self.fs.get_file_info(pa.fs.FileSelector(self.path, allow_not_found=True))
        return sorted(infos, key=lambda info: info.base_name)

    def exists(self, name: str = "") -> bool:
        return self.fs.get_file_info(self.at(name)).type != pa.fs.FileType.NotFound

    def read(self, name: str) -> bytes:
        with self.fs.open_input_stream(self.at(name)) as stream:
            return stream.read()

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically: readers see all of it or nothing."""
        write_atomic(self.fs, self.at(name), content)

    def remove(self, name: str = "") -> None:
        """Delete a file or folder in it, or the folder itself, if it exists."""
        path = self.at(name) if name else self.path
        kind = self.fs.get_file_info(path).type
        with suppress(FileNotFoundError):  # another process deleted it
            if kind == pa.fs.FileType.Directory:
                self.fs.delete_dir(path)
            elif kind == pa.fs.FileType.File:
                self.fs.delete_file(path)


def _scheme(fs: pa.fs.FileSystem) -> str:
    return fs.type_name.removeprefix("py::fsspec+")
