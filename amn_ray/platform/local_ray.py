"""A Ray of one's own, which contacts no other host."""

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
"""The dashboard's parts but UsageStatsHead, which asks the metadata servers of three clouds where it runs, and looks
only then whether usage data may be sent."""


@contextmanager
def on_this_host() -> Iterator[None]:
    """While a Ray is started, for this host only.

    It takes the address 127.0.0.1, as Ray does on macOS and Windows: else it finds its own by way of a public name
    server, asks the network's for its name, and is lost when a laptop changes its network. Its dashboard (Ray Train
    asks it for states, so there must be one) asks nobody else, unless the user turned usage data on.
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
