"""Claims: of several pipelines that need the same missing artifact, one makes it and the others wait.

Who wants something draws a number, as in Lamport's bakery: it says that it is choosing, takes a number above all that
it sees, and waits until nobody is choosing and nobody has a smaller number. Numbers are files in `<store>/claims/`, so
this needs no more of a store than that a file that was written is listed from then on, which disks and today's object
stores all promise; no file system's locks or exclusive creation.

Files are written again and again while their owner lives. Waiting processes compare no clocks: they watch whether a
file changes. Where the owner ran on this machine and is gone, nobody waits at all. A process that was paused for
longer than the expiry counts as dead.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

from amn_ray.artifacts import Folder, Store

TOUCH_S = 10.0
"""Between two signs of life of an owner."""
EXPIRY_S = 60.0
"""Without a sign of life, after which a claim has expired."""
POLL_S = 0.5
CLOCK_S = 60.0
"""A process's start is told by the wall clock, which may be set."""
CHOOSING = 0
"""The number of who is choosing one: smaller than all others, so that everybody waits for it."""


@dataclass(frozen=True, order=True)
class Ticket:
    """One file: somebody's number."""

    number: int
    owner: str

    def file(self, name: str) -> str:
        return f"{name}.{self.number}.{self.owner}"


@contextmanager
def claimed(store: Store, name: str, *, is_done: Callable[[], bool], on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the claim on something, or wait until another owner is done with it.

    Args:
        store: where claims are kept.
        name: of what is claimed.
        is_done: whether there is nothing left to do; the block is then entered without a claim.
        on_wait: called once if there is another owner, before waiting for it.
    """
    if is_done():
        yield
        return
    queue = Queue(store.folder("claims"), name)
    try:
        queue.wait_for_turn(is_done, on_wait)
        yield
    finally:
        queue.leave()


class Queue:
    """All who want the same thing, seen by one of them."""

    def __init__(self, folder: Folder, name: str) -> None:
        self.folder = folder
        self.name = name
        self.me = uuid.uuid4().hex[:12]
        self.mine: Ticket | None = None
        self._signs: dict[Ticket, tuple[object, float]] = {}
        """What was last seen of others, and since when."""
        self._left = threading.Event()
        self._alive = threading.Thread(target=self._keep_alive, daemon=True)

    def wait_for_turn(self, is_done: Callable[[], bool], on_wait: Callable[[], None]) -> None:
        """Return when the thing is ours, or done."""
        self._alive.start()
        told = False
        while not is_done():
            tickets = self.tickets()
            mine = self.mine
            if mine is None or mine not in tickets:  # also if we were taken for dead
                self._draw()
                continue
            ahead = [ticket for ticket in tickets if ticket < mine and ticket.owner != self.me]
            for ticket in ahead:
                if self._is_dead(ticket, tickets[ticket]):
                    self.folder.remove(ticket.file(self.name))
                elif not told and ticket.number != CHOOSING:
                    on_wait()
                    told = True
            if not ahead:
                return
            time.sleep(POLL_S)

    def leave(self) -> None:
        """Give the number back."""
        self._left.set()
        self._alive.join()
        if self.mine is not None:
            self.folder.remove(self.mine.file(self.name))

    def tickets(self) -> Mapping[Ticket, object]:
        """All that are there, each with what changes when it is written again."""
        found = {}
        for entry in self.folder.entries():
            name, _, rest = entry.base_name.rpartition(".")
            name, _, number = name.rpartition(".")
            if name == self.name and number.isdigit():
                found[Ticket(int(number), rest)] = (entry.mtime_ns, entry.size)
        return found

    def _draw(self) -> None:
        choosing = Ticket(CHOOSING, self.me)
        self._write(choosing)
        try:
            taken = max((ticket.number for ticket in self.tickets()), default=CHOOSING)
            mine = Ticket(taken + 1, self.me)
            self._write(mine)
            self.mine = mine
        finally:
            self.folder.remove(choosing.file(self.name))

    def _write(self, ticket: Ticket) -> None:
        owner = {"machine": machine(), "pid": os.getpid(), "started": psutil.Process().create_time()}
        self.folder.write(ticket.file(self.name), json.dumps(owner).encode())

    def _is_dead(self, ticket: Ticket, sign: object) -> bool:
        """Whether its owner surely ended, or gave no sign of life for too long."""
        last, since = self._signs.get(ticket, (None, 0.0))
        if sign != last:
            since = time.monotonic()
            self._signs[ticket] = (sign, since)
        return time.monotonic() - since > EXPIRY_S or self._is_gone(ticket)

    def _is_gone(self, ticket: Ticket) -> bool:
        """Whether it ran on this machine and its process does not any more."""
        try:
            owner = json.loads(self.folder.read(ticket.file(self.name)))
        except (OSError, ValueError):  # just released, or on a disk that is being read while it is written
            return False
        if owner["machine"] != machine():
            return False
        try:
            started = psutil.Process(owner["pid"]).create_time()
        except psutil.NoSuchProcess:
            return True
        return abs(started - owner["started"]) > CLOCK_S

    def _keep_alive(self) -> None:
        while not self._left.wait(TOUCH_S):
            with suppress(OSError):
                if self.mine is not None and self.folder.exists(self.mine.file(self.name)):
                    self._write(self.mine)


def machine() -> list[str]:
    """The host and, where there is such a thing, the namespace in which process ids mean something."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return [socket.gethostname(), namespace]
