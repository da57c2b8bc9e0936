"""Medians of two ways of doing one thing, taken in turn, so that a drifting machine hits both alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def in_turn(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each way over `rounds`, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if round_number:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}
