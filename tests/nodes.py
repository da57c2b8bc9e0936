"""Real nodes of Ray on this machine, each started with `ray start`, that can be killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

from tests.conftest import free_port

RAY = str(Path(sys.executable).parent / "ray")


class Nodes:
    """The nodes of one cluster, which runs beside others."""

    def __init__(self, num_cpus: int, core: int | None = None) -> None:
        """A head of so many CPUs; `core` is the only one that its processes may use."""
        self.port, self.dashboard = free_port(), free_port()
        self._start(["--head", "--port", str(self.port), "--dashboard-port", str(self.dashboard)], num_cpus, core)
        self.head = self.raylets()

    @property
    def address(self) -> str:
        """For RAY_ADDRESS."""
        return f"127.0.0.1:{self.port}"

    @property
    def others(self) -> set[int]:
        """The processes that are nodes beside the head."""
        return self.raylets() - self.head

    def add(self, num_cpus: int, core: int | None = None) -> None:
        """One more node."""
        self._start(["--address", self.address], num_cpus, core)

    def _start(self, arguments: list[str], num_cpus: int, core: int | None) -> None:
        pinned = [] if core is None else ["taskset", "-c", str(core)]
        common = ["--num-cpus", str(num_cpus), "--object-store-memory", "300000000", "--disable-usage-stats"]
        command = [*pinned, RAY, "start", *arguments, *common]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def raylets(self) -> set[int]:
        """The processes that are the nodes of this cluster."""
        found = set()
        for process in psutil.process_iter(["cmdline"]):
            line = " ".join(process.info["cmdline"] or [])
            if "raylet/raylet" in line and f":{self.port} " in f"{line} ":
                found.add(process.pid)
        return found

    def workers(self, title: str) -> list[psutil.Process]:
        """Ray's worker processes of this name."""
        found = []
        for raylet in self.raylets():
            for child in psutil.Process(raylet).children(recursive=True):
                try:
                    if " ".join(child.cmdline()).startswith(f"ray::{title}"):
                        found.append(child)
                except psutil.Error:
                    continue
        return found

    def kill_node_of(self, worker: psutil.Process) -> None:
        """kill -9 of the whole node that a process runs on."""
        self.kill(next(parent.pid for parent in worker.parents() if parent.pid in self.raylets()))

    def kill(self, node: int) -> None:
        """kill -9 of a raylet and all that it started."""
        raylet = psutil.Process(node)
        for process in (*raylet.children(recursive=True), raylet):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue

    def end(self) -> None:
        """kill -9 of all processes of this cluster, and of no other."""
        for node in self.raylets():
            self.kill(node)
        for process in psutil.process_iter(["cmdline"]):
            line = " ".join(process.info["cmdline"] or []) + " "
            if f":{self.port} " in line or f"gcs_server_port={self.port} " in line:
                process.kill()
