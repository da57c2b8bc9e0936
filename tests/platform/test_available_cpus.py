"""Processors that a container, a batch system or `taskset` grants."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from amn_ray.platform import available_cpus as module

Tree = dict[str, str]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 64 processors, whose cgroups are files below this folder."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(module, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(module, "OWN", tmp_path / "own")
    return tmp_path


def write(root: Path, own: str, files: Tree) -> None:
    (root / "own").write_text(own)
    for name, content in files.items():
        path = root / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


V1 = "12:memory:/docker/1f\n4:cpu,cpuacct:/docker/1f\n1:name=systemd:/\n"


@pytest.mark.parametrize(
    ("own", "files", "cpus"),
    [
        ("0::/\n", {}, 64),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "9900000 100000\n"}, 64),  # a quota above what there is
        # A job of Slurm, in a group within the one that is limited.
        ("0::/job_7/step_0\n", {"job_7/cpu.max": "400000 100000", "job_7/step_0/cpu.max": "max 100000"}, 4),
        ("0::/job_7/step_0\n", {"job_7/cpu.max": "400000 100000", "job_7/step_0/cpu.max": "300000 100000"}, 3),
        # In a container that sees the host's path: its own group is the root.
        ("0::/kubepods/pod1/2f\n", {"cpu.max": "800000 100000"}, 8),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        (V1, {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        (V1, {"cpu/docker/1f/cpu.cfs_quota_us": "250000", "cpu/docker/1f/cpu.cfs_period_us": "100000"}, 2),
        (V1, {"memory/docker/1f/memory.limit_in_bytes": "1"}, 64),
        ("", {}, 64),
    ],
)
def test_a_quota_of_any_group_around_the_process_counts(machine: Path, own: str, files: Tree, cpus: int) -> None:
    write(machine, own, files)
    assert module.available_cpus() == cpus


def test_an_affinity_counts_also_beside_a_larger_quota(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(machine, "0::/\n", {"cpu.max": "400000 100000"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5})
    assert module.available_cpus() == 2


def test_a_machine_without_cgroups_has_its_affinity(machine: Path) -> None:
    assert module.available_cpus() == 64
