"""What is private in Ray still does what we use it for. (What other tests call is not called again.)"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
import ray.data
from ray._private import services, worker
from ray._private.grpc_utils import init_grpc_channel
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc
from ray.dashboard.subprocesses.module import SubprocessModule
from ray.dashboard.utils import DashboardHeadModule, get_all_modules

from amn_ray.platform import ray_internals
from amn_ray.platform.cluster import Cluster


def test_all_of_ray_s_modules_are_known() -> None:
    """If this fails with another Ray: look whether a new one contacts others."""
    found = {module.__name__ for kind in (SubprocessModule, DashboardHeadModule) for module in get_all_modules(kind)}
    assert found - {"PlatformEventsHead"} == {*ray_internals.DASHBOARD, "UsageStatsHead"}


@pytest.mark.parametrize(("wish", "loads_all"), [("0", False), ("1", True)])
def test_the_part_that_asks_clouds_runs_only_with_usage_data_on(
    monkeypatch: pytest.MonkeyPatch, wish: str, loads_all: bool
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(services, "start_ray_process", lambda command, kind, **settings: started.append(command))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", wish)
    before = services.start_ray_process
    with ray_internals.on_this_host():
        services.start_ray_process(["python", "dashboard.py"], "dashboard", fate_share=True)
        services.start_ray_process(["raylet"], "raylet", fate_share=True)
    assert services.start_ray_process is before
    assert started[1] == ["raylet"]
    assert (started[0] == ["python", "dashboard.py"]) == loads_all
    assert not any("UsageStatsHead" in part for part in started[0])


def test_what_is_handled_is_not_printed_and_all_else_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    ray_internals.filter_printed(lambda data: data["lines"] == ["handled"])
    for text in ("handled", "another"):
        worker.print_to_stdstream({"lines": [text], "pid": 1, "is_err": False}, ignore_prefix=True)
    printed = capsys.readouterr().out
    assert "another" in printed
    assert "handled" not in printed


def test_ray_reads_the_kind_of_authentication_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    ray_internals.forget_token()
    try:
        assert not ray_internals.has_token()
        monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
        ray_internals.forget_token()
        assert ray_internals.has_token()
    finally:
        monkeypatch.undo()
        ray_internals.forget_token()


def test_memory_is_counted_in_bytes() -> None:
    assert 2**24 < ray_internals.used_memory() < 2**46


def test_numbers_are_read_by_tasks_of_the_wanted_size(cluster: Cluster) -> None:
    assert cluster.nodes()
    rows = ray.data.read_datasource(ray_internals.range_source(5), override_num_blocks=2, num_cpus=0.001).take_all()
    assert sorted(row["id"] for row in rows) == [0, 1, 2, 3, 4]


def test_nothing_was_spilled_or_killed(cluster: Cluster) -> None:
    assert cluster.nodes()
    assert ray_internals.spilled_bytes() >= 0
    assert ray_internals.last_killed_for_memory(time.time()) is None


def test_ray_train_s_error_of_a_training_without_room_is_one_that_it_raises() -> None:
    from ray.train.v2._internal.execution.worker_group import worker_group

    assert worker_group.WorkerGroupStartupTimeoutError is ray_internals.startup_timeout()


KILLED = """
import time, ray
from amn_ray.platform.cluster import Cluster, ClusterConfig

@ray.remote(num_cpus=0)
def never():
    time.sleep(3600)

@ray.remote(num_cpus=0)
class Shared:
    def __init__(self, value):
        self.value = value

Cluster(ClusterConfig()).connect()
Shared.options(name="shared", namespace="all_jobs", lifetime="detached").remote(never.remote())
print(ray.get_runtime_context().get_job_id(), flush=True)
time.sleep(3600)
"""


def test_what_a_killed_job_left_half_made_is_removed_and_its_name_is_free_again(cluster: Cluster) -> None:
    """Ray leaves it behind only at a moment that no test can hit; here the job only counts as ended."""
    address = worker.global_worker.gcs_client.address

    @ray.remote(num_cpus=0)
    class Shared:
        def answer(self) -> int:
            return 7

    def shared() -> int:
        actor = Shared.options(name="shared", namespace="all_jobs", get_if_exists=True, lifetime="detached").remote()
        found: int = ray.get(actor.answer.remote(), timeout=60)
        ray.kill(actor)
        return found

    environment = os.environ | {"RAY_ADDRESS": address, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    job = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert job.stdout is not None
        job_id = bytes.fromhex(job.stdout.readline().strip())
        assert not ray_internals.forget_half_made_actors(10), "the job lives"
        with init_grpc_channel(address) as channel:
            jobs = gcs_service_pb2_grpc.JobInfoGcsServiceStub(channel)
            jobs.MarkJobFinished(gcs_service_pb2.MarkJobFinishedRequest(job_id=job_id), timeout=10)
        assert ray_internals.forget_half_made_actors(10)
        assert not ray_internals.forget_half_made_actors(10)
        assert shared() == 7
    finally:
        job.kill()
        job.wait()
