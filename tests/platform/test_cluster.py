"""How a cluster's processors are dealt out."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from amn_ray.core.errors import RequestError, RunError
from amn_ray.data.folder import FolderConfig
from amn_ray.data.listing import open_source
from amn_ray.platform import cluster as module
from amn_ray.platform.cluster import Cluster, ClusterConfig
from amn_ray.platform.mapping import pool
from amn_ray.platform.memory import MemoryFull, Shortage, Unreachable

Nodes = Callable[..., None]


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Nodes:
    """`nodes(4, 1)`: the cluster has nodes of these CPUs, and GPUs."""

    def pretend(*cpus: float, gpus: Sequence[int] = ()) -> None:
        pairs = itertools.zip_longest(cpus, gpus, fillvalue=0)
        resources = [{"CPU": number, "GPU": cards} for number, cards in pairs]
        alive = [
            {"Alive": True, "Resources": {name: value for name, value in node.items() if value}} for node in resources
        ]
        monkeypatch.setattr(module, "_alive", lambda: alive)
        monkeypatch.setattr(Cluster, "connect", lambda self: None)

    return pretend


@pytest.mark.parametrize(("batch", "workers"), [(16, 4), (10, 2), (9, 3), (7, 1)])
def test_a_batch_is_dealt_to_as_many_gpus_as_divide_it(nodes: Nodes, batch: int, workers: int) -> None:
    nodes(32, gpus=[4])
    resources = Cluster(ClusterConfig()).train_share(batch)
    assert (resources.count, resources.gpus) == (workers, 1)
    assert Cluster(ClusterConfig(train_workers=2)).train_share(batch).count == 2


def test_a_laptops_cores_go_to_one_training_worker_or_an_actor_per_two_cores(nodes: Nodes) -> None:
    nodes(8)
    cluster = Cluster(ClusterConfig())
    assert (cluster.train_share(16).count, cluster.train_share(16).cpus) == (1, 8)
    assert (cluster.map_share().count, cluster.map_share().cpus, cluster.map_share().threads) == (4, 2, 2)
    assert (cluster.cpu_share().count, cluster.cpu_share().cpus) == (8, 1)


def test_two_cores_get_an_actor_each(nodes: Nodes) -> None:
    nodes(2)
    assert (Cluster(ClusterConfig()).map_share().count, Cluster(ClusterConfig()).map_share().threads) == (2, 1)


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 6, 16, 64])
@pytest.mark.parametrize("kind", ["map_share", "cpu_share", "train_share"])
def test_however_many_jobs_share_a_node_light_tasks_find_room(nodes: Nodes, cpus: int, kind: str) -> None:
    nodes(cpus)
    cluster = Cluster(ClusterConfig())
    resources = getattr(cluster, kind)(*[16] * (kind == "train_share"))
    as_many_as_fit = int(cpus / resources.reserved_cpus + 1e-9)
    assert as_many_as_fit >= resources.count
    assert cpus - as_many_as_fit * resources.reserved_cpus >= 2 * cluster.light_tasks() * module.LIGHT_TASK_CPUS


def test_every_node_of_one_cpu_gets_an_actor_beside_which_examples_are_made(nodes: Nodes) -> None:
    nodes(1, 1, 1, 0)
    cluster = Cluster(ClusterConfig())
    assert (cluster.map_share().count, cluster.map_share().cpus) == (3, 1)
    assert (cluster.cpu_share().count, cluster.cpu_share().cpus) == (3, 1)
    assert cluster.train_share(16).cpus == 1
    assert cluster.loaders(cluster.train_share(16)) == 3 * module.LOADERS


def test_what_training_leaves_makes_examples(nodes: Nodes) -> None:
    nodes(16, 16, gpus=[1, 1])
    cluster = Cluster(ClusterConfig())
    assert cluster.loaders(cluster.train_share(16)) == 30


def test_a_small_node_is_not_given_more_makers_of_examples_than_it_has_processors(nodes: Nodes) -> None:
    nodes(16, 16, 8, 8, gpus=[0, 0, 1, 1])
    cluster = Cluster(ClusterConfig())
    assert cluster.loaders(cluster.train_share(16)) / 4 <= 8


def test_gpus_without_a_processor_for_their_worker_do_not_count(nodes: Nodes) -> None:
    nodes(0, 8, 2, gpus=[1, 2, 4])  # a head without CPUs, and a node with more GPUs than CPUs
    cluster = Cluster(ClusterConfig())
    assert cluster.train_share(16).count == 4
    assert cluster.map_share().count == 4
    assert cluster.trials_at_once() == 4
    assert Cluster(ClusterConfig(worker_cpus=4)).train_share(16).count == 2


@pytest.mark.parametrize("sizes", [(4,), (1, 1), (16, 3), (16, 4, 1), (32, 32, 8)])
@pytest.mark.parametrize(("count", "max_concurrency"), [(1, 1), (2, 1), (3, 1), (2, 3), (5, 2)])
def test_an_even_share_fits_on_the_nodes_and_none_that_is_larger_does(
    nodes: Nodes, sizes: tuple[int, ...], count: int, max_concurrency: int
) -> None:
    nodes(*sizes)
    cluster = Cluster(ClusterConfig(train_workers=count), max_concurrency)
    resources = cluster.train_share(1).cpus

    def fits(cpus: float) -> bool:
        free = list(cluster._node_cpus)
        for _ in range(count * max_concurrency):  # equal ones: wherever there is room
            place = next((index for index, room in enumerate(free) if room >= cpus - 1e-9), None)
            if place is None:
                return False
            free[place] -= cpus
        return True

    assert fits(resources)
    assert not fits(1.001 * resources)


def test_a_ray_of_our_own_asks_for_a_token_in_whichever_order_the_modules_are_imported(tmp_path: Path) -> None:
    program = """
import ray
from ray._raylet import AuthenticationMode, get_authentication_mode
from amn_ray.platform.cluster import Cluster, ClusterConfig
assert get_authentication_mode() == AuthenticationMode.DISABLED
cluster = Cluster(ClusterConfig(address="local", cpus=1, object_store_gb=0.1))
assert cluster.spilled_gb() == 0
assert get_authentication_mode() == AuthenticationMode.TOKEN
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["HOME"] = str(tmp_path)
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=300)
    assert (tmp_path / ".ray" / "auth_token").exists()


def test_nodes_that_join_are_used_unless_a_number_was_asked_for_or_trials_share_them(nodes: Nodes) -> None:
    nodes(4, 4)
    for config, max_concurrency, is_own, grows in (
        (ClusterConfig(), 1, False, True),
        (ClusterConfig(), 1, True, False),
        (ClusterConfig(), 2, False, False),
        (ClusterConfig(map_actors=3, cpu_actors=3), 1, False, False),
    ):
        cluster = Cluster(config, max_concurrency, is_own)
        for resources in (cluster.map_share(), cluster.cpu_share()):
            strategy = pool(cluster, resources, num_pieces=100)
            assert resources.may_grow == grows
            assert strategy.max_size == (100 if grows else resources.count)
            assert strategy.min_size == (resources.count if is_own else 1), "lost nodes are not waited for"
        assert pool(cluster, cluster.cpu_share(), num_pieces=1).max_size == 1


def test_a_server_on_this_machine_is_refused_where_others_would_look_for_it_on_themselves(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes(4, 4)
    for others, uri, refused in (
        ("there", "http://127.0.0.1:5000", True),
        ("there", "http://localhost:5000", True),
        ("there", "http://there:5000", False),
        ("here", "http://127.0.0.1:5000", False),
    ):
        monkeypatch.setattr(
            module, "_alive", lambda others=others: [{"NodeManagerHostname": n} for n in ("here", others)]
        )
        with pytest.raises(RequestError, match=r"of the 2 machines") if refused else nullcontext():
            Cluster(ClusterConfig()).check_tracking(uri)


def test_an_error_raised_elsewhere_is_told_as_one_sentence(cluster: Cluster, tmp_path: Path) -> None:
    config = FolderConfig(root=str(tmp_path / "missing"))
    with pytest.raises(RequestError) as told:
        cluster.run_remote(open_source, config)
    assert type(told.value) is RequestError
    assert str(told.value).startswith(f"{tmp_path}/missing: not found")
    assert "\n" not in str(told.value)


def test_a_node_that_has_just_died_is_not_asked(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    (here,) = module._alive()
    monkeypatch.setattr(module, "_alive", lambda: [here, {**here, "NodeID": "a" * len(here["NodeID"])}])
    cluster.check_everywhere(lambda: "is wrong")


def test_a_head_without_cpus_is_not_asked_for_what_only_workers_need(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    (node,) = module._alive()
    monkeypatch.setattr(module, "_alive", lambda: [{**node, "Resources": {"memory": 1.0}}])
    monkeypatch.setattr(module.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "another"))
    cluster.check_everywhere(lambda: "has no dataset", working_only=True)
    with pytest.raises(RequestError, match="has no dataset"):
        cluster.check_everywhere(lambda: "has no dataset")


def test_a_node_that_hangs_is_named_and_not_waited_for_for_ever(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    (node,) = module._alive()
    elsewhere = SimpleNamespace(get_node_id=lambda: "another")
    monkeypatch.setattr(module.ray, "get_runtime_context", lambda: elsewhere)
    monkeypatch.setattr(module, "ANSWER_S", 0.5)
    address = node["NodeManagerAddress"]
    with pytest.raises(RequestError, match=rf"^node {address} \(.*\) has not answered within 0.5 seconds; check"):
        cluster.check_everywhere(lambda: time.sleep(5))


def test_what_was_given_no_gpu_sees_none_although_the_machine_may_have_some(cluster: Cluster) -> None:
    """Ray 2.60 would leave the variable alone, and PyTorch take the first GPU."""
    assert cluster.run_remote(lambda: os.environ.get("CUDA_VISIBLE_DEVICES")) == ""


def test_a_task_whose_process_dies_again_and_again_is_told(cluster: Cluster) -> None:
    with pytest.raises(RunError, match=r"^dies: a worker was killed by a signal again and again") as told:
        cluster.run_remote(dies)
    assert "\n" not in str(told.value)


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Worker:
    """Work that is killed for want of memory at each of these points of progress, and then ends well."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *points: int) -> None:
        self.left, self.point = list(points), 0
        self.waited: list[float] = []
        monkeypatch.setattr(Cluster, "wait_for_memory", lambda cluster, shortage, at_most_s: self.wait(at_most_s))
        monkeypatch.setattr(Cluster, "nodes", lambda cluster: {"here"})

    def wait(self, at_most_s: float) -> None:
        self.waited.append(at_most_s)

    def work(self) -> str:
        if self.left:
            self.point = self.left.pop(0)
            raise MemoryFull("amn: full; lower it", Shortage(node="there", used=1, limit=1, threshold=1, held=1))
        return "done"

    def run(self) -> str:
        return Cluster(ClusterConfig()).resumed("amn", self.work, lambda: self.point)


def test_work_that_was_killed_for_want_of_memory_waits_for_it_and_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = Worker(monkeypatch, 2, 2, 3, 4, 5, 5, 5)  # it may find memory full a few times at each point
    assert worker.run() == "done"
    assert worker.waited == [60, 120, 60, 60, 60, 120, 240]
    assert capsys.readouterr().out.splitlines()[0].split(maxsplit=1) == [
        "amn", "warning: full; lower it; waits for memory, then continues",
    ]  # fmt: skip


def test_work_that_never_fits_into_memory_ends_with_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(monkeypatch, *[1] * 9)
    with pytest.raises(MemoryFull, match=r"^amn: full; lower it$"):
        worker.run()
    assert worker.waited == [60, 120, 240]


def test_work_on_a_node_that_is_lost_goes_on_as_soon_as_ray_knows_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = [{"one", "other"}, {"one", "other"}, {"one"}, {"one"}]
    monkeypatch.setattr(Cluster, "nodes", lambda cluster: known[0] if len(known) == 1 else known.pop(0))
    tries = [Unreachable("cam: a worker was killed"), None]

    def work() -> str:
        if (error := tries.pop(0)) is not None:
            raise error
        return "done"

    assert Cluster(ClusterConfig(), is_own=False).resumed("cam", work, lambda: 0) == "done"
    assert "a node was lost; continues on the others" in capsys.readouterr().out


def test_work_that_kills_its_workers_on_nodes_that_live_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cluster, "nodes", lambda cluster: {"one", "other"})
    monkeypatch.setattr(module, "LOST_S", 0.5)

    def work() -> str:
        raise Unreachable("cam: a worker was killed")

    with pytest.raises(Unreachable):
        Cluster(ClusterConfig(), is_own=False).resumed("cam", work, lambda: 0)


def test_memory_is_waited_for_until_there_is_room_or_for_long_enough(cluster: Cluster) -> None:
    (node,) = module._alive()
    here, gib = node["NodeManagerAddress"], 1000.0

    def waited(shortage: Shortage) -> float:
        started = time.monotonic()
        cluster.wait_for_memory(shortage, at_most_s=2)
        return time.monotonic() - started

    full = Shortage(node=here, used=gib, limit=gib, threshold=0.01, held=0.001)
    assert waited(full) >= 2
    assert waited(replace(full, threshold=gib)) < 2, "there is room"
    assert waited(replace(full, held=0.006)) < 0.5, "it took most of it by itself"
    assert waited(replace(full, node="192.0.2.77")) < 0.5, "that node has gone"


def test_a_device_can_be_asked_for(nodes: Nodes) -> None:
    nodes(8, gpus=[2])
    assert Cluster(ClusterConfig(device="cpu")).map_share().gpus == 0
    assert Cluster(ClusterConfig(device="gpu")).map_share().gpus == 1


def test_workers_get_the_cpus_that_were_asked_for(nodes: Nodes) -> None:
    nodes(8, gpus=[2])
    for resources in (
        Cluster(ClusterConfig(worker_cpus=3)).map_share(),
        Cluster(ClusterConfig(worker_cpus=3)).train_share(16),
        Cluster(ClusterConfig(worker_cpus=3, device="cpu")).train_share(16),
    ):
        assert resources.cpus == 3


def test_more_training_workers_than_gpus_are_refused(nodes: Nodes) -> None:
    nodes(8, gpus=[2])
    with pytest.raises(RequestError, match=r"cluster.train_workers=3: the cluster has 2 GPU"):
        Cluster(ClusterConfig(train_workers=3)).train_share(9)


def test_trials_share_what_the_cluster_has(nodes: Nodes) -> None:
    nodes(16, 16)
    assert Cluster(ClusterConfig()).trials_at_once() == 8
    shares = [Cluster(ClusterConfig(), max_concurrency).map_share() for max_concurrency in (1, 8)]
    assert [(resources.count, resources.cpus) for resources in shares] == [(16, 2), (2, 2)]
    for max_concurrency, kind in itertools.product((1, 2, 8), ("map_share", "cpu_share")):
        resources = getattr(Cluster(ClusterConfig(), max_concurrency), kind)()
        assert resources.count * resources.cpus * max_concurrency <= 32


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"device": "tpu"}, "device=tpu"),
        ({"address": "10.0.0.1:6379"}, "a cluster's address goes to RAY_ADDRESS"),
        ({"nodes": 0}, "nodes=0"),
        ({"worker_cpus": 0}, "worker_cpus=0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClusterConfig(**wrong)


def test_objects_that_went_to_disk_are_counted(cluster: Cluster) -> None:
    before = cluster.spilled_gb()
    kept = [module.ray.put(np.zeros(50_000_000, np.uint8)) for _ in range(10)]
    deadline = time.monotonic() + 90
    while cluster.spilled_gb() - before < 0.05 and time.monotonic() < deadline:
        time.sleep(0.2)
    spilled = cluster.spilled_gb() - before
    assert 0.05 < spilled <= len(kept) * 50_000_000 / 2**30 + 0.01  # of 0.3 GiB of shared memory
