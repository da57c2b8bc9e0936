"""Workers killed for lack of memory: reported in one sentence, and restarted once memory is free."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from amn_ray.core.console import log
from amn_ray.core.errors import RequestError, RunError
from amn_ray.platform import ray_internals

RETRIES = 3
"""Retries of a task whose process died."""
OOM_RETRIES = 6
"""Retries of a task that Ray's memory monitor killed: after 1, 2, 4, … seconds."""
_KILLED = re.compile(r"worker\(s\) were killed due to the node running low on memory")
_NODE = re.compile(r"Memory on the node \(IP: ([^,\s]+).*?\) was ([\d.]+)GB used / ([\d.]+)GB limit")
_THRESHOLD = re.compile(r"exceeded threshold of (\d+)B")
_HELD = re.compile(r"Selected to kill:.*?actual memory used=([\d.]+)GB")
_UNREACHABLE = re.compile(r"The actor \w+ is unavailable")
_CRASHED = re.compile(rf"The (worker|actor) died unexpectedly|{_UNREACHABLE.pattern}")


@dataclass(frozen=True)
class Shortage:
    """What Ray's memory monitor found when it killed workers, in GiB."""

    node: str
    """The address of the machine."""
    used: float
    """Memory used by all processes on the machine."""
    limit: float
    """Memory of the machine, or of its container."""
    threshold: float
    """Memory use above which workers are killed."""
    held: float
    """Memory held by the killed workers."""

    @classmethod
    def parse(cls, error: BaseException | str) -> Shortage | None:
        """Parse the text of Ray's error; None if it has another cause."""
        text = str(error)
        where = _NODE.search(text)
        if not _KILLED.search(text) or where is None:
            return None
        node, used, limit = where[1], float(where[2]), float(where[3])
        threshold = _THRESHOLD.search(text)
        # The text may hold several copies of the message; the first one will do.
        message = text[: text.find("Top 10 memory users")]
        return cls(
            node=node,
            used=used,
            limit=limit,
            threshold=int(threshold[1]) / 2**30 if threshold else used,
            held=sum(float(held) for held in _HELD.findall(message)),
        )

    def __str__(self) -> str:
        return (
            f"a worker on node {self.node} was killed because memory was full; it held {self.held:.1f} GiB, all "
            f"processes there {self.used:.1f} of {self.limit:.1f} GiB"
        )

    @classmethod
    def since(cls, started: float) -> Shortage | None:
        """The last shortage since `started` (time.time())."""
        text = ray_internals.last_killed_for_memory(started)
        return None if text is None else cls.parse(text)


class Unreachable(RunError):
    """A run failed because a worker did not answer: its process was killed again and again, or its node is lost."""


class MemoryFull(RunError):
    """A run failed because workers were killed for lack of memory."""

    def __init__(self, sentence: str, shortage: Shortage) -> None:
        super().__init__(sentence, shortage)
        self.shortage = shortage

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Work:
    """What workers are doing, for messages."""

    stage: str
    remedy: str
    """The settings to lower if workers are killed."""
    started: float
    """When it began (time.time())."""

    def advice(self, shortage: Shortage) -> str:
        return f"{shortage}; lower {self.remedy}, or free memory there"


def killed(error: BaseException, work: Work) -> RunError | None:
    """The error that reports killed workers; None if `error` has another cause."""
    crashed = bool(_CRASHED.search(str(error))) and "node has died" not in str(error)
    shortage = Shortage.parse(error) or (Shortage.since(work.started) if crashed else None)
    if shortage is not None:
        return MemoryFull(f"{work.stage}: {work.advice(shortage)}", shortage)
    if crashed:
        kind = Unreachable if _UNREACHABLE.search(str(error)) else RunError
        return kind(
            f"{work.stage}: a worker was killed by a signal again and again, as happens when memory is full (see "
            f"`dmesg`); lower {work.remedy}"
        )
    return None


@contextmanager
def report_killed_workers(stage: str, remedy: str) -> Iterator[None]:
    """Report killed workers in one sentence.

    Args:
        stage: the stage that the workers belong to.
        remedy: the settings to lower.

    Raises:
        MemoryFull: they were killed for lack of memory, and Ray has given up.
        RunError: they were killed by another signal.
    """
    work = Work(stage, remedy, time.time())
    try:
        with working(work):
            yield
    except (RequestError, RunError):
        raise
    except Exception as error:
        if (reported := killed(error, work)) is None:
            raise
        raise reported from error


@contextmanager
def working(work: Work) -> Iterator[None]:
    """Name this work in messages about retries; see `shorten_retry_messages`."""
    _running.append(work)
    try:
        yield
    finally:
        _running.remove(work)


_running: list[Work] = []
"""The work in progress; messages name the last one."""


def shorten_retry_messages() -> None:
    """From now on, print one sentence for each retry instead of Ray's page."""
    ray_internals.filter_printed(_is_shortened)


def _is_shortened(data: ray_internals.Lines) -> bool:
    text = "\n".join(data["lines"])
    shortage = None
    if data.get("pid") == "raylet" and "will be retried" in text:
        work = _running[-1] if _running else Work("memory", "what runs at the same time", time.time())
        shortage = Shortage.parse(text) or Shortage.since(work.started)
    if shortage is None:
        return False
    log(work.stage, f"warning: {work.advice(shortage)}; it is retried")
    return True
