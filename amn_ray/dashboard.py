"""Ray's dashboard, which also has to run where nobody looks at it: Ray Train asks it for the states of actors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ray._common.usage.usage_lib import usage_stats_enabled
from ray._private import services
from ray._private.ray_constants import PROCESS_TYPE_DASHBOARD

MODULES = (
    "DataHead", "EventHead", "JobHead", "MetricsHead", "NodeHead", "ReportHead", "ServeHead", "StateHead",
    "TaskEventsHead", "TrainHead",
)  # fmt: skip
"""Its parts but UsageStatsHead, which asks the metadata servers of three clouds where it runs, and looks only then
whether usage data may be sent."""


@contextmanager
def without_usage_data() -> Iterator[None]:
    """While a Ray is started: its dashboard contacts no other host, unless the user turned usage data on."""
    start = services.start_ray_process

    def start_without(command: Sequence[str], process_type: str, *arguments: Any, **settings: Any) -> Any:
        if process_type == PROCESS_TYPE_DASHBOARD and not usage_stats_enabled():
            command = [*command, f"--modules-to-load={','.join(MODULES)}"]
        return start(command, process_type, *arguments, **settings)

    services.start_ray_process = start_without
    try:
        yield
    finally:
        services.start_ray_process = start
