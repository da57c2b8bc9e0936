"""The Ray cluster that a job runs on, and how its CPUs and GPUs are dealt out.

Models and CRF get all CPUs; a model on a GPU gets one. Several jobs may run on one cluster, each as if it were its own:
whatever does not fit waits until another job's stage ends. No job may hold processors while it waits for more, or two
of them would wait for each other: light tasks, which feed what holds processors or take what it makes, reserve next to
nothing, and models a thousandth less than they use, so that any number of them leaves room for light tasks. How many of
these run at once is counted instead.
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

# Read on import. Trials say similar things, and all of them count.
os.environ.setdefault("RAY_DEDUP_LOGS", "0")

import grpc
import ray
from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
from ray._private.internal_api import get_memory_info_reply, get_state_from_address
from ray._private.utils import get_used_memory
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.data import DataContext
from ray.exceptions import GetTimeoutError, NodeDiedError, RayError, TaskUnschedulableError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from amn_ray.core.checks import check_choice
from amn_ray.core.console import say
from amn_ray.core.errors import RequestError, RunError, told_by_workers
from amn_ray.core.folders import Folder
from amn_ray.core.places import without_secrets
from amn_ray.platform import submitted
from amn_ray.platform.address import answering, names_cluster, refused_address
from amn_ray.platform.granted import granted_cpus
from amn_ray.platform.local_ray import on_this_host
from amn_ray.platform.memory import OOM_RETRIES, MemoryFull, Shortage, tell_retries, told_if_killed

LIGHT_TASK_CPUS = 0.0001
"""What a light task reserves: Ray's smallest amount. (Of nothing at all, the head of a cluster would get its part.)"""
LOADERS = 2
"""On each node at once at least, of the tasks that make training examples."""
CORES_PER_TRIAL = 4
"""Without GPUs: with fewer, trials side by side are no faster than one after the other."""
T = TypeVar("T")
SHORTAGES = 3
"""How often memory may be full before work that makes no progress is given up."""
PATIENCE_S = 60.0
"""How long memory is waited for at first, and each time twice as long."""
POLL_S = 5.0
ANSWER_S = 120.0
"""How long a node may take to answer whether it can do its part; a process on it may have to start for that."""


DEVICES = ("auto", "cpu", "gpu")


@dataclass(kw_only=True)
class ClusterConfig:
    """Changes how fast a result comes, never which one; null means: from what the cluster has."""

    address: str | None = None
    """null: the cluster that RAY_ADDRESS names, else a Ray of our own on this machine; local: the latter anyway."""
    nodes: int = 1
    """Begin when the cluster has so many nodes with CPUs."""
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
    """CPUs of each training worker and map actor; null = an even share, or 1 beside a GPU."""
    trials_at_once: int | None = None
    """Trials of a study that share the cluster evenly; null = one per GPU (or `train_workers` GPUs), or per 4 cores."""

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
class Share:
    """What each of `count` workers or actors of one kind gets."""

    count: int
    cpus: float
    """That it uses."""
    gpus: float = 0
    may_grow: bool = False
    """Whether nodes that join are used for more of them."""
    setting: str = ""
    """The key of the count."""

    @property
    def reserved_cpus(self) -> float:
        """What Ray sets aside for it: a little less, see the module."""
        return round(0.999 * self.cpus, 4)

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
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",  # of waiting for room, before the cluster is looked at again
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a process that was given no GPU sees none
    "RAY_task_oom_retries": str(OOM_RETRIES),  # else for ever
}
"""For all processes of a job; set in the environment, they are the user's."""


def _set_node_environment() -> None:
    """Before a node starts: keep idle worker processes, which cost a second of a core each to start again.

    Ray ends those above the number of CPUs after a second; stages come in turn, and have short tasks of several kinds.
    """
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
    os.environ.setdefault("RAY_num_workers_soft_limit", str(max(8, granted_cpus())))


def authenticate(is_own: bool) -> None:
    """Before a Ray is started or joined: with a token, unless the user set RAY_AUTH_MODE.

    Who reaches the ports of a Ray can run any code, also those of one that lives as long as a job.

    Args:
        is_own: whether it is started; a token that is missing is then written to ~/.ray/auth_token, or, where there is
            no home to write to, is kept in the environment. A cluster of others is joined with a token if there is one.
    """
    if is_own or AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    Config.initialize("")  # reads the environment again: Ray did so on import
    if is_own:
        try:
            ensure_token_if_auth_enabled()
        except (OSError, RuntimeError):  # RuntimeError: there is no home at all
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
            AuthenticationTokenLoader.instance().reset_cache()


def _set_driver_environment() -> None:
    """In a process that drives Ray Data and Ray Train: a job's own, or a study's trial."""
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what fails is raised, and told once
    warnings.filterwarnings("ignore", "The maximum number of concurrent tasks")  # is above the number of shards: fine
    warnings.filterwarnings("ignore", "`ray_remote_args")  # how often to try again can be told in no other way
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

    def __init__(self, config: ClusterConfig, at_once: int = 1, is_own: bool | None = None) -> None:
        """Args:
        config: how it is used.
        at_once: so many pipelines share the cluster, and this is one of them.
        is_own: whether it is a Ray that we start on this machine; None: unless RAY_ADDRESS names another one. (The
            processes of a study's trials do not have that variable.)
        """
        self.config = config
        self.at_once = at_once
        self.is_own = config.address == "local" or not names_cluster() if is_own is None else is_own

    def connect(self) -> None:
        """Join the cluster of RAY_ADDRESS, or start a local Ray.

        Raises:
            RequestError: RAY_ADDRESS names a cluster that does not answer, or that has not what was asked for.
        """
        _set_driver_environment()
        if ray.is_initialized():
            return
        tell_retries()
        with _kept_sigterm():
            self._start()
        self._wait_for_nodes()
        if self.config.device == "gpu" and not self._gpus:
            raise RequestError(
                "cluster.device=gpu: Ray sees no GPU on a node with CPUs; look at `nvidia-smi` and `ray status`, or "
                "set cluster.device=auto"
            )

    def _start(self) -> None:
        authenticate(self.is_own)
        set_worker_environment()
        common: dict[str, Any] = {
            "logging_level": logging.WARNING,
            "logging_config": ray.LoggingConfig(log_level="ERROR"),  # its warnings are about what we do on purpose
        }
        if not self.is_own:
            # A local Ray's processes inherit this one's environment; those of a cluster were started by others.
            environment = {name: os.environ[name] for name in RAY_SETTINGS if name not in submitted.variables()}
            address = answering()
            try:
                ray.init(address, runtime_env={"env_vars": environment}, **common)
            except Exception as error:  # of many kinds: another version, a machine that is no node of it, …
                raise refused_address(_first_line(error)) from error
            return
        _set_node_environment()
        submitted.leave()
        port = _free_port()
        # Ray Train's cleaner looks for the dashboard: without one it complains once a second, and where another
        # Ray runs on this machine it does not know which is meant.
        os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
        try:
            with on_this_host():
                ray.init(
                    address="local",
                    num_cpus=self.config.cpus or granted_cpus(),
                    include_dashboard=True,
                    dashboard_host="127.0.0.1",
                    dashboard_port=port,
                    object_store_memory=int(self.config.object_store_gb * 2**30),
                    **common,
                )
        except Exception as error:  # of any kind that its processes fail with
            raise RunError(
                f"Ray did not start on this machine ({_first_line(error)}); run again when it is less busy, and look "
                "for free memory, for room in /dev/shm and where Ray keeps its files (RAY_TMPDIR, TMPDIR, or /tmp: "
                "a directory with a short name that you can write to)"
            ) from error

    def _wait_for_nodes(self) -> None:
        deadline, told = time.monotonic() + self.config.wait_s, False
        while (there := len(_working())) < self.config.nodes:
            if self.is_own:
                raise RequestError(
                    f"cluster.nodes={self.config.nodes}: RAY_ADDRESS is not set, so this would run on one machine; "
                    "submit it with `ray job submit`, or set cluster=auto"
                )
            if time.monotonic() > deadline:
                raise RequestError(
                    f"cluster.nodes={self.config.nodes}: the cluster has {there} node(s) with CPUs after "
                    f"cluster.wait_s={self.config.wait_s:g} seconds; start others with `ray start --address`, or ask "
                    "for fewer"
                )
            if not told:
                say("cluster", f"{there} of {self.config.nodes} nodes are there, waits for the others")
                told = True
            time.sleep(1)

    def run_remote(self, function: Callable[..., Any], *arguments: Any, ends: bool = False) -> Any:
        """`function(*arguments)` in another process: for what would let the driver grow with the data set.

        Args:
            function: it and what it returns must be small.
            arguments: of it.
            ends: whether the process ends afterwards, for what would leave it large.

        Raises:
            RequestError: what the function raised, if it was the user's mistake.
            RunError: likewise, if the run failed.
        """
        self.connect()
        # DEFAULT: not within the resources of a study's trial, if this is one.
        settings: dict[str, Any] = {"num_cpus": LIGHT_TASK_CPUS, "scheduling_strategy": "DEFAULT"}
        remote = ray.remote(**settings, max_calls=int(ends))(function)
        with told_if_killed(function.__name__, "what else runs on this cluster"), told_by_workers():
            return ray.get(remote.remote(*arguments))

    def spilled_gb(self) -> float:
        """What all nodes have moved from their object stores to disk so far, in GiB; 0 if they cannot be asked now."""
        self.connect()
        state = get_state_from_address(ray.get_runtime_context().gcs_address)
        try:
            return get_memory_info_reply(state).store_stats.spilled_bytes_total / 2**30
        except grpc.RpcError:  # a node has just died
            return 0

    def ask_everywhere(self, function: Callable[..., T], *arguments: Any) -> list[T]:
        """What the function returns on each node that has CPUs.

        Raises:
            RequestError: a node does not answer.
        """
        self.connect()
        places = {node["NodeID"]: NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in _working()}
        asked = [
            ray.remote(num_cpus=LIGHT_TASK_CPUS, scheduling_strategy=there)(function).remote(*arguments)
            for there in places.values()
        ]
        try:
            return ray.get(asked, timeout=ANSWER_S)
        except GetTimeoutError as error:
            raise RequestError(
                f"a node of the cluster has not answered within {ANSWER_S:g} seconds; look at `ray status`, or end the "
                "node that hangs"
            ) from error

    def check_everywhere(
        self, function: Callable[..., str | None], *arguments: Any, working_only: bool = False
    ) -> None:
        """Ask every other node whether it can do its part.

        Args:
            function: called there; returns what is wrong, in words that follow the node's name, or None.
            arguments: of it.
            working_only: leave out nodes without CPUs, as the head of a cluster often is.

        Raises:
            RequestError: something is wrong on a node.
        """
        self.connect()
        here = ray.get_runtime_context().get_node_id()
        others = [node for node in (_working() if working_only else _alive()) if node["NodeID"] != here]
        places = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in others]
        asked = [ray.remote(num_cpus=0, scheduling_strategy=there)(function).remote(*arguments) for there in places]
        deadline = time.monotonic() + ANSWER_S
        for node, answer in zip(others, asked, strict=True):
            try:
                wrong = ray.get(answer, timeout=max(0.0, deadline - time.monotonic()))
            except (TaskUnschedulableError, NodeDiedError, WorkerCrashedError):
                continue  # it has just died, and will not do anything
            except GetTimeoutError:
                wrong = (
                    f"has not answered within {ANSWER_S:g} seconds; look there at its mounts (a network disk that "
                    "hangs) and its load, or end that node"
                )
            if wrong is not None:
                raise RequestError(f"node {node['NodeManagerAddress']} ({node['NodeManagerHostname']}) {wrong}")

    def patiently(self, stage: str, work: Callable[[], T], progress: Callable[[], int]) -> T:
        """What `work` returns, which goes on where it was each time that memory was full and there is room again.

        Args:
            stage: what works.
            work: can be called again.
            progress: how far it is; without any, it is not called more than a few times.

        Raises:
            MemoryFull: there was never enough.
        """
        shortages, reached = 0, -1
        while True:
            try:
                return work()
            except MemoryFull as error:
                before, reached = reached, progress()
                shortages = shortages + 1 if reached == before else 1
                if shortages > SHORTAGES:
                    raise
                say(stage, f"warning: {str(error).removeprefix(f'{stage}: ')}; it goes on when there is room")
                self.wait_for_memory(error.shortage, PATIENCE_S * 2 ** (shortages - 1))

    def wait_for_memory(self, shortage: Shortage, at_most_s: float) -> None:
        """Return when a node has room again for what was killed there, or when that has taken long enough.

        What held most of the memory by itself is not waited for: nobody else can make room for it.
        """
        deadline = time.monotonic() + at_most_s
        places = [node["NodeID"] for node in _alive() if node["NodeManagerAddress"] == shortage.node]
        if not places or shortage.held > shortage.threshold / 2:
            return
        there = NodeAffinitySchedulingStrategy(places[0], soft=False)
        used = ray.remote(num_cpus=0, scheduling_strategy=there, max_retries=0)(_used_memory)
        while time.monotonic() < deadline:
            with suppress(RayError):  # so full that nobody answers; or the node has gone, and with it the shortage
                if ray.get(used.remote(), timeout=ANSWER_S) + shortage.held <= shortage.threshold:
                    return
            time.sleep(min(POLL_S, max(0.0, deadline - time.monotonic())))

    def nodes(self) -> set[str]:
        """The ids of the nodes that are there."""
        self.connect()
        return {node["NodeID"] for node in _alive()}

    def check_shared(self, folder: Folder, key: str) -> None:
        """Refuse a folder that only this node sees, where others would have to write to it.

        Raises:
            RequestError: a node does not see it; `key` is the setting that named it.
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
        """Refuse a folder of which a node does not see a file.

        Raises:
            RequestError: it does not; `key` is the setting that named the folder.
        """
        self.check_everywhere(_does_not_see, folder, name, key)

    def check_tracking(self, uri: str) -> None:
        """Refuse what only this machine sees where several nodes work.

        Raises:
            RequestError: the cluster has more than one node, and MLflow's runs would go to a SQLite file, or to a
                server that only this machine reaches.
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
                f"tracking.uri={uri}: is a file of one machine, but the cluster has {len(_alive())} nodes; start "
                "`mlflow server` (see deploy/compose.yaml) and set tracking.uri=http://host:port"
            )

    @property
    def _node_cpus(self) -> list[float]:
        """CPUs of each node that has any."""
        return [node["Resources"]["CPU"] for node in _working()] or [1]

    def light_tasks(self) -> int:
        """How many tasks that read shards, and how many that write them, run at once: one for two CPUs.

        Each is a process of its own, which costs a second of a core to start, and shards are read in no time.
        """
        self.connect()
        return max(1, int(sum(self._node_cpus) / 2) // self.at_once)

    def loaders(self, beside: Share) -> int:
        """How many tasks make training examples at once: one for each CPU that the workers leave, or a few.

        Ray Data gives equally many to all nodes, so that the smallest one counts.
        """
        left = len(self._node_cpus) * min(self._node_cpus) / self.at_once - beside.count * beside.cpus
        return max(int(left), LOADERS * max(1, len(self._node_cpus) // self.at_once))

    def _even_share(self, count: int) -> float:
        """The most CPUs that each of `count` workers can have, so that those of all pipelines fit on the nodes."""
        nodes, wanted = Counter(self._node_cpus), count * self.at_once

        def fitting(size: float) -> int:
            return sum(number * int(cpus / size + 1e-9) for cpus, number in nodes.items())

        sizes = (cpus / parts for cpus in nodes for parts in range(1, wanted + 1))
        return max(size for size in sizes if fitting(size) >= wanted)

    @property
    def _gpus(self) -> int:
        """Those that have the CPUs of a worker on their node."""
        if self.config.device == "cpu":
            return 0
        each, nodes = self.config.worker_cpus or 1, [node["Resources"] for node in _working()]
        return sum(int(min(node.get("GPU", 0), node["CPU"] / each)) for node in nodes) // self.at_once

    def trials_at_once(self) -> int:
        """How many trials of a study run side by side.

        Raises:
            RequestError: the cluster is too small for that many, or for a single one.
        """
        self.connect()
        cores, workers = sum(self._node_cpus), self.config.train_workers or 1
        if self._gpus:
            possible, unit, there = self._gpus // workers, f"{workers} GPU(s)", f"{self._gpus} GPU(s)"
        else:
            possible, unit, there = max(1, int(cores)), "a core", f"{cores:g} core(s), and no GPU"
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
            count, cpus = self.config.train_workers or dividing, self.config.worker_cpus or 1
            return Share(count, cpus=cpus, gpus=1, setting="cluster.train_workers")
        count = self.config.train_workers or 1
        cpus = self.config.worker_cpus or self._even_share(count)
        return Share(count, cpus=cpus, setting="cluster.train_workers")

    def map_share(self) -> Share:
        """Resources of the actors that make maps."""
        self.connect()
        if self._gpus:
            count = self.config.map_actors or self._gpus
            cpus, grows = self.config.worker_cpus or 1, self._grows(self.config.map_actors)
            return Share(count, cpus=cpus, gpus=1, may_grow=grows, setting="cluster.map_actors")
        # One of two threads on two cores stands still whenever anything else runs on either of them.
        possible = sum(max(1, min(2, int(cpus)), int(cpus // 2)) for cpus in self._node_cpus) // self.at_once
        count = self.config.map_actors or max(1, possible)
        cpus = self.config.worker_cpus or self._even_share(count)
        grows = self._grows(self.config.map_actors)
        return Share(count, cpus=cpus, may_grow=grows, setting="cluster.map_actors")

    def cpu_share(self) -> Share:
        """Resources of the actors that run on CPUs alone: CRF and scores."""
        self.connect()
        possible = sum(max(1, int(cpus)) for cpus in self._node_cpus) // self.at_once
        count = self.config.cpu_actors or max(1, possible)
        cpus, grows = min(1.0, self._even_share(count)), self._grows(self.config.cpu_actors)
        return Share(count, cpus=cpus, may_grow=grows, setting="cluster.cpu_actors")

    def _grows(self, asked: int | None) -> bool:
        return not self.is_own and asked is None and self.at_once == 1


def _does_not_see(folder: Folder, name: str, key: str) -> str | None:
    remedy = "give a directory that all nodes mount at the same path, or s3://bucket/prefix with credentials on each"
    try:
        there = folder.exists(name)
    except OSError as error:
        return f"cannot read {key}={folder.url} ({str(error).splitlines()[0]}); {remedy}"
    return None if there else f"does not see {key}={folder.url}; {remedy}"


def _used_memory() -> float:
    """Of this machine or container, in GiB, as Ray's memory monitor counts it."""
    return get_used_memory() / 2**30


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _working() -> list[dict[str, Any]]:
    """The nodes that have CPUs, which the head of a cluster often has not."""
    return [node for node in _alive() if node["Resources"].get("CPU")]


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
