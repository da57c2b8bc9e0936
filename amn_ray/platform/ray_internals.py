"""The private APIs of Ray 2.60 that this package uses; no other module uses any.

Each function below does something that Ray has no public API for. A new version of Ray may break any of them:
tests/platform/test_ray_internals.py calls each.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

# Ray reads it on import. Trials log similar lines, and none may be dropped.
os.environ.setdefault("RAY_DEDUP_LOGS", "0")

import grpc
import pyarrow as pa
import ray.data
from ray._common.usage.usage_lib import usage_stats_enabled
from ray._private import ray_constants, services, worker
from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
from ray._private.grpc_utils import init_grpc_channel
from ray._private.internal_api import get_memory_info_reply, get_state_from_address
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR as JOB_CONFIG
from ray._private.services import canonicalize_bootstrap_address
from ray._private.state import state
from ray._private.utils import get_used_memory
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.core.generated import common_pb2, gcs_pb2, gcs_service_pb2, gcs_service_pb2_grpc
from ray.data._internal.datasource.range_datasource import RangeDatasource
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.checkpoint import CheckpointManager
from ray.data.checkpoint.checkpoint_writer import PENDING_CHECKPOINT_SUFFIX

__all__ = ["JOB_CONFIG", "PENDING_CHECKPOINT_SUFFIX", "ExecutionCallback"]

# --- Starting and joining Ray ----------------------------------------------------------------------------------------

DASHBOARD = (
    "DataHead", "EventHead", "JobHead", "MetricsHead", "NodeHead", "ReportHead", "ServeHead", "StateHead",
    "TaskEventsHead", "TrainHead",
)  # fmt: skip
"""The dashboard's modules without UsageStatsHead, which asks the metadata servers of three clouds for its location even
if usage data is turned off."""


@contextmanager
def on_this_host() -> Iterator[None]:
    """While active, Ray starts for this host only.

    It uses the address 127.0.0.1, as Ray does on macOS and Windows: otherwise it looks up its address with a public
    name server, and fails when a laptop changes its network. Its dashboard, which Ray Train needs, contacts no other
    host unless the user turned usage data on.
    """
    start, is_cluster = services.start_ray_process, ray_constants.ENABLE_RAY_CLUSTER

    def start_quietly(command: Sequence[str], process_type: str, *arguments: Any, **settings: Any) -> Any:
        if process_type == ray_constants.PROCESS_TYPE_DASHBOARD and not usage_stats_enabled():
            command = [*command, f"--modules-to-load={','.join(DASHBOARD)}"]
        return start(command, process_type, *arguments, **settings)

    services.start_ray_process, ray_constants.ENABLE_RAY_CLUSTER = start_quietly, False
    try:
        yield
    finally:
        services.start_ray_process, ray_constants.ENABLE_RAY_CLUSTER = start, is_cluster


def canonical_address(given: str) -> str:
    """The address host:port that `ray.init` would use for `given`, such as `auto`.

    Raises:
        ConnectionError: it is `auto`, and no cluster runs on this machine.
    """
    address = canonicalize_bootstrap_address(given)
    assert address is not None, "only for None and local"
    return address


def check_head(address: str, timeout: float) -> None:
    """Check that the head of a cluster answers.

    Raises:
        grpc.RpcError: it does not answer within `timeout` seconds.
        ray.exceptions.AuthenticationError: it does not accept our token.
    """
    with init_grpc_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:  # as in Ray's own channels
        head = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        head.CheckAlive(gcs_service_pb2.CheckAliveRequest(), timeout=timeout)


def has_token() -> bool:
    """Whether this user has a token, whichever RAY_AUTH_MODE is set."""
    return bool(AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))


def read_environment_again() -> None:
    """Ray reads variables such as RAY_AUTH_MODE when it is imported."""
    Config.initialize("")


def ensure_token() -> None:
    """Write a token to ~/.ray/auth_token if RAY_AUTH_MODE asks for one and there is none.

    Raises:
        OSError, RuntimeError: there is no home that can be written.
    """
    ensure_token_if_auth_enabled()


def forget_token() -> None:
    """Read RAY_AUTH_TOKEN again."""
    AuthenticationTokenLoader.instance().reset_cache()


# --- Memory, and what Ray prints -------------------------------------------------------------------------------------


def forget_half_made_actors(timeout: float) -> bool:
    """Remove named actors that no job will ever finish making; returns whether there were any.

    If a job is killed at the moment at which it asks for one of the named actors that all jobs with Ray Data share,
    Ray may keep the name for ever, without an actor or its class: every later job that asks for it fails with an
    AssertionError.

    Args:
        timeout: seconds that the head of the cluster may take for an answer.
    """
    ended = {job["JobID"] for job in state.job_table() if job["IsDead"]}
    unready = state.actor_table(None, actor_state_name="DEPENDENCIES_UNREADY").values()
    half_made = [actor["ActorID"] for actor in unready if actor["Name"] and actor["JobID"] in ended]
    if half_made:
        address = worker.global_worker.gcs_client.address
        with init_grpc_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
            actors = gcs_service_pb2_grpc.ActorInfoGcsServiceStub(channel)
            for actor_id in half_made:
                request = gcs_service_pb2.KillActorViaGcsRequest(
                    actor_id=bytes.fromhex(actor_id), force_kill=True, no_restart=True
                )
                actors.KillActorViaGcs(request, timeout=timeout)
    return bool(half_made)


def used_memory() -> int:
    """The used memory of this machine or container in bytes, as Ray's memory monitor counts it."""
    return int(get_used_memory())


def spilled_bytes() -> int:
    """Bytes that all nodes have spilled from their object stores to disk so far; 0 if they do not answer."""
    try:
        reply = get_memory_info_reply(get_state_from_address(ray.get_runtime_context().gcs_address))
    except grpc.RpcError:  # a node just died
        return 0
    return int(reply.store_stats.spilled_bytes_total)


def last_killed_for_memory(since: float) -> str | None:
    """Ray's text about the last worker that its memory monitor killed after a time (time.time()).

    If an actor was restarted, Ray's errors do not give the reason; the table of workers does.
    """
    rows = state._connect_and_get_accessor().get_worker_table()
    killed = [
        found
        for found in map(gcs_pb2.WorkerTableData.FromString, rows)
        if found.exit_type == common_pb2.NODE_OUT_OF_MEMORY and found.end_time_ms >= 1000 * since
    ]
    return max(killed, key=lambda found: found.end_time_ms).exit_detail if killed else None


Lines = dict[str, Any]
"""`lines` that a process printed, and its `pid`."""
_print = worker.print_to_stdstream


def filter_printed(is_handled: Callable[[Lines], bool]) -> None:
    """From now on, pass lines of other processes to `is_handled` first; Ray prints those that it does not handle."""

    def print_rest(data: Lines, ignore_prefix: bool) -> None:
        if not is_handled(data):
            _print(data, ignore_prefix)

    worker.print_to_stdstream = print_rest


# --- Ray Data and Ray Train ------------------------------------------------------------------------------------------


def range_source(count: int) -> ray.data.Datasource:
    """A source of the numbers 0…count−1 in the column `id`: `ray.data.range` has no option for its tasks' CPUs."""
    return RangeDatasource(n=count, block_format="arrow", column_name="id")


def in_small_blocks(dataset: ray.data.Dataset, rows: int, num_cpus: float) -> ray.data.Dataset:
    """A dataset in blocks of about `rows` rows, cut by tasks that reserve `num_cpus`.

    Ray's own reserve a whole CPU each, and so would wait for ever where actors hold all of them.
    """
    result = dataset.repartition(target_num_rows_per_block=rows)
    result._logical_plan.dag.ray_remote_args["num_cpus"] = num_cpus
    return result


class Cleaner(CheckpointManager):
    """Removes files that a crashed run left half written, and nothing else.

    Ray's own class would also drop finished rows, in actors that need a CPU each, while the models hold all CPUs.
    """

    def load_checkpoint(
        self, data_file_dir: str | None = None, data_file_filesystem: pa.fs.FileSystem | None = None
    ) -> tuple[None, int]:
        """See ray.data's CheckpointManager."""
        self._clean_pending_checkpoints(data_file_dir, data_file_filesystem)
        return None, 0


def startup_timeout() -> type[Exception]:
    """What Ray Train raises if its workers got no resources. (Imported here: it costs other processes time.)"""
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    return WorkerGroupStartupTimeoutError
