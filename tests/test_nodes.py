"""Several nodes, each a real one on this machine: nodes that die, and that cannot do their part."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.cluster_utils import Cluster as Nodes

from amn_ray.artifacts import Store
from tests.conftest import ROOT, free_port

MAPPING = """
import sys
from amn_ray.artifacts import Store
from amn_ray.cluster import Cluster, ClusterConfig
from amn_ray.mapping import map_table
from amn_ray.testing import Breakable
store = Store.open(sys.argv[1])
source, output = store.artifact("in", 1, {}, {}), store.artifact("out", 1, {}, {})
cluster = Cluster(ClusterConfig())
cluster.connect()
map_table(cluster, (source, "rows"), ["value"], Breakable, {"log": sys.argv[1], "seconds": 1.5}, (output, "rows"),
          share=cluster.cpu_share())
"""
ROWS = 160


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    """A head without CPUs and one node, on which jobs run that are started here."""
    ray = str(Path(sys.executable).parent / "ray")
    subprocess.run([ray, "get-auth-token", "--generate"], check=True, capture_output=True)
    head = {"num_cpus": 0, "object_store_memory": 100_000_000, "dashboard_port": free_port()}
    cluster = Nodes(initialize_head=True, connect=False, head_node_args=head)
    cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    cluster.shutdown()


def table(store: Store) -> None:
    """32 shards of five rows."""
    folder = Path(store.artifact("in", 1, {}, {}).at("rows"))
    folder.mkdir(parents=True)
    for shard in range(32):
        ids = [f"{index:03d}" for index in range(5 * shard, 5 * shard + 5)]
        pq.write_table(pa.table({"image_id": ids, "value": list(range(5))}), folder / f"{shard}.parquet")


def mapped(store: Store) -> int:
    return store.artifact("out", 1, {}, {}).table("rows").count()


def until(condition: object, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 90
    while not condition():  # type: ignore[operator]
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_node_that_dies_loses_no_row(nodes: Nodes, tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    table(store)
    other = nodes.add_node(num_cpus=1, object_store_memory=100_000_000)
    process = subprocess.Popen(
        [sys.executable, "-c", MAPPING, str(tmp_path)], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    until(lambda: mapped(store) > 0 and len(list(tmp_path.glob("calls-*"))) == 2, process)
    nodes.remove_node(other, allow_graceful=False)
    assert mapped(store) < ROWS, "it died in the middle"
    assert process.wait(timeout=120) == 0, process.communicate()[0]
    ids = store.artifact("out", 1, {}, {}).table("rows").all_ids()
    assert ids == [f"{index:03d}" for index in range(ROWS)]


def run(tmp_path: Path, *overrides: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "jobs/pipeline.py", "dataset.num_train=8", "dataset.num_val=2", "until=images",
         f"store={tmp_path}", *overrides],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def test_what_several_nodes_cannot_do_is_refused_in_a_sentence(nodes: Nodes, tmp_path: Path) -> None:
    code, told = run(tmp_path / "a", "cluster=multi_node", "cluster.nodes=3", "cluster.wait_s=1")
    assert code == 2
    assert "error: cluster.nodes=3: the cluster has 2 node(s) after cluster.wait_s=1 seconds" in told
    code, told = run(tmp_path / "a", "cluster=gpu")
    assert code == 2
    assert "error: cluster.device=gpu: Ray sees no GPU" in told
    code, told = run(tmp_path / "a")
    assert code == 2
    assert f"error: tracking.uri=sqlite:///{tmp_path}/a/mlflow.db: is a file of one machine" in told
    assert "start `mlflow server`" in told


def private_mounts() -> bool:
    """Whether a process may have mounts of its own here."""
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


@pytest.mark.skipif(not private_mounts(), reason="needs the right to mount")
def test_a_store_that_another_node_does_not_see_is_refused(nodes: Nodes, mlflow_server: str, tmp_path: Path) -> None:
    # A node with an empty directory of its own where the store is.
    (tmp_path / "store").mkdir()
    ray = str(Path(sys.executable).parent / "ray")
    start = f"{ray} start --address {nodes.address} --num-cpus 1 --object-store-memory 100000000"
    hidden = f"mount -t tmpfs none {tmp_path}/store && exec {start}"
    subprocess.run(["unshare", "--mount", "bash", "-c", hidden], check=True, capture_output=True, env=dict(os.environ))
    code, told = run(tmp_path / "store", f"tracking.uri={mlflow_server}")
    assert code == 2
    assert f"does not see store={tmp_path}/store; give a directory that all nodes mount" in told
