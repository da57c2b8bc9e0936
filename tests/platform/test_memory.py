"""Ray's pages about workers that were killed, as sentences."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from ray.core.generated import common_pb2, gcs_pb2
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError, WorkerCrashedError

from amn_ray.core.errors import RequestError, RunError
from amn_ray.platform import memory, ray_internals
from amn_ray.platform.memory import Shortage, Work, killed, report_killed_workers

SELECTED = "(Task: job ID=01000000, lease ID=00, task name={}, required resources={{CPU: 0.5}}, pid={}, actual memory used={}GB, worker ID=a5)"  # noqa: E501


def page(*held: float, used: float = 22.36, threshold: int = 24_000_000_000) -> str:
    """What Ray 2.60 says (shortened) of workers that held so many GiB."""
    selected = "\n".join(f"Selected to kill: {SELECTED.format('train', 100 + i, gib)}" for i, gib in enumerate(held))
    return f"""{len(held)} worker(s) were killed due to the node running low on memory. Memory on the node (IP: \
192.0.2.2, ID: bf05c5ca8b) was {used}GB used / 23.54GB limit (0.95)
OOM kill reason: Memory usage 25551992320B exceeded threshold of {threshold}B (95% of 25276510208B limit)
Object store memory usage: [- objects spillable: 0
- bytes spillable: 0
]
Ray killed {len(held)} worker(s) based on the killing policy
Considered workers: [
{selected}
]
Total non-selected idle workers: 1
Total non-selected idle workers USS bytes: 0.04GB
Top 10 memory users: PID	MEM(GB)	COMMAND
1355	0.30	python browser.py
101	9.05	ray::train
Refer to the documentation on how to address the out of memory issue: https://docs.ray.io/en/latest/ray-observability
"""


def test_what_ray_says_of_a_full_memory_is_read() -> None:
    found = Shortage.parse(OutOfMemoryError(page(9.05)))
    assert found == Shortage(node="192.0.2.2", used=22.36, limit=23.54, threshold=24e9 / 2**30, held=9.05)
    assert str(found) == (
        "a worker on node 192.0.2.2 was killed because memory was full; it held 9.1 GiB, all processes there 22.4 of "
        "23.5 GiB"
    )


def test_several_workers_that_were_killed_at_once_held_their_sum() -> None:
    found = Shortage.parse(page(2.0, 3.5))
    assert found is not None
    assert found.held == 5.5
    twice = Shortage.parse(f"Training failed due to worker errors:\n{page(2.0, 3.5)}\n{page(2.0, 3.5)}")
    assert twice == found, "each rank tells the same"


@pytest.mark.parametrize("error", [ValueError("no memory for that"), RuntimeError("CUDA out of memory"), OSError("")])
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert Shortage.parse(error) is None
    assert killed(error, Work("cam", "nothing", time.time())) is None
    with pytest.raises(type(error)), report_killed_workers("cam", "nothing"):
        raise error


def test_a_worker_that_was_killed_is_told_in_one_sentence_with_its_stage_and_what_to_lower() -> None:
    with pytest.raises(RunError) as told, report_killed_workers("crf", "cluster.cpu_actors"):
        raise OutOfMemoryError(page(9.05))
    assert str(told.value).startswith("crf: a worker on node 192.0.2.2 was killed because memory was full; it held 9.1")
    assert str(told.value).endswith("; lower cluster.cpu_actors, or free memory there")
    assert "\n" not in str(told.value)
    assert "docs.ray.io" not in str(told.value)


CRASHES = [WorkerCrashedError(), ActorDiedError(), ActorUnavailableError("The actor was restarted", b"1" * 16)]


@pytest.mark.parametrize("error", CRASHES)
def test_a_worker_that_the_kernel_killed_is_told_too(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shortage, "since", lambda started: None)
    with pytest.raises(RunError) as told, report_killed_workers("crf", "cluster.cpu_actors"):
        raise error
    assert str(told.value).startswith("crf: a worker was killed by a signal again and again, ")
    assert str(told.value).endswith("; lower cluster.cpu_actors")


@pytest.mark.parametrize("error", CRASHES)
def test_where_rays_error_does_not_tell_that_its_monitor_killed_the_worker_its_table_does(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = int(1000 * time.time())
    dead = [
        gcs_pb2.WorkerTableData(end_time_ms=now - 60_000, exit_type=common_pb2.NODE_OUT_OF_MEMORY, exit_detail=page(1)),
        gcs_pb2.WorkerTableData(end_time_ms=now + 1_000, exit_type=common_pb2.NODE_OUT_OF_MEMORY, exit_detail=page(3)),
        gcs_pb2.WorkerTableData(end_time_ms=now + 2_000, exit_type=common_pb2.NODE_OUT_OF_MEMORY, exit_detail=page(2)),
        gcs_pb2.WorkerTableData(end_time_ms=now + 3_000, exit_type=common_pb2.SYSTEM_ERROR, exit_detail="End of file"),
        gcs_pb2.WorkerTableData(is_alive=True),
    ]
    table = SimpleNamespace(get_worker_table=lambda: [worker.SerializeToString() for worker in dead])
    monkeypatch.setattr(ray_internals.state, "_connect_and_get_accessor", lambda: table)
    with pytest.raises(RunError, match=r"^cam: a worker on node .* it held 2.0 GiB"), report_killed_workers("cam", "x"):
        raise error
    dead[1:3] = []
    with pytest.raises(RunError, match=r"^cam: a worker was killed by a signal"), report_killed_workers("cam", "x"):
        raise error


@pytest.mark.parametrize("error", [RequestError("mend it"), RunError("the loss became nan")])
def test_what_is_a_sentence_already_stays_one(error: Exception) -> None:
    with pytest.raises(type(error)) as told, report_killed_workers("cam", "nothing"):
        raise error
    assert told.value is error


def test_instead_of_the_page_that_ray_prints_when_it_tries_again_there_is_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = ray_internals.worker
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    memory.shorten_retry_messages()
    with report_killed_workers("cam", "cluster.map_actors"):
        for text in (f"Task A.go failed due to oom. The task will be retried. Error: {page(9.05)}", "another line"):
            worker.print_to_stdstream({"lines": [text], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    told, other = capsys.readouterr().out.splitlines()
    assert told.split(maxsplit=1) == [
        "cam",
        "warning: a worker on node 192.0.2.2 was killed because memory was full; it held 9.1 GiB, all processes there "
        "22.4 of 23.5 GiB; lower cluster.map_actors, or free memory there; it is retried",
    ]
    assert "another line" in other
