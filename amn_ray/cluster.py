"""The Ray cluster that a job runs on, and how its CPUs and GPUs are dealt out.

Two CPUs (half of a very small cluster) are kept for the light tasks that read, decode and write beside the models: a
model actor that holds every CPU starves the tasks that feed it. A local Ray therefore gets two logical CPUs more
than the machine has cores.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # read on import; trials say similar things, and all of them count

import psutil
import ray
from ray.data import DataContext

from amn_ray.errors import RequestError, told_by_workers

LIGHT_CPUS = 2
LIGHT_TASK_CPUS = 0.25
"""What a task reserves that only reads or writes a shard."""
CORES_PER_TRIAL = 4
"""Without GPUs: with fewer, trials side by side are no faster than one after the other."""


@dataclass(kw_only=True)
class ClusterConfig:
    """Changes how fast a result comes, never which one; null means: from what the cluster has."""

    cpus: int | None = None
    """Cores that a local Ray uses; null = all. Ignored when RAY_ADDRESS names a cluster."""
    object_store_gb: float = 1.0
    """Shared memory of a local Ray, for data between tasks."""
    train_workers: int | None = None
    """Data-parallel training workers; null = one per GPU (as many as divide the batch), or one."""
    map_actors: int | None = None
    """Actors that hold a network and make maps; null = one per GPU, or one per two cores."""
    cpu_actors: int | None = None
    """Actors that run dense CRF and count pixels; null = one per core."""
    trials_at_once: int | None = None
    """Trials of a study that share the cluster evenly; null = one per GPU (or `train_workers` GPUs), or per 4 cores."""

    def __post_init__(self) -> None:
        for name in ("cpus", "train_workers", "map_actors", "cpu_actors", "trials_at_once"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1, or null")
        if self.object_store_gb < 0.1:
            raise ValueError(f"object_store_gb={self.object_store_gb}: must be at least 0.1")


@dataclass(frozen=True)
class Share:
    """What each of `count` workers or actors of one kind gets."""

    count: int
    cpus: float
    gpus: float = 0

    @property
    def threads(self) -> int:
        """Threads for PyTorch in each."""
        return max(1, int(self.cpus))


def set_worker_environment() -> None:
    """Before a process that runs networks starts: keep large tensors' memory.

    glibc maps large ones anew every time, and the kernel zeroes them: a fifth to a third of a CPU network's time.
    """
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**32))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**34))


RAY_SETTINGS = {
    "RAY_DATA_LOG_LEVEL": "ERROR",  # its warnings are about its own progress bars
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process that no loop of ours listens to
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # else an epoch's report takes up to 2 s
}
"""For all processes of a job; set in the environment, they are the user's."""


def _set_driver_environment() -> None:
    """In a process that drives Ray Data and Ray Train: a job's own, or a study's trial."""
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what fails is raised, and told once
    # Ray 2.60's new reader lists files in a task that starts six processes: 8 s per execution on two cores, where
    # the old one takes 0.3 s (both measured on a table of two shards).
    DataContext.get_current().use_datasource_v2 = False


@contextmanager
def _kept_sigterm() -> Iterator[None]:
    """What SIGTERM does stays what it was: Ray's own handler prints a page, and ends in an abort."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Cluster:
    """A connection to Ray, made when the first stage needs it (a fully cached pipeline never does)."""

    def __init__(self, config: ClusterConfig, at_once: int = 1) -> None:
        """`at_once` pipelines share the cluster, and this is one of them."""
        self.config = config
        self.at_once = at_once

    def connect(self) -> None:
        """Join the cluster of RAY_ADDRESS, or start a local Ray.

        Raises:
            RequestError: RAY_ADDRESS names a cluster that does not answer.
        """
        _set_driver_environment()
        if ray.is_initialized():
            return
        with _kept_sigterm():
            self._start()

    def _start(self) -> None:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled" if "RAY_ADDRESS" not in os.environ else "token")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        set_worker_environment()
        common: dict[str, Any] = {
            "logging_level": logging.WARNING,
            "logging_config": ray.LoggingConfig(log_level="ERROR"),  # its warnings are about what we do on purpose
        }
        if "RAY_ADDRESS" in os.environ:
            # A local Ray's processes inherit this one's environment; those of a cluster were started by others.
            environment = {name: os.environ[name] for name in RAY_SETTINGS}
            try:
                ray.init(runtime_env={"env_vars": environment}, **common)
            except ConnectionError as error:
                raise RequestError(
                    f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}: no Ray cluster answers there; start one with "
                    "`ray start --head`, or unset RAY_ADDRESS to run locally"
                ) from error
        else:
            cores = self.config.cpus or psutil.cpu_count(logical=True) or 1
            port = _free_port()
            # Ray Train's cleaner looks for the dashboard: without one it complains once a second, and where another
            # Ray runs on this machine it does not know which is meant.
            os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
            ray.init(
                address="local",
                num_cpus=cores + LIGHT_CPUS,
                include_dashboard=True,
                dashboard_port=port,
                object_store_memory=int(self.config.object_store_gb * 2**30),
                **common,
            )

    def elsewhere(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(*arguments)` in a process that ends with it: for what would let the driver grow with the data set.

        Raises:
            RequestError: what the function raised, if it was the user's mistake.
            RunError: likewise, if the run failed.
        """
        self.connect()
        with told_by_workers():
            return ray.get(ray.remote(num_cpus=LIGHT_TASK_CPUS, max_calls=1)(function).remote(*arguments))

    @property
    def _cpus(self) -> float:
        """CPUs for models and CRF."""
        total = ray.cluster_resources().get("CPU", 1)
        return max(total - LIGHT_CPUS, total / 2) / self.at_once

    @property
    def _largest_node(self) -> float:
        """CPUs of it: no worker or actor can have more."""
        return max(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"])

    @property
    def _gpus(self) -> int:
        return int(ray.cluster_resources().get("GPU", 0)) // self.at_once

    def trials_at_once(self) -> int:
        """How many trials of a study run side by side.

        Raises:
            RequestError: the cluster is too small for that many, or for a single one.
        """
        self.connect()
        cores, workers = self._cpus, self.config.train_workers or 1
        if self._gpus:
            possible, unit, there = self._gpus // workers, f"{workers} GPU(s)", f"{self._gpus} GPU(s)"
        else:
            possible, unit, there = int(cores), "a core", f"{cores:g} core(s) for models, and no GPU"
        wanted = self.config.trials_at_once or max(1, possible if self._gpus else possible // CORES_PER_TRIAL)
        if wanted > possible:
            raise RequestError(
                f"cluster.trials_at_once={wanted}, cluster.train_workers={workers}: each trial needs {unit}, but the "
                f"cluster has {there}; lower one of them or use a larger cluster"
            )
        return wanted

    def train_share(self, batch_size: int) -> Share:
        """Resources of the training workers, among whom a batch is divided evenly.

        Raises:
            RequestError: `train_workers` are more than there are GPUs.
        """
        self.connect()
        if self._gpus and (self.config.train_workers or 1) > self._gpus:
            raise RequestError(
                f"cluster.train_workers={self.config.train_workers}: the cluster has {self._gpus} GPU(s), and each "
                "worker needs one; lower it or use a larger cluster"
            )
        if self._gpus:
            dividing = max(count for count in range(1, self._gpus + 1) if batch_size % count == 0)
            return Share(self.config.train_workers or dividing, cpus=1, gpus=1)
        count = self.config.train_workers or 1
        return Share(count, cpus=min(self._cpus / count, self._largest_node))

    def map_share(self) -> Share:
        """Resources of the actors that make maps."""
        self.connect()
        if self._gpus:
            return Share(self.config.map_actors or self._gpus, cpus=1, gpus=1)
        count = self.config.map_actors or max(1, int(self._cpus // 2))
        return Share(count, cpus=min(self._cpus / count, self._largest_node))

    def cpu_share(self) -> Share:
        """Resources of the actors that run on CPUs alone: CRF and scores."""
        self.connect()
        count = self.config.cpu_actors or max(1, int(self._cpus))
        return Share(count, cpus=min(1.0, self._cpus / count))
