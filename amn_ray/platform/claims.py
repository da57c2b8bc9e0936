"""Claims: of several pipelines that need the same missing artifact, one makes it and the others wait.

A process that wants an artifact takes a ticket (Lamport's bakery algorithm) and waits for all smaller tickets. Tickets
are files in `<store>/claims/`. The store only has to list every file that has been written, as disks and today's object
stores do; no locks or exclusive creation are needed.

Owners rewrite their tickets as heartbeats. Waiting processes compare no clocks: they watch whether a ticket's content
changes. If the owner ran on this machine and its process has ended, nobody waits. A process that was paused for longer
than the expiry counts as dead; when it resumes, it has lost its claim, and must neither commit nor delete.
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
"""Seconds between two heartbeats of an owner."""
EXPIRY_S = 60.0
"""Seconds without a heartbeat after which a claim has expired."""
POLL_S = 0.5
START_S = 5.0
"""Tolerance, in seconds, when start times of processes are compared."""
CHOOSING = 0
"""The number while a process is still choosing one: the smallest, so that all others wait for it."""


@dataclass(frozen=True, order=True)
class Ticket:
    """A place in the queue for one claim; it is a file."""

    number: int
    owner: str

    def file(self, name: str) -> str:
        return f"{name}.{self.number}.{self.owner}"


@contextmanager
def claimed(
    store: Store, name: str, *, is_done: Callable[[], bool], on_wait: Callable[[], None]
) -> Iterator[Callable[[], None]]:
    """Hold a claim, or wait until its owner has done the work.

    Yields a check, to be called before an irreversible change; it raises RunError if the claim was lost.

    Args:
        store: where claims are kept.
        name: of the claim.
        is_done: whether the work has been done; the block is then entered without a claim.
        on_wait: called once, before waiting for another owner.
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
    """The queue for one claim, as one process sees it."""

    def __init__(self, folder: Folder, name: str) -> None:
        self.folder = folder
        self.name = name
        self.me = uuid.uuid4().hex[:12]
        self.mine: Ticket | None = None
        self._written = 0.0
        """When we last wrote our ticket."""
        self._contents: dict[Ticket, tuple[bytes, float]] = {}
        """The content of the other tickets, and when it last changed."""
        self._stop = threading.Event()
        self._heartbeats = threading.Thread(target=self._send_heartbeats, daemon=True)

    def wait_for_turn(self, is_done: Callable[[], bool], on_wait: Callable[[], None]) -> None:
        """Return when the claim is ours, or the work has been done.

        Raises:
            OSError: the store has not answered for longer than the expiry.
        """
        self._heartbeats.start()
        notified, answered = False, time.monotonic()
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
                if not notified and any(ticket.number != CHOOSING for ticket in ahead):
                    on_wait()
                    notified = True
            time.sleep(POLL_S)

    def _ahead(self) -> list[Ticket] | None:
        """The live tickets ahead of ours; None if we had no ticket and took one."""
        tickets = self.tickets()
        mine = self.mine
        if mine is None or mine not in tickets:  # or another process removed it, because we seemed dead
            self._take_ticket()
            return None
        before = [ticket for ticket in tickets if ticket < mine and ticket.owner != self.me]
        dead = [ticket for ticket in before if self._is_dead(ticket)]
        for ticket in dead:
            self.folder.remove(ticket.file(self.name))
        return [ticket for ticket in before if ticket not in dead]

    def check(self) -> None:
        """Check the claim before an irreversible change.

        Raises:
            RunError: it was lost, so another process may be doing the work.
        """
        if self.mine is not None and not self._is_held():
            raise RunError(
                f"{self.name}: this process was paused, or could not reach its store, for more than {EXPIRY_S:g} "
                "seconds, so another run may have taken over; run again to wait for that run"
            )

    def _is_held(self) -> bool:
        """Whether our ticket exists and cannot be removed now: others must watch it for EXPIRY_S first."""
        tickets = self.tickets()
        alone = all(ticket.owner == self.me for ticket in tickets)
        return self.mine in tickets and (alone or _now() - self._written <= EXPIRY_S)

    def leave(self) -> None:
        """Remove our ticket."""
        self._stop.set()
        self._heartbeats.join()
        with suppress(OSError):  # it will expire
            if self.mine is not None:
                self.folder.remove(self.mine.file(self.name))

    def tickets(self) -> set[Ticket]:
        """All tickets for this claim."""
        found = set()
        for entry in self.folder.entries():
            name, _, rest = entry.base_name.rpartition(".")
            name, _, number = name.rpartition(".")
            if name == self.name and number.isdigit():
                found.add(Ticket(int(number), rest))
        return found

    def _take_ticket(self) -> None:
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
        content = owner | {"alive": now}  # any value that changes each time
        self.folder.write(ticket.file(self.name), json.dumps(content).encode())
        self._written = now

    def _is_dead(self, ticket: Ticket) -> bool:
        """Whether its owner has certainly ended, or its last heartbeat has expired."""
        try:
            content = self.folder.read(ticket.file(self.name))
        except OSError:  # just released
            return False
        last, since = self._contents.get(ticket, (None, 0.0))
        if content != last:
            since = time.monotonic()
            self._contents[ticket] = (content, since)
        return time.monotonic() - since > EXPIRY_S or self._has_ended(content)

    def _has_ended(self, content: bytes) -> bool:
        """Whether its owner ran on this machine and has certainly ended."""
        try:
            owner = json.loads(content)
        except ValueError:  # it was being written
            return False
        here = machine()
        if here is None or owner["machine"] != here:
            return False
        try:
            os.kill(owner["pid"], 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # another user's process, which exists
            pass
        started = _started(owner["pid"])
        return None not in (started, owner["started"]) and abs(started - owner["started"]) > START_S

    def _send_heartbeats(self) -> None:
        while not self._stop.wait(TOUCH_S):
            with suppress(OSError):
                # A lost claim stays lost: rewriting the ticket would put us ahead of the new owner.
                if self.mine is not None and self._is_held():
                    self._write(self.mine)


def machine() -> list[str] | None:
    """Host name, boot id and PID namespace: process ids are only comparable within all three; None if unknown.

    Many hosts are called localhost, and the first namespace has the same number on all hosts.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return [socket.gethostname(), boot, os.readlink("/proc/self/ns/pid")]
    except OSError:
        return None


def _started(pid: int) -> float | None:
    """When a process started, in seconds since the boot; None where /proc hides it (`hidepid`).

    This is not wall-clock time, which may be adjusted while a process runs.
    """
    try:
        return psutil.Process(pid).create_time() - psutil.boot_time()
    except psutil.Error:
        return None


def _now() -> float:
    """A clock in seconds that keeps running while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.time()
