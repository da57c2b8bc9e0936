"""A local Ray that contacts no other host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ray._common.usage.usage_lib import usage_stats_enabled
from ray._private import ray_constants, services

MODULES = (
    "DataHead", "EventHead", "JobHead", "MetricsHead", "NodeHead", "ReportHead", "ServeHead", "StateHead",
    "TaskEventsHead", "TrainHead",
)  # fmt: skip
"""The dashboard's modules without UsageStatsHead, which asks the metadata servers of three clouds for its location even
where usage data is turned off."""


@contextmanager
def on_this_host() -> Iterator[None]:
    """While it is active, Ray starts for this host only.

    It uses the address 127.0.0.1, as Ray does on macOS and Windows: otherwise it looks up its address at a public name
    server, and is lost when a laptop changes its network. Its dashboard, which Ray Train needs, contacts no other host
    unless the user turned usage data on.
    """
    start, is_cluster = services.start_ray_process, ray_constants.ENABLE_RAY_CLUSTER

    def start_quietly(command: Sequence[str], process_type: str, *arguments: Any, **settings: Any) -> Any:
        if process_type == ray_constants.PROCESS_TYPE_DASHBOARD and not usage_stats_enabled():
            command = [*command, f"--modules-to-load={','.join(MODULES)}"]
        return start(command, process_type, *arguments, **settings)

    services.start_ray_process, ray_constants.ENABLE_RAY_CLUSTER = start_quietly, False
    try:
        yield
    finally:
        services.start_ray_process, ray_constants.ENABLE_RAY_CLUSTER = start, is_cluster
