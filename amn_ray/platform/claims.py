"""Claims: of several pipelines that need the same missing artifact, one makes it and the others wait.

Who wants something draws a number, as in Lamport's bakery: it says that it is choosing, takes a number above all that
it sees, and waits until nobody is choosing and nobody has a smaller number. Numbers are files in `<store>/claims/`, so
this needs no more of a store than that a file that was written is listed from then on, which disks and today's object
stores all promise; no file system's locks or exclusive creation.

Files are written again and again while their owner lives. Waiting processes compare no clocks: they watch whether a
file's content changes. Where the owner ran on this machine and is gone, nobody waits at all. A process that was paused
for longer than the expiry counts as dead; when it goes on, it has lost its claim, and must neither commit nor delete.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from amn_ray.core.artifacts import Store
from amn_ray.core.errors import RunError
from amn_ray.core.folders import Folder

TOUCH_S = 10.0
"""Between two signs of life of an owner."""
EXPIRY_S = 60.0
"""Without a sign of life, after which a claim has expired."""
POLL_S = 0.5
START_S = 5.0
"""By which the start of one process may seem to differ from one look to the next."""
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
def claimed(
    store: Store, name: str, *, is_done: Callable[[], bool], on_wait: Callable[[], None]
) -> Iterator[Callable[[], None]]:
    """Hold the claim on something, or wait until another owner is done with it.

    Yields a check, to be called before what is claimed is changed for good; it raises RunError if the claim was lost.

    Args:
        store: where claims are kept.
        name: of what is claimed.
        is_done: whether there is nothing left to do; the block is then entered without a claim.
        on_wait: called once if there is another owner, before waiting for it.
    """
    if is_done():
        yield lambda: None
        return
    queue = Queue(store.folder("claims"), name)
    try:
        queue.wait_for_turn(is_done, on_wait)
        yield queue.check
    finally:
        queue.leave()


class Queue:
    """All who want the same thing, seen by one of them."""

    def __init__(self, folder: Folder, name: str) -> None:
        self.folder = folder
        self.name = name
        self.me = uuid.uuid4().hex[:12]
        self.mine: Ticket | None = None
        self._written = 0.0
        """When we last gave a sign of life."""
        self._signs: dict[Ticket, tuple[bytes, float]] = {}
        """What was last seen of others, and since when."""
        self._left = threading.Event()
        self._alive = threading.Thread(target=self._keep_alive, daemon=True)

    def wait_for_turn(self, is_done: Callable[[], bool], on_wait: Callable[[], None]) -> None:
        """Return when the thing is ours, or done.

        Raises:
            OSError: the store has not answered for longer than a claim is kept.
        """
        self._alive.start()
        told, answered = False, time.monotonic()
        while True:
            try:
                if is_done():
                    return
                ahead = self._ahead()
            except OSError:
                if time.monotonic() - answered > EXPIRY_S:
                    raise
            else:
                answered = time.monotonic()
                if ahead is None:
                    continue
                if not ahead:
                    return
                if not told and any(ticket.number != CHOOSING for ticket in ahead):
                    on_wait()
                    told = True
            time.sleep(POLL_S)

    def _ahead(self) -> list[Ticket] | None:
        """Who comes before us and lives; None if we had no number, and drew one."""
        tickets = self.tickets()
        mine = self.mine
        if mine is None or mine not in tickets:  # also if we were taken for dead
            self._draw()
            return None
        before = [ticket for ticket in tickets if ticket < mine and ticket.owner != self.me]
        dead = [ticket for ticket in before if self._is_dead(ticket)]
        for ticket in dead:
            self.folder.remove(ticket.file(self.name))
        return [ticket for ticket in before if ticket not in dead]

    def check(self) -> None:
        """Before something is changed for good.

        Raises:
            RunError: we were taken for dead, so another process may be at it.
        """
        if self.mine is not None and not self._is_held():
            raise RunError(
                f"{self.name}: this process was paused, or did not reach its store, for more than {EXPIRY_S:g} "
                "seconds, so another run may be making it now; run again, and it waits for that one"
            )

    def _is_held(self) -> bool:
        """Whether our file is there, and nobody can be about to remove it: all others have to watch it for a while."""
        tickets = self.tickets()
        alone = all(ticket.owner == self.me for ticket in tickets)
        return self.mine in tickets and (alone or _now() - self._written <= EXPIRY_S)

    def leave(self) -> None:
        """Give the number back."""
        self._left.set()
        self._alive.join()
        with suppress(OSError):  # it will expire
            if self.mine is not None:
                self.folder.remove(self.mine.file(self.name))

    def tickets(self) -> set[Ticket]:
        """All that are there."""
        found = set()
        for entry in self.folder.entries():
            name, _, rest = entry.base_name.rpartition(".")
            name, _, number = name.rpartition(".")
            if name == self.name and number.isdigit():
                found.add(Ticket(int(number), rest))
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
        owner = {"machine": machine(), "pid": os.getpid(), "started": _started(os.getpid())}
        now = _now()
        content = owner | {"alive": now}  # differs each time, and nothing else is asked of it
        self.folder.write(ticket.file(self.name), json.dumps(content).encode())
        self._written = now

    def _is_dead(self, ticket: Ticket) -> bool:
        """Whether its owner surely ended, or gave no sign of life for too long."""
        try:
            sign = self.folder.read(ticket.file(self.name))
        except OSError:  # just released
            return False
        last, since = self._signs.get(ticket, (None, 0.0))
        if sign != last:
            since = time.monotonic()
            self._signs[ticket] = (sign, since)
        return time.monotonic() - since > EXPIRY_S or self._is_gone(sign)

    def _is_gone(self, sign: bytes) -> bool:
        """Whether it ran on this machine and its process surely does not any more."""
        try:
            owner = json.loads(sign)
        except ValueError:  # read while it was written
            return False
        here = machine()
        if here is None or owner["machine"] != here:
            return False
        try:
            os.kill(owner["pid"], 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # somebody else's process, which is there
            pass
        started = _started(owner["pid"])
        return None not in (started, owner["started"]) and abs(started - owner["started"]) > START_S

    def _keep_alive(self) -> None:
        while not self._left.wait(TOUCH_S):
            with suppress(OSError):
                # A lost claim stays lost: to write it again would put us before who has it now.
                if self.mine is not None and self._is_held():
                    self._write(self.mine)


def machine() -> list[str] | None:
    """What process ids belong to: the host, its present boot and the namespace; None where that cannot be told.

    Names alone do not tell: many hosts are called localhost, and the first namespace has the same number on all.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return [socket.gethostname(), boot, os.readlink("/proc/self/ns/pid")]
    except OSError:
        return None


def _started(pid: int) -> float | None:
    """When a process started, in seconds since the boot; None where /proc hides it (`hidepid`).

    Not by the wall clock, which may be set while a process lives.
    """
    try:
        return psutil.Process(pid).create_time() - psutil.boot_time()
    except psutil.Error:
        return None


def _now() -> float:
    """Seconds that also pass while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.time()
