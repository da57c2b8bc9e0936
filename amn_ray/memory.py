"""Workers that were killed because a machine's memory was full: told in one sentence, and waited for."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ray._private import worker
from ray._private.state import state
from ray.core.generated import common_pb2, gcs_pb2

from amn_ray.errors import RequestError, RunError
from amn_ray.reporting.console import say

RETRIES = 6
"""How often a task is tried again whose process was killed."""
_KILLED = re.compile(r"worker\(s\) were killed due to the node running low on memory")
_NODE = re.compile(r"Memory on the node \(IP: ([^,\s]+).*?\) was ([\d.]+)GB used / ([\d.]+)GB limit")
_THRESHOLD = re.compile(r"exceeded threshold of (\d+)B")
_HELD = re.compile(r"Selected to kill:.*?actual memory used=([\d.]+)GB")
_CRASHED = re.compile(r"The (worker|actor) died unexpectedly|The actor \w+ is unavailable")


@dataclass(frozen=True)
class Shortage:
    """What Ray's memory monitor found when it killed workers, in GiB."""

    node: str
    """The address of the machine."""
    used: float
    """By all processes there."""
    limit: float
    """Of the machine, or of its container."""
    threshold: float
    """Above which workers are killed."""
    held: float
    """By the workers that were killed."""

    @classmethod
    def told_by(cls, error: BaseException | str) -> Shortage | None:
        """From the text of Ray's error; None if it is about something else."""
        text = str(error)
        where = _NODE.search(text)
        if not _KILLED.search(text) or where is None:
            return None
        node, used, limit = where[1], float(where[2]), float(where[3])
        threshold = _THRESHOLD.search(text)
        # Of each page in the text there may be copies; the first is as good as any.
        page = text[: text.find("Top 10 memory users")]
        return cls(
            node=node,
            used=used,
            limit=limit,
            threshold=int(threshold[1]) / 2**30 if threshold else used,
            held=sum(float(held) for held in _HELD.findall(page)),
        )

    def __str__(self) -> str:
        return (
            f"a worker on node {self.node} was killed because memory was full; it held {self.held:.1f} GiB, all "
            f"processes there {self.used:.1f} of {self.limit:.1f} GiB"
        )

    @classmethod
    def since(cls, started: float) -> Shortage | None:
        """The last one that any worker was killed for since then (time.time()).

        Where an actor is started again, Ray's errors do not tell why; its table of workers does.
        """
        rows = state._connect_and_get_accessor().get_worker_table()
        workers = [gcs_pb2.WorkerTableData.FromString(row) for row in rows]
        killed = [
            worker
            for worker in workers
            if worker.exit_type == common_pb2.NODE_OUT_OF_MEMORY and worker.end_time_ms >= 1000 * started
        ]
        return cls.told_by(max(killed, key=lambda worker: worker.end_time_ms).exit_detail) if killed else None


def killed(error: BaseException | str, started: float) -> str | None:
    """What is known of a worker that was killed, as the beginning of a sentence; None if none was.

    Args:
        error: what Ray says.
        started: when the work began, as by time.time().
    """
    crashed = bool(_CRASHED.search(str(error))) and "node has died" not in str(error)
    shortage = Shortage.told_by(error) or (Shortage.since(started) if crashed else None)
    if shortage is not None:
        return str(shortage)
    if crashed:
        return "a worker died of a signal again and again; the kernel sends one where memory is full (see `dmesg`)"
    return None


@dataclass(frozen=True)
class _Stage:
    name: str
    remedy: str
    started: float


@contextmanager
def told_if_killed(stage: str, remedy: str) -> Iterator[None]:
    """Tell in one sentence that workers were killed.

    Args:
        stage: whose workers they are.
        remedy: what to lower, as settings.

    Raises:
        RunError: they were, and Ray has given up.
    """
    running = _Stage(stage, remedy, time.time())
    _running.append(running)
    try:
        yield
    except (RequestError, RunError):
        raise
    except Exception as error:
        reason = killed(error, running.started)
        if reason is None:
            raise
        raise RunError(f"{stage}: {reason}; lower {remedy}, or make room there") from error
    finally:
        _running.remove(running)


_running: list[_Stage] = []
"""What workers are working for; the last one is meant."""
_print_all = worker.print_to_stdstream


def tell_retries() -> None:
    """From now on: a sentence instead of the page that Ray prints each time it tries again what was killed."""
    worker.print_to_stdstream = _print


def _print(data: dict[str, Any], ignore_prefix: bool) -> None:
    text = "\n".join(data["lines"])
    shortage = None
    if data.get("pid") == "raylet" and "will be retried" in text:
        stage = _running[-1] if _running else _Stage("memory", "what runs there at the same time", time.time())
        shortage = Shortage.told_by(text) or Shortage.since(stage.started)
    if shortage is None:
        _print_all(data, ignore_prefix)
    else:
        say(stage.name, f"warning: {shortage}; it is tried again, but lower {stage.remedy}, or make room there")
