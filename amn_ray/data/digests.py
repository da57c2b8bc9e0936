"""What files hold, as digests: each file is read once, and then known by what the file system says of it.

As in git's index, a file whose path, size, times of change and inode are those of the last time is taken for the same.
The time of its last change (ctime) is set by the kernel and cannot be set back. One that was younger than two seconds
may have changed once more within the clock's precision, so it is read again.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

SETTLED_NS = 2 * 10**9
"""Nanoseconds since a file's last change, after which its times tell the next one."""
TELL_EVERY = 10.0
"""Seconds between two lines of progress; what was read until then is remembered with each."""
LOCKED_S = 10.0
"""How long another process may hold the memory, before this one does without."""
_TABLE = "CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, state TEXT, digest TEXT) WITHOUT ROWID"
_T = TypeVar("_T")


class State(NamedTuple):
    """What the file system says of a file; times in nanoseconds."""

    size: int
    mtime: int
    ctime: int
    inode: int

    def __str__(self) -> str:
        return " ".join(map(str, self))


class Hashed(NamedTuple):
    """A file that was read."""

    digest: str
    state: State
    settled: bool
    """Whether another change would be seen in its state."""


def digest_of(content: bytes) -> str:
    """The SHA-256 of a file's content, in hex digits."""
    return hashlib.sha256(content).hexdigest()


def digests(paths: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of each file; "" for one that cannot be read.

    Progress is told on stderr where it takes long.
    """
    files = sorted(set(paths))
    with ThreadPoolExecutor() as threads:  # hashing, and waiting for the disk, happen without Python's lock
        states = {path: state for path, state in zip(files, threads.map(_state, files), strict=True) if state}
        found = _recall(states)
        unread = [path for path in files if path not in found]
        fresh: list[tuple[str, Hashed]] = []
        told = time.monotonic()
        for number, (path, hashed) in enumerate(zip(unread, threads.map(hash_file, unread), strict=True), start=1):
            found[path] = hashed.digest if hashed else ""
            if hashed and hashed.settled:
                fresh.append((path, hashed))
            if time.monotonic() - told > TELL_EVERY:
                told = time.monotonic()
                progress = f"{number:,} of {len(unread):,} files read to know what they hold (once)"
                print(f"{'images':>9}  {progress}", file=sys.stderr, flush=True)
                _remember(fresh)
                fresh = []
    _remember(fresh)
    return found


def hash_file(path: str) -> Hashed | None:
    """Read a file; None if that is impossible."""
    try:
        with open(path, "rb") as stream:
            before, now = os.fstat(stream.fileno()), time.time_ns()
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            state = _of(os.fstat(stream.fileno()))
    except OSError:
        return None
    settled = state == _of(before) and now - max(state.mtime, state.ctime) > SETTLED_NS
    return Hashed(digest, state, settled)


def memory() -> Path | None:
    """Where digests are remembered: in the user's cache folder, if there is one."""
    folder = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(folder):  # which its specification says to ignore
        folder = os.path.expanduser("~/.cache")
    return Path(folder) / "amn-ray" / "content.sqlite" if os.path.isabs(folder) else None


def _state(path: str) -> State | None:
    try:
        return _of(os.stat(path))
    except OSError:
        return None


def _of(stat: os.stat_result) -> State:
    return State(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


def _recall(states: Mapping[str, State]) -> dict[str, str]:
    """The digests of those files that are as they were."""
    query = "SELECT digest FROM files WHERE path = ? AND state = ?"

    def ask(database: sqlite3.Connection) -> dict[str, str]:
        rows = {path: database.execute(query, _key(path, state)).fetchone() for path, state in states.items()}
        return {path: row[0] for path, row in rows.items() if row}

    return _with_memory(ask, {})


def _remember(files: Sequence[tuple[str, Hashed]]) -> None:
    rows = [(*_key(path, hashed.state), hashed.digest) for path, hashed in files]

    def tell(database: sqlite3.Connection) -> None:
        database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", rows)

    if rows:
        _with_memory(tell, None)


def _key(path: str, state: State) -> tuple[bytes, str]:
    return os.fsencode(path), str(state)


def _with_memory(use: Callable[[sqlite3.Connection], _T], otherwise: _T) -> _T:
    """`use(database)`, or `otherwise` where there is none: to forget costs time, and never a run."""
    path = memory()
    if path is None:
        return otherwise
    for _ in range(2):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(path, timeout=LOCKED_S)) as database, database:
                database.execute(_TABLE)
                return use(database)
        except (sqlite3.OperationalError, OSError):  # a folder that cannot be written, a full disk, a lock
            break
        except sqlite3.DatabaseError:  # damaged: begin anew
            for damaged in (path, path.with_name(f"{path.name}-journal")):
                with suppress(OSError):
                    damaged.unlink()
    return otherwise
