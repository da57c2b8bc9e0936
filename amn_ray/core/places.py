"""Paths and URLs: opening them, and showing them without secrets."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs

from amn_ray.core.errors import RequestError


def locate(url: str, key: str = "store") -> tuple[pa.fs.FileSystem, str]:
    """The file system and path of a local path, or of any URL that pyarrow or an installed fsspec package opens.

    A path is taken literally, and so is a `file://` URL, except for its percent-encoding (`%20`).

    Raises:
        RequestError: the URL is empty or cannot be opened; `key` is the setting that names it.
    """
    if not url:
        raise RequestError(f"{key}= is empty: expected a directory or URL")
    if url.startswith("file:"):  # pyarrow would cut it at # or ?, and rejects spaces
        match = _FILE_URL.fullmatch(url)
        if match is None:
            raise RequestError(f"{key}={url}: expected three slashes, as in file:///path, or a plain path")
        return pa.fs.LocalFileSystem(), local_path(unquote(match[1], errors="surrogateescape"), key)
    if "://" not in url:
        if _ONE_SLASH.match(url):
            raise RequestError(f"{key}={url}: expected two slashes, as in s3://bucket/prefix, or a plain path")
        return pa.fs.LocalFileSystem(), local_path(url, key)
    try:
        if url.split("://")[0] in OF_PYARROW:
            return pa.fs.FileSystem.from_uri(url)
        import fsspec.core  # here: the numerical core imports this module and must run without fsspec

        fs, path = fsspec.core.url_to_fs(url)
        return pa.fs.PyFileSystem(pa.fs.FSSpecHandler(fs)), path
    except (OSError, ValueError, ImportError) as error:
        raise RequestError(f"{key}={without_secrets(url)}: cannot be opened ({first_line(error, url)})") from error


def local_path(path: str, key: str) -> str:
    """A local path as an absolute one, with `~` expanded.

    Raises:
        RequestError: there is no home directory, or the name is not UTF-8; `key` is the setting that names it.
    """
    try:
        absolute = str(Path(path).expanduser().resolve())
        absolute.encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise RequestError(f"{key}={shown}: its name is not UTF-8; rename it, or give a symlink to it") from error
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: no home directory, or a symlink loop
        raise RequestError(f"{key}={path}: is not a path ({first_line(error, path)}); give the full path") from error
    return absolute


_FILE_URL = re.compile(r"file:(?://(?:localhost)?|(?!//))(/.*)")
_ONE_SLASH = re.compile(r"(s3|gs|gcs|hdfs|viewfs|abfss?|https?):/")
OF_PYARROW = ("s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss")
"""The URL schemes, besides `file`, that pyarrow opens without fsspec."""
OBJECT_STORES = ("s3", "gcs", "abfs")
"""File systems without directories and renames, by pyarrow's type names."""


def without_secrets(url: str) -> str:
    """A URL (or a text with URLs) that is safe to show and to store: without user, password and secret parameters."""
    return _PARAMETER.sub(r"\1=***", _USER.sub("://***@", url))


_USER = re.compile(r"://([^/\s:]*:\S*|[^/\s]*)@")
"""Also with a password that holds an unencoded / or @."""
_PARAMETER = re.compile(r"([?&][^=&\s]*(?:secret|password|token|key|sig)[^=&\s]*)=[^&\s]*", re.IGNORECASE)


def first_line(error: BaseException, url: str) -> str:
    """The first line of an error's message, without the URL's secrets."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return without_secrets(text.replace(url, without_secrets(url)))
