"""The CPUs that this process may use: containers, `taskset` and batch systems grant only some of the machine's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def available_cpus() -> int:
    """The number of CPUs that this process may use: its affinity, or a cgroup's quota if that is lower.

    A quota is rounded down, but not below 1.
    """
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        allowed = os.cpu_count() or 1
    return max(1, int(min([allowed, *_quotas()])))


def _quotas() -> Iterator[float]:
    """The CPU quotas of the cgroups of this process that have one."""
    with suppress(OSError):
        for line in OWN.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                yield from _ancestor_quotas(CGROUPS, path, _quota_v2)
            elif "cpu" in controllers.split(","):
                yield from _ancestor_quotas(CGROUPS / "cpu", path, _quota_v1)


def _ancestor_quotas(root: Path, path: str, read: Callable[[Path], float]) -> Iterator[float]:
    # In a container the path may be that of the host, and not exist here: the root is then the own group.
    own = root / path.lstrip("/")
    for folder in {own, *own.parents, root}:
        if folder.is_relative_to(root):
            with suppress(OSError, ValueError):
                yield read(folder)


def _quota_v2(folder: Path) -> float:
    quota, period = (folder / "cpu.max").read_text().split()
    return int(quota) / int(period)  # ValueError if it is "max"


def _quota_v1(folder: Path) -> float:
    quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    if quota <= 0:
        raise ValueError("no limit")
    return quota / period
