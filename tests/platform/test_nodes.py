"""Several nodes, each a real one on this machine, and what they cannot do.

What happens when one dies or comes late is in faults/on_a_cluster.py, which takes longer.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from amn_ray.platform.cluster import authenticate
from tests.conftest import ROOT
from tests.nodes import RAY, Nodes


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A head without CPUs and one node, on which jobs run that are started here."""
    authenticate(is_own=True)
    cluster = Nodes(num_cpus=0)
    cluster.add(num_cpus=1)
    os.environ["RAY_ADDRESS"] = cluster.address
    yield cluster
    del os.environ["RAY_ADDRESS"]
    cluster.end()


def start(store: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "jobs/pipeline.py", "dataset.num_train=8", "dataset.num_val=2", "until=images"]
    return subprocess.Popen(
        [*command, f"store={store}", *overrides],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def told(process: subprocess.Popen[str]) -> str:
    """What a refused job prints."""
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 2, output
    return output


def test_what_several_nodes_cannot_do_is_refused_in_a_sentence(nodes: Nodes, tmp_path: Path) -> None:
    few = start(tmp_path / "few", "cluster=multi_node", "cluster.nodes=3", "cluster.wait_s=1")
    gpu = start(tmp_path / "gpu", "cluster=gpu")
    sqlite = start(tmp_path / "sqlite")
    assert "error: cluster.nodes=3: the cluster has 1 node(s) with CPUs after cluster.wait_s=1 seconds" in told(few)
    assert "error: cluster.device=gpu: Ray sees no GPU" in told(gpu)
    refused = told(sqlite)
    assert f"error: tracking.uri=sqlite:///{tmp_path}/sqlite/mlflow.db: is a file on one machine" in refused
    assert "start `mlflow server`" in refused


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
    join = f"{RAY} start --block --address {nodes.address} --num-cpus 1 --object-store-memory 100000000"
    hidden = f"mount -t tmpfs none {tmp_path}/store && exec {join}"
    command = ["unshare", "--mount", "bash", "-c", hidden]
    node = subprocess.Popen(command, process_group=0, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        refused = told(start(tmp_path / "store", "cluster.nodes=2", f"tracking.uri={mlflow_server}"))
    finally:
        os.killpg(node.pid, signal.SIGTERM)  # it ends the node's processes
        node.wait(timeout=120)
    assert f"does not see store={tmp_path}/store; give a directory that all nodes mount" in refused
