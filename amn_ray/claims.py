"""Claims: of several pipelines that need the same missing artifact, one makes it and the others wait.

A claim is the file `<store>/claims/<name>.<n>`, touched while its owner lives. Creating a file that must
not exist is atomic, so claim n has one owner; who finds claim n expired takes over by creating claim n+1. Waiting
processes compare no clocks: they watch whether the file is touched. Where the owner ran on this machine and is gone,
nobody waits at all.

Only file systems with exclusive creation (a disk, NFS) can hold claims; in an object store each pipeline makes its own.
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
        if owner["host"] != socket.gethostname():
            return False
        try:
            return psutil.Process(owner["pid"]).create_time() != owner["started"]
        except psutil.NoSuchProcess:
            return True

    def touched(self) -> int:
        """The time of the last sign of life, for comparison with itself; 0 when released."""
        try:
            return self.path.stat().st_mtime_ns
        except OSError:
            return 0


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
        if claims:
            if not told and not claims[-1].owner_is_gone:
                on_wait()
                told = True
            if not _expires(claims[-1], is_done):
                continue  # released: look again whether it is done
        mine = _create(folder, name, claims[-1].number + 1 if claims else 0)
        if mine is not None:
            return mine
    return None


def _claims(folder: Path, name: str) -> list[Claim]:
    claims = [Claim(path, int(path.suffix[1:])) for path in folder.glob(f"{name}.*")]
    return sorted(claims, key=lambda claim: claim.number)


def _create(folder: Path, name: str, number: int) -> Claim | None:
    """The claim of this number, unless another process was faster."""
    path = folder / f"{name}.{number}"
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}
    try:
        with path.open("x") as stream:
            stream.write(json.dumps(owner))
    except FileExistsError:
        return None
    return Claim(path, number)


def _expires(claim: Claim, is_done: Callable[[], bool]) -> bool:
    """Wait until a claim is released (False) or its owner has given no sign of life for too long (True)."""
    last, since = claim.touched(), time.monotonic()
    while last and not is_done():
        if claim.owner_is_gone or time.monotonic() - since > EXPIRY_S:
            return True
        time.sleep(POLL_S)
        if (now := claim.touched()) != last:
            last, since = now, time.monotonic()
    return False


def _keep_alive(claim: Claim, ended: threading.Event) -> None:
    while not ended.wait(TOUCH_S):
        with suppress(OSError):
            os.utime(claim.path)
