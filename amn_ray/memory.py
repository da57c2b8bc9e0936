"""Workers that were killed because a machine's memory was full: told in one sentence, and waited for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ray._private import worker

from amn_ray.errors import RequestError, RunError
from amn_ray.reporting.console import say

RETRIES = 6
"""How often a task is tried again whose process was killed."""
_KILLED = re.compile(r"worker\(s\) were killed due to the node running low on memory")
_NODE = re.compile(r"Memory on the node \(IP: ([^,\s]+).*?\) was ([\d.]+)GB used / ([\d.]+)GB limit")
_THRESHOLD = re.compile(r"exceeded threshold of (\d+)B")
_HELD = re.compile(r"Selected to kill:.*?actual memory used=([\d.]+)GB")
_CRASHED = re.compile(r"The (worker|actor) died unexpectedly")


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


def killed(error: BaseException | str) -> str | None:
    """What is known of a worker that was killed, as the beginning of a sentence; None if none was."""
    shortage = Shortage.told_by(error)
    if shortage is not None:
        return str(shortage)
    if _CRASHED.search(str(error)) and "node has died" not in str(error):
        return "a worker died of a signal again and again; the kernel sends one where memory is full (see `dmesg`)"
    return None


@contextmanager
def told_if_killed(stage: str, remedy: str) -> Iterator[None]:
    """Tell in one sentence that workers were killed.

    Args:
        stage: whose workers they are.
        remedy: what to lower, as settings.

    Raises:
        RunError: they were.
    """
    _running.append((stage, remedy))
    try:
        yield
    except (RequestError, RunError):
        raise
    except Exception as error:
        reason = killed(error)
        if reason is None:
            raise
        raise RunError(f"{stage}: {reason}; lower {remedy}") from error
    finally:
        _running.pop()


_running: list[tuple[str, str]] = []
"""The stage that runs, and what to lower if its workers are killed; the last one is meant."""
_print_all = worker.print_to_stdstream


def tell_retries() -> None:
    """From now on: a sentence instead of the page that Ray prints each time it tries again what was killed."""
    worker.print_to_stdstream = _print


def _print(data: dict[str, Any], ignore_prefix: bool) -> None:
    shortage = Shortage.told_by("\n".join(data["lines"])) if data.get("pid") == "raylet" else None
    if shortage is None:
        _print_all(data, ignore_prefix)
        return
    stage, remedy = _running[-1] if _running else ("memory", "what runs there at the same time")
    say(stage, f"warning: {shortage}; it is tried again, but lower {remedy} if this comes again")
