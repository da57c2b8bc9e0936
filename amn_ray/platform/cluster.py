"""The Ray cluster that a job runs on, and how its CPUs and GPUs are divided.

Models and CRF get all CPUs; a model on a GPU gets one. Jobs share a cluster without deadlock, since no job holds CPUs
while it waits for more: what does not fit waits until another job's stage ends. Light tasks, which read and write for
the models, reserve almost no CPU; their number is limited instead. Models reserve 0.1 % less than they use, so that
light tasks always fit beside them.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import ray
from ray.data import DataContext
from ray.exceptions import GetTimeoutError, NodeDiedError, RayError, TaskUnschedulableError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from amn_ray.core.checks import check_choice
from amn_ray.core.console import log
from amn_ray.core.errors import RequestError, RunError, unwrap_worker_errors
from amn_ray.core.folders import Folder
from amn_ray.core.places import without_secrets
from amn_ray.platform import plugin_env, ray_internals, submitted
from amn_ray.platform.address import answering, names_cluster, refused_address
from amn_ray.platform.available_cpus import available_cpus
from amn_ray.platform.memory import (
    OOM_RETRIES,
    MemoryFull,
    Shortage,
    Unreachable,
    report_killed_workers,
    shorten_retry_messages,
)

LIGHT_TASK_CPUS = 0.0001
"""What a light task reserves: Ray's smallest amount. (With 0 Ray would also place them on a head without CPUs.)"""
LOADERS = 2
"""The minimum number, per node, of concurrent tasks that produce training examples."""
CORES_PER_TRIAL = 4
"""Without GPUs; with fewer cores, concurrent trials are no faster than sequential ones."""
T = TypeVar("T")
SHORTAGES = 3
"""Work fails when memory is full, or a node is lost, more often than this without progress in between."""
LOST_S = 45.0
"""Seconds until Ray has surely noticed that a node is lost: it asks each one every few seconds, several times."""
PATIENCE_S = 60.0
"""How long to wait for memory the first time; doubled each time after that."""
POLL_S = 5.0
ANSWER_S = 120.0
"""How long a node may take to answer a check; it may have to start a process for it."""


DEVICES = ("auto", "cpu", "gpu")


@dataclass(kw_only=True)
class ClusterConfig:
    """Resources: they affect the speed, not the result. Null: derived from the cluster's resources."""

    address: str | None = None
    """null: the cluster that RAY_ADDRESS names, else a local Ray; local: a local Ray in any case."""
    nodes: int = 1
    """Wait until the cluster has this many nodes with CPUs."""
    wait_s: float = 600
    """How long to wait for them, in seconds."""
    device: str = "auto"
    """What networks run on: auto (GPUs where there are any), cpu or gpu (refuses to fall back to CPUs)."""
    cpus: int | None = None
    """Cores that a local Ray uses; null = all that this process may use. Ignored where RAY_ADDRESS names a cluster."""
    object_store_gb: float = 1.0
    """Shared memory of a local Ray, for data between tasks."""
    train_workers: int | None = None
    """Data-parallel training workers; null = one per GPU (as many as divide the batch), or one."""
    map_actors: int | None = None
    """Actors that hold a network and make maps; null = one per GPU, or one per two cores, but two for two or three."""
    cpu_actors: int | None = None
    """Actors that run dense CRF and count pixels; null = one per core."""
    worker_cpus: float | None = None
    """CPUs of each training worker and map actor; null = an even share, or 1 with a GPU."""
    trials_at_once: int | None = None
    """Concurrent trials of a study, which share the cluster; null = one per `train_workers` GPUs, or per 4 cores."""

    def __post_init__(self) -> None:
        for name in ("cpus", "train_workers", "map_actors", "cpu_actors", "trials_at_once", "nodes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1" + ("" if name == "nodes" else ", or null"))
        check_choice(self, "device", DEVICES)
        if self.address not in (None, "local"):
            raise ValueError(f"address={self.address}: must be null or local; a cluster's address goes to RAY_ADDRESS")
        if self.object_store_gb < 0.1:
            raise ValueError(f"object_store_gb={self.object_store_gb}: must be at least 0.1")
        if self.worker_cpus is not None and self.worker_cpus <= 0:
            raise ValueError(f"worker_cpus={self.worker_cpus}: must be greater than 0, or null")


@dataclass(frozen=True)
class Resources:
    """The resources of each of `count` workers or actors."""

    count: int
    cpus: float
    """CPUs that it uses; also its number of threads."""
    gpus: float = 0
    may_grow: bool = False
    """Whether more of them start on nodes that join."""
    setting: str = ""
    """The configuration key of `count`."""

    @property
    def reserved_cpus(self) -> float:
        """CPUs that Ray reserves for it: a little less than it uses, see the module."""
        return round(0.999 * self.cpus, 4)

    @property
    def threads(self) -> int:
        """Threads for PyTorch in each."""
        return max(1, int(self.cpus))


def set_worker_environment() -> None:
    """Make processes that run networks keep the memory of large tensors; call this before they start.

    Otherwise glibc maps it again each time, and the kernel zeroes it: a fifth to a third of a network's time on CPUs.
    """
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**32))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**34))


RAY_SETTINGS = {
    "RAY_DATA_LOG_LEVEL": "ERROR",  # its warnings are about its own progress bars
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process that we do not need
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # else an epoch's report takes up to 2 s
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",  # of waiting for resources, before we look at the cluster again
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a process without a GPU sees none
    "RAY_task_oom_retries": str(OOM_RETRIES),  # unlimited by default
}
"""For all processes of a job, unless the user has set them in the environment."""


def _set_node_environment() -> None:
    """Make a node keep its idle worker processes; call this before the node starts.

    Ray ends those beyond the number of CPUs after a second. Starting one takes a second of a core, and stages have
    short tasks of several kinds.
    """
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
    os.environ.setdefault("RAY_num_workers_soft_limit", str(max(8, available_cpus())))


def authenticate(is_own: bool) -> None:
    """Use token authentication, unless the user set RAY_AUTH_MODE; call this before starting or joining Ray.

    Anyone who can reach Ray's ports can run any code, even if that Ray lives only as long as a job.

    Args:
        is_own: whether a local Ray is started. A missing token is then written to ~/.ray/auth_token or, without a
            writable home, kept in the environment. A cluster is joined with a token if there is one.
    """
    if is_own or ray_internals.has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    ray_internals.read_environment_again()
    if is_own:
        try:
            ray_internals.ensure_token()
        except (OSError, RuntimeError):  # RuntimeError: no home
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
            ray_internals.forget_token()


def _set_driver_environment() -> None:
    """Settings of a process that drives Ray Data and Ray Train: a job's own, or a study's trial."""
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # failures are raised, and reported once
    warnings.filterwarnings("ignore", "The maximum number of concurrent tasks")  # exceeds the number of shards: fine
    warnings.filterwarnings("ignore", "`ray_remote_args")  # there is no other way to limit retries
    # Ray 2.60's new reader lists files in a task that starts six processes: 8 s per execution on two cores, where
    # the old one takes 0.3 s (both measured on a table of two shards).
    DataContext.get_current().use_datasource_v2 = False


@contextmanager
def _keep_sigterm_handler() -> Iterator[None]:
    """Keep the SIGTERM handler: Ray's own prints a page and aborts."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Cluster:
    """A connection to Ray, opened when the first stage needs it (a fully cached pipeline never does)."""

    def __init__(self, config: ClusterConfig, max_concurrency: int = 1, is_own: bool | None = None) -> None:
        """Args:
        config: the settings.
        max_concurrency: the number of pipelines that share the cluster, this one included.
        is_own: whether it is a local Ray that we start; None: unless RAY_ADDRESS names a cluster. (The processes of a
            study's trials do not have that variable.)
        """
        self.config = config
        self.max_concurrency = max_concurrency
        self.is_own = config.address == "local" or not names_cluster() if is_own is None else is_own

    def connect(self) -> None:
        """Join the cluster of RAY_ADDRESS, or start a local Ray.

        Raises:
            RequestError: RAY_ADDRESS names a cluster that does not answer, or lacks the requested resources.
        """
        _set_driver_environment()
        if ray.is_initialized():
            return
        shorten_retry_messages()
        with _keep_sigterm_handler():
            self._start()
        self._wait_for_nodes()
        if self.config.device == "gpu" and not self._gpus:
            raise RequestError(
                "cluster.device=gpu: Ray sees no GPU on a node with CPUs; check `nvidia-smi` and `ray status`, or "
                "set cluster.device=auto"
            )

    def _start(self) -> None:
        authenticate(self.is_own)
        set_worker_environment()
        common: dict[str, Any] = {
            "logging_level": logging.WARNING,
            "logging_config": ray.LoggingConfig(log_level="ERROR"),  # its warnings are about things we do on purpose
        }
        if not self.is_own:
            # A local Ray's processes inherit this one's environment; those of a cluster were started by others.
            settings = {name: os.environ[name] for name in RAY_SETTINGS} | plugin_env.environment()
            environment = {name: value for name, value in settings.items() if name not in submitted.variables()}
            modules = plugin_env.runtime_env(submitted.runtime_env().keys())
            address = answering()
            try:
                ray.init(address, runtime_env={"env_vars": environment, **modules}, **common)
            except Exception as error:  # of many types: another version, a machine that is not a node of the cluster, …
                raise refused_address(_first_line(error)) from error
            return
        _set_node_environment()
        submitted.leave()
        port = _free_port()
        # Ray Train's cleaner looks for the dashboard: without one it complains once a second, and with another Ray on
        # this machine it cannot tell which one to use.
        os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
        try:
            with ray_internals.on_this_host():
                ray.init(
                    address="local",
                    num_cpus=self.config.cpus or available_cpus(),
                    include_dashboard=True,
                    dashboard_host="127.0.0.1",
                    dashboard_port=port,
                    object_store_memory=int(self.config.object_store_gb * 2**30),
                    **common,
                )
        except Exception as error:  # any failure of its processes
            raise RunError(
                f"Ray did not start on this machine ({_first_line(error)}); run again when it is less busy, and check "
                "free memory, free space in /dev/shm, and Ray's directory (RAY_TMPDIR, TMPDIR, or /tmp: it needs free "
                "space, a short path, and write permission)"
            ) from error

    def _wait_for_nodes(self) -> None:
        deadline, logged = time.monotonic() + self.config.wait_s, False
        while (joined := len(_working())) < self.config.nodes:
            if self.is_own:
                raise RequestError(
                    f"cluster.nodes={self.config.nodes}: RAY_ADDRESS is not set, so this would run on one machine; "
                    "submit it with `ray job submit`, or set cluster=auto"
                )
            if time.monotonic() > deadline:
                raise RequestError(
                    f"cluster.nodes={self.config.nodes}: the cluster has {joined} node(s) with CPUs after "
                    f"cluster.wait_s={self.config.wait_s:g} seconds; start more with `ray start --address`, or "
                    "lower cluster.nodes"
                )
            if not logged:
                log("cluster", f"waits for nodes: {joined} of {self.config.nodes} have joined")
                logged = True
            time.sleep(1)

    def run_remote(self, function: Callable[..., Any], *arguments: Any, ends: bool = False) -> Any:
        """Run `function` in a Ray task, so that memory proportional to the data set stays out of the driver.

        Args:
            function: it and its result must be small.
            arguments: of the function.
            ends: whether the process ends afterwards, to free its memory.

        Raises:
            RequestError: raised by the function.
            RunError: raised by the function, or its process was killed.
        """
        self.connect()
        # DEFAULT: not within the resources of a study's trial, if this is one.
        settings: dict[str, Any] = {"num_cpus": LIGHT_TASK_CPUS, "scheduling_strategy": "DEFAULT"}
        remote = ray.remote(**settings, max_calls=int(ends))(function)
        with report_killed_workers(function.__name__, "what else runs on this cluster"), unwrap_worker_errors():
            return ray.get(remote.remote(*arguments))

    def spilled_gb(self) -> float:
        """GiB that all nodes have spilled from their object stores to disk so far; 0 if they do not answer."""
        self.connect()
        return ray_internals.spilled_bytes() / 2**30

    def ask_everywhere(self, function: Callable[..., T], *arguments: Any) -> list[T]:
        """Run the function on all nodes with CPUs; returns the results.

        Raises:
            RequestError: a node does not answer.
        """
        self.connect()
        strategies = {node["NodeID"]: NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in _working()}
        pending = [
            ray.remote(num_cpus=LIGHT_TASK_CPUS, scheduling_strategy=strategy)(function).remote(*arguments)
            for strategy in strategies.values()
        ]
        try:
            return ray.get(pending, timeout=ANSWER_S)
        except GetTimeoutError as error:
            raise RequestError(
                f"a node of the cluster has not answered within {ANSWER_S:g} seconds; check `ray status`, or stop "
                "the hanging node"
            ) from error

    def check_everywhere(
        self, function: Callable[..., str | None], *arguments: Any, working_only: bool = False
    ) -> None:
        """Run a check on every other node.

        Args:
            function: the check; returns the problem, as words to follow the node's name, or None.
            arguments: of the function.
            working_only: skip nodes without CPUs, such as most heads of clusters.

        Raises:
            RequestError: the check found a problem on a node.
        """
        self.connect()
        here = ray.get_runtime_context().get_node_id()
        others = [node for node in (_working() if working_only else _alive()) if node["NodeID"] != here]
        strategies = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in others]
        pending = [
            ray.remote(num_cpus=0, scheduling_strategy=strategy)(function).remote(*arguments) for strategy in strategies
        ]
        deadline = time.monotonic() + ANSWER_S
        for node, answer in zip(others, pending, strict=True):
            try:
                problem = ray.get(answer, timeout=max(0.0, deadline - time.monotonic()))
            except (TaskUnschedulableError, NodeDiedError, WorkerCrashedError):
                continue  # it just died, and is not needed
            except GetTimeoutError:
                problem = (
                    f"has not answered within {ANSWER_S:g} seconds; check its mounts (a hanging network "
                    "disk) and its load, or stop that node"
                )
            if problem is not None:
                raise RequestError(f"node {node['NodeManagerAddress']} ({node['NodeManagerHostname']}) {problem}")

    def resumed(self, stage: str, work: Callable[[], T], progress: Callable[[], int]) -> T:
        """The result of `work`, which is called again if a node was lost, and once memory is free if it ran out of it.

        Also if a job that was killed had left the cluster in a state in which no other job can work.

        Args:
            stage: the stage that the work belongs to.
            work: resumes when it is called again.
            progress: how far the work has come; without progress, there are only a few attempts.

        Raises:
            MemoryFull: there was never enough memory.
            Unreachable: a worker did not answer, and no node was lost; or one was lost again and again.
        """
        shortages, reached = 0, -1
        while True:
            nodes = self.nodes()
            try:
                return work()
            except (Unreachable, MemoryFull) as error:
                before, reached = reached, progress()
                shortages = shortages + 1 if reached == before else 1
                if shortages > SHORTAGES:
                    raise
                if isinstance(error, Unreachable):
                    if not self._lost_one_of(nodes):
                        raise
                    log(stage, "a node was lost; continues on the others")
                    continue
                log(stage, f"warning: {str(error).removeprefix(f'{stage}: ')}; waits for memory, then continues")
                self.wait_for_memory(error.shortage, PATIENCE_S * 2 ** (shortages - 1))
            except Exception:
                if not ray_internals.forget_half_made_actors(ANSWER_S):
                    raise
                log(
                    stage,
                    "a killed job of this cluster had left something half-made, now removed; tries again",
                )

    def _lost_one_of(self, nodes: set[str]) -> bool:
        """Whether a node is gone; on a cluster, Ray may need a while to find out."""
        deadline = time.monotonic() + (0 if self.is_own else LOST_S)
        while nodes <= self.nodes():
            if time.monotonic() > deadline:
                return False
            time.sleep(1)
        return True

    def wait_for_memory(self, shortage: Shortage, at_most_s: float) -> None:
        """Wait until the node has memory for the workers killed there, but not longer than `at_most_s`.

        Return at once if the killed workers held most of the memory themselves: nothing else could free it.
        """
        deadline = time.monotonic() + at_most_s
        nodes = [node["NodeID"] for node in _alive() if node["NodeManagerAddress"] == shortage.node]
        if not nodes or shortage.held > shortage.threshold / 2:
            return
        strategy = NodeAffinitySchedulingStrategy(nodes[0], soft=False)
        used = ray.remote(num_cpus=0, scheduling_strategy=strategy, max_retries=0)(_used_memory)
        while time.monotonic() < deadline:
            with suppress(RayError):  # too full to answer, or the node is lost
                if ray.get(used.remote(), timeout=ANSWER_S) + shortage.held <= shortage.threshold:
                    return
            time.sleep(min(POLL_S, max(0.0, deadline - time.monotonic())))

    def nodes(self) -> set[str]:
        """The ids of all live nodes."""
        self.connect()
        return {node["NodeID"] for node in _alive()}

    def check_shared(self, folder: Folder, key: str) -> None:
        """Refuse a folder that other nodes of the cluster cannot see.

        Raises:
            RequestError: a node cannot see it; `key` is the setting that named it.
        """
        self.connect()
        if len(_alive()) > 1:
            probe = f".probe-{time.time_ns()}"
            folder.write(probe, b"probe")
            try:
                self.check_seen(folder, probe, key)
            finally:
                folder.remove(probe)

    def check_seen(self, folder: Folder, name: str, key: str) -> None:
        """Refuse a folder if a node cannot see a file in it.

        Raises:
            RequestError: a node cannot; `key` is the setting that named the folder.
        """
        self.check_everywhere(_visibility_problem, folder, name, key)

    def check_tracking(self, uri: str) -> None:
        """Refuse a tracking URI that other nodes of the cluster cannot reach.

        Raises:
            RequestError: the cluster has more than one node, and the URI is a SQLite file, or a server that only this
                machine can reach.
        """
        self.connect()
        machines = {node["NodeManagerHostname"] for node in _alive()}
        host = urlsplit(uri).hostname or ""
        if len(machines) > 1 and (host == "localhost" or host.startswith("127.")):
            raise RequestError(
                f"tracking.uri={without_secrets(uri)}: each of the {len(machines)} machines of the cluster would look "
                "for that server on itself; start `mlflow server --host 0.0.0.0` in a private network (see "
                "deploy/compose.yaml) and name the machine it runs on"
            )
        if uri.startswith("sqlite") and len(_alive()) > 1:
            raise RequestError(
                f"tracking.uri={uri}: is a file on one machine, but the cluster has {len(_alive())} nodes; start "
                "`mlflow server` (see deploy/compose.yaml) and set tracking.uri=http://host:port"
            )

    @property
    def _node_cpus(self) -> list[float]:
        """CPUs of each node that has any."""
        return [node["Resources"]["CPU"] for node in _working()] or [1]

    def light_tasks(self) -> int:
        """The number of concurrent tasks that read shards, and of those that write them: one per two CPUs.

        Each is a process that takes a second of a core to start, whereas reading a shard is fast.
        """
        self.connect()
        return max(1, int(sum(self._node_cpus) / 2) // self.max_concurrency)

    def loaders(self, beside: Resources) -> int:
        """The number of concurrent tasks that produce training examples: one per CPU that workers leave, or a few.

        Ray Data spreads them evenly over the nodes, so the smallest node decides.
        """
        free_cpus = len(self._node_cpus) * min(self._node_cpus) / self.max_concurrency - beside.count * beside.cpus
        return max(int(free_cpus), LOADERS * max(1, len(self._node_cpus) // self.max_concurrency))

    def _even_share(self, count: int) -> float:
        """The most CPUs that each of `count` workers can have so that all pipelines' workers fit on the nodes."""
        nodes, wanted = Counter(self._node_cpus), count * self.max_concurrency

        def fitting(size: float) -> int:
            return sum(number * int(cpus / size + 1e-9) for cpus, number in nodes.items())

        sizes = (cpus / parts for cpus in nodes for parts in range(1, wanted + 1))
        return max(size for size in sizes if fitting(size) >= wanted)

    @property
    def _gpus(self) -> int:
        """The number of GPUs on nodes that also have enough CPUs for one worker per GPU."""
        if self.config.device == "cpu":
            return 0
        each, nodes = self.config.worker_cpus or 1, [node["Resources"] for node in _working()]
        return sum(int(min(node.get("GPU", 0), node["CPU"] / each)) for node in nodes) // self.max_concurrency

    def trials_at_once(self) -> int:
        """The number of concurrent trials of a study.

        Raises:
            RequestError: the cluster is too small for that many, or even for one.
        """
        self.connect()
        cores, workers = sum(self._node_cpus), self.config.train_workers or 1
        if self._gpus:
            possible, unit, available = self._gpus // workers, f"{workers} GPU(s)", f"{self._gpus} GPU(s)"
        else:
            possible, unit, available = max(1, int(cores)), "a core", f"{cores:g} core(s), and no GPU"
        wanted = self.config.trials_at_once or max(1, possible if self._gpus else possible // CORES_PER_TRIAL)
        if wanted > possible:
            raise RequestError(
                f"cluster.trials_at_once={wanted}, cluster.train_workers={workers}: each trial needs {unit}, but the "
                f"cluster has {available}; lower one of them or use a larger cluster"
            )
        return wanted

    def train_share(self, batch_size: int) -> Resources:
        """Resources of the training workers, which divide a batch evenly.

        Raises:
            RequestError: `train_workers` exceeds the number of GPUs.
        """
        self.connect()
        if self._gpus and (self.config.train_workers or 1) > self._gpus:
            raise RequestError(
                f"cluster.train_workers={self.config.train_workers}: the cluster has {self._gpus} GPU(s), and each "
                "worker needs one; lower it or use a larger cluster"
            )
        if self._gpus:
            dividing = max(count for count in range(1, self._gpus + 1) if batch_size % count == 0)
            count, cpus = self.config.train_workers or dividing, self.config.worker_cpus or 1
            return Resources(count, cpus=cpus, gpus=1, setting="cluster.train_workers")
        count = self.config.train_workers or 1
        cpus = self.config.worker_cpus or self._even_share(count)
        return Resources(count, cpus=cpus, setting="cluster.train_workers")

    def map_share(self) -> Resources:
        """Resources of the actors that compute maps."""
        self.connect()
        if self._gpus:
            count = self.config.map_actors or self._gpus
            cpus, grows = self.config.worker_cpus or 1, self._may_grow(self.config.map_actors)
            return Resources(count, cpus=cpus, gpus=1, may_grow=grows, setting="cluster.map_actors")
        # One actor with two threads stalls whenever anything else runs on either of its two cores.
        possible = sum(max(1, min(2, int(cpus)), int(cpus // 2)) for cpus in self._node_cpus) // self.max_concurrency
        count = self.config.map_actors or max(1, possible)
        cpus = self.config.worker_cpus or self._even_share(count)
        grows = self._may_grow(self.config.map_actors)
        return Resources(count, cpus=cpus, may_grow=grows, setting="cluster.map_actors")

    def cpu_share(self) -> Resources:
        """Resources of the actors that only use CPUs: CRF and scores."""
        self.connect()
        possible = sum(max(1, int(cpus)) for cpus in self._node_cpus) // self.max_concurrency
        count = self.config.cpu_actors or max(1, possible)
        cpus, grows = min(1.0, self._even_share(count)), self._may_grow(self.config.cpu_actors)
        return Resources(count, cpus=cpus, may_grow=grows, setting="cluster.cpu_actors")

    def _may_grow(self, configured: int | None) -> bool:
        return not self.is_own and configured is None and self.max_concurrency == 1


def _visibility_problem(folder: Folder, name: str, key: str) -> str | None:
    remedy = "give a directory that all nodes mount at the same path, or s3://bucket/prefix with credentials on each"
    try:
        visible = folder.exists(name)
    except OSError as error:
        return f"cannot read {key}={folder.url} ({str(error).splitlines()[0]}); {remedy}"
    return None if visible else f"does not see {key}={folder.url}; {remedy}"


def _used_memory() -> float:
    """The used memory of this machine or container in GiB, as Ray's memory monitor counts it."""
    return ray_internals.used_memory() / 2**30


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _working() -> list[dict[str, Any]]:
    """The live nodes that have CPUs; the head of a cluster often has none."""
    return [node for node in _alive() if node["Resources"].get("CPU")]


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
