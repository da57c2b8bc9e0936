"""Claims: of several pipelines that need the same missing artifact, one makes it and the others wait.

A claim is the file `<store>/claims/<name>.<n>`, touched while its owner lives. Creating a file that must
not exist is atomic, so claim n has one owner; who finds claim n expired takes over by creating claim n+1. Waiting
processes compare no clocks: they watch whether the file is touched. Where the owner ran on this machine and is gone,
nobody waits at all.

Only directories (a disk, or one that all nodes mount) can hold claims. In an object store nothing is claimed: there,
two pipelines must not make the same artifact at the same time.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from amn_ray.artifacts import Store

TOUCH_S = 10.0
"""Between two signs of life of an owner."""
EXPIRY_S = 60.0
"""Without a sign of life, after which a claim has expired."""
POLL_S = 0.5
CLOCK_S = 60.0
"""A process's start is told by the wall clock, which may be set."""


@dataclass(frozen=True)
class Claim:
    """One claim file."""

    path: Path
    number: int

    @property
    def owner_is_gone(self) -> bool:
        """Whether the owner surely ended: it ran on this machine and its process does not any more."""
        try:
            owner = json.loads(self.path.read_text())
        except (OSError, ValueError):  # just released, or not yet written
            return False
        if owner["machine"] != _machine():
            return False
        try:
            started = psutil.Process(owner["pid"]).create_time()
        except psutil.NoSuchProcess:
            return True
        return abs(started - owner["started"]) > CLOCK_S

    def touched(self) -> tuple[int, int] | None:
        """Which file it is and when it was touched, for comparison with itself; None when released."""
        try:
            stat = self.path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns


def _machine() -> list[str]:
    """The host and, where there is such a thing, the namespace in which process ids mean something."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return [socket.gethostname(), namespace]


@contextmanager
def claimed(store: Store, name: str, *, is_done: Callable[[], bool], on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the claim on something, or wait until another owner is done with it.

    Args:
        store: where claims are kept.
        name: of what is claimed.
        is_done: whether there is nothing left to do; the block is then entered without a claim.
        on_wait: called once if there is another owner, before waiting for it.
    """
    if not store.is_local:
        yield
        return
    folder = Path(store.root) / "claims"
    folder.mkdir(parents=True, exist_ok=True)
    mine = _acquire(folder, name, is_done, on_wait)
    if mine is None:
        yield
        return
    ended = threading.Event()
    alive = threading.Thread(target=_keep_alive, args=(mine, ended), daemon=True)
    alive.start()
    try:
        yield
    finally:
        ended.set()
        alive.join()
        for claim in _claims(folder, name):
            if claim.number <= mine.number:
                claim.path.unlink(missing_ok=True)


def _acquire(folder: Path, name: str, is_done: Callable[[], bool], on_wait: Callable[[], None]) -> Claim | None:
    """A claim of our own; None once there is nothing left to do."""
    told = False
    while not is_done():
        claims = _claims(folder, name)
        expired = None
        if claims:
            if not told and not claims[-1].owner_is_gone:
                on_wait()
                told = True
            expired = _expired(claims[-1], is_done)
            if expired is None:
                continue  # released: look again whether it is done
        mine = _create(folder, name, claims[-1].number + 1 if claims else 0)
        if mine is None:
            time.sleep(POLL_S)
        elif expired is not None and claims[-1].touched() != expired:  # others were faster, and have released both
            mine.path.unlink(missing_ok=True)
        else:
            return mine
    return None


def _claims(folder: Path, name: str) -> list[Claim]:
    claims = [Claim(path, int(path.suffix[1:])) for path in folder.glob(f"{name}.*")]
    return sorted(claims, key=lambda claim: claim.number)


def _create(folder: Path, name: str, number: int) -> Claim | None:
    """The claim of this number, unless another process was faster."""
    path = folder / f"{name}.{number}"
    owner = {"machine": _machine(), "pid": os.getpid(), "started": psutil.Process().create_time()}
    try:
        with path.open("x") as stream:
            stream.write(json.dumps(owner))
    except FileExistsError:
        return None
    return Claim(path, number)


def _expired(claim: Claim, is_done: Callable[[], bool]) -> tuple[int, int] | None:
    """Wait until a claim is released (None), or its owner gave no sign of life for too long (what `touched` says)."""
    last, since = claim.touched(), time.monotonic()
    while last is not None and not is_done():
        if claim.owner_is_gone or time.monotonic() - since > EXPIRY_S:
            return last
        time.sleep(POLL_S)
        if (now := claim.touched()) != last:
            last, since = now, time.monotonic()
    return None


def _keep_alive(claim: Claim, ended: threading.Event) -> None:
    while not ended.wait(TOUCH_S):
        with suppress(OSError):
            os.utime(claim.path)
