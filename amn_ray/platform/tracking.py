"""MLflow: one parent run per pipeline, one child per step. The only module that talks to MLflow.

The same command continues its own run (found by the fingerprint of its configuration), whether that ended or crashed.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # MLflow uses GitPython, which complains if git is missing
# Do not wait for a server that does not answer: MLflow would retry for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines at the end of every step

import requests
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME
from sqlalchemy import make_url

from amn_ray.core.artifacts import Store, fingerprint
from amn_ray.core.console import log
from amn_ray.core.errors import RequestError
from amn_ray.core.places import without_secrets
from amn_ray.platform.claims import claimed
from amn_ray.platform.tracking_config import TrackingConfig

FINGERPRINT = "fingerprint"
MODEL_TAG = "model_uri"
PACKAGE = Path(__file__).parent.parent
MODEL_PACKAGES = ("torch", "torchvision", "numpy", "pandas", "pillow", "pyarrow", "pydensecrf2", "safetensors")
"""Requirements of the logged model, besides our code, which is logged with it."""
MAX_NAME = 250
"""Characters of a run's name, the width of MLflow's column (SQLite takes more, PostgreSQL does not)."""
MAX_BATCH = 1000
"""Metrics per request, MLflow's own limit."""
RETRY_S = 10.0
"""Seconds between two attempts, while MLflow does not answer."""
PATIENCE_S = 60.0
"""How long to keep trying, at the end of a run, to deliver the remaining records."""


def default_uri(store: Store) -> str:
    """The SQLite file in the store.

    Raises:
        RequestError: the store is not a local directory.
    """
    if not store.is_local:
        raise RequestError(
            "tracking.uri is null, which keeps MLflow's database in the store, but the store is not a local directory; "
            "start `mlflow server` and set tracking.uri=http://host:port"
        )
    path = f"{store.path}/mlflow.db"
    if not set(path) & set("%?"):
        return f"sqlite:///{path}"
    # SQLAlchemy decodes it. With the driver's name in the URI, MLflow does not create a folder of the encoded name.
    return f"sqlite+pysqlite:///{quote(path)}"


class Tracker:
    """The MLflow runs of one pipeline.

    Records wait in a queue while MLflow does not answer: no computation waits for it or fails with it. Records still
    undelivered at the end are delivered from the manifests when the same command runs again.

    Raises:
        RequestError: there is no MLflow at `tracking.uri`, or the experiment was deleted.
    """

    def __init__(self, config: TrackingConfig, store: Store, patience_s: float = 0) -> None:
        """`patience_s`: how long to try before giving up, for concurrent trials."""
        self.uri = config.uri or default_uri(store)
        self.name = without_secrets(self.uri)
        self._queue: deque[Callable[[], None]] = deque()
        self._files: deque[Callable[[], None]] = deque()
        """Uploads to MLflow's artifact store, which may fail on its own: delivered after the queue."""
        self._broken_since: float | None = None
        self._tried = 0.0
        started = time.monotonic()
        while True:
            try:
                self._open(config, store)
                break
            except (MlflowException, OSError) as error:
                if time.monotonic() - started > patience_s:
                    raise RequestError(
                        f"tracking.uri={self.name}: MLflow does not answer there ({_reason(error)}); start `mlflow "
                        "server`, or set tracking.uri=null for a SQLite file in the store"
                    ) from error
                time.sleep(RETRY_S)

    def _open(self, config: TrackingConfig, store: Store) -> None:
        # Several processes that open a new SQLite file at once break it, and so do two that create one experiment.
        with claimed(store, "mlflow", is_done=lambda: False, on_wait=lambda: None):
            self.client = MlflowClient(self.uri)
            experiment = self.client.get_experiment_by_name(config.experiment)
            if experiment is None:
                location = None if config.uri else Path(store.path, "mlartifacts").as_uri()
                self.experiment_id = self.client.create_experiment(config.experiment, artifact_location=location)
        if experiment is not None:
            if experiment.lifecycle_stage != LifecycleStage.ACTIVE:
                raise RequestError(
                    f"tracking.experiment={config.experiment}: was deleted from {self.name}; restore it with `mlflow "
                    f"experiments restore --experiment-id {experiment.experiment_id}`, or set another name"
                )
            self.experiment_id = experiment.experiment_id

    def enqueue(self, request: Callable[[], None], is_file: bool = False) -> None:
        """Call `request` as soon as MLflow answers, after everything queued before it."""
        (self._files if is_file else self._queue).append(request)
        if self._broken_since is None or time.monotonic() - self._tried > RETRY_S:
            self.deliver()

    def deliver(self, patience_s: float = 0) -> None:
        """Deliver all queued records; retry for `patience_s` if MLflow does not answer."""
        deadline = time.monotonic() + patience_s
        while waiting := self._queue or self._files:
            self._tried = time.monotonic()
            try:
                waiting[0]()
            except Exception as error:  # any exception: tracking must not end a run
                if _is_final(error):
                    log("mlflow", f"warning: {self.name} refused a record ({_reason(error)})")
                    waiting.popleft()
                    continue
                if self._broken_since is None:
                    self._broken_since = time.monotonic()
                    log("mlflow", f"warning: {self.name} does not answer ({_reason(error)}); everything else continues")
                if time.monotonic() >= deadline:
                    return
                time.sleep(min(RETRY_S, max(0.0, deadline - time.monotonic())))
            else:
                waiting.popleft()
        if self._broken_since is not None:
            log("mlflow", f"{self.name} answers again, and has received all records")
            self._broken_since = None

    @contextmanager
    def run(
        self, name: str, fingerprint: str, tags: Mapping[str, str], parent: TrackedRun | None = None
    ) -> Iterator[TrackedRun]:
        """Create or continue a run; it ends FINISHED, FAILED or (on an interrupt or SIGTERM) KILLED."""
        run = self.begin(name, fingerprint, tags, parent)
        status = "FAILED"
        try:
            yield run
            status = "FINISHED"
        except (KeyboardInterrupt, SystemExit):
            status = "KILLED"
            raise
        finally:
            self.finish(run, status)

    def begin(
        self, name: str, fingerprint: str, tags: Mapping[str, str], parent: TrackedRun | None = None
    ) -> TrackedRun:
        """Create or continue a run; the caller must `finish` it.

        Raises:
            RequestError: MLflow does not answer, and the run has no parent.
        """
        run = TrackedRun(self, parent=parent)
        self.enqueue(lambda: run.begin(name, fingerprint, tags, parent))
        if parent is None and not run.run_id:
            raise RequestError(f"tracking.uri={self.name}: MLflow no longer answers there; check its log")
        return run

    def finish(self, run: TrackedRun, status: str) -> None:
        """End a run: FINISHED, FAILED or KILLED."""
        self.enqueue(lambda: self.client.set_terminated(run.run_id, status))
        if run.parent is None or run.parent.is_foreign:
            self.deliver(PATIENCE_S if status == "FINISHED" else 0)
            if not self.all_delivered:
                missing = len(self._queue) + len(self._files)
                log(
                    "mlflow",
                    f"warning: {self.name} still does not answer, {missing} record(s) were not delivered; "
                    "run the same command again to deliver them, which takes seconds",
                )

    @property
    def all_delivered(self) -> bool:
        """Whether everything has been delivered."""
        return not (self._queue or self._files)

    def known(self, run_id: str) -> TrackedRun:
        """A run that another process began."""
        return TrackedRun(self, run_id, is_foreign=True)

    def end_running(self, parent_id: str, stopped: Collection[str] = ()) -> None:
        """Mark the RUNNING runs of a study as KILLED, because their processes were killed.

        Args:
            parent_id: the study.
            stopped: names of trials that were stopped on purpose. If given, only these are marked, even if they had
                time to end as FAILED, and get the tag `stopped`.
        """
        self.enqueue(lambda: self._end_running(parent_id, stopped))

    def _end_running(self, parent_id: str, stopped: Collection[str]) -> None:
        names = set(map(run_name, stopped))
        for run in self._children(parent_id):
            if not stopped:
                self._kill(run, ("RUNNING",))
            elif run.data.tags.get(MLFLOW_RUN_NAME) in names:
                self.client.set_tag(run.info.run_id, "stopped", "true")
                self._kill(run, ("RUNNING", "FAILED"))

    def _kill(self, run: Run, states: Collection[str]) -> None:
        for ended in (*self._children(run.info.run_id), run):
            if ended.info.status in states:
                self.client.set_terminated(ended.info.run_id, "KILLED")

    def _children(self, parent_id: str) -> list[Run]:
        return self.tagged({MLFLOW_PARENT_RUN_ID: parent_id})

    def tagged(self, tags: Mapping[str, str]) -> list[Run]:
        """The runs with these tags, whose values must be ids: MLflow's filters cannot express every string."""
        terms = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self.client.search_runs([self.experiment_id], terms, ViewType.ACTIVE_ONLY)
        runs = list(found)
        while found.token:
            found = self.client.search_runs([self.experiment_id], terms, ViewType.ACTIVE_ONLY, page_token=found.token)
            runs += found
        return runs


def run_name(text: str) -> str:
    """The name of a run in MLflow: the text, or its beginning and a fingerprint if it is too long for MLflow."""
    return text if len(text) <= MAX_NAME else f"{text[: MAX_NAME - 20]}… {fingerprint(text)}"


def _reason(error: BaseException) -> str:
    """The first line of an error, shortened and without secrets."""
    return without_secrets((str(error).splitlines() or [type(error).__name__])[0])[:200]


def _is_final(error: BaseException) -> bool:
    """Whether a retry is useless: MLflow answered, and refused."""
    if isinstance(error, MlflowException):
        return _is_refusal(error.get_http_status_code())
    if isinstance(error, requests.HTTPError) and error.response is not None:  # raised by uploads
        return _is_refusal(error.response.status_code)
    return not isinstance(error, OSError)  # all connection errors are OSErrors


def _is_refusal(status: int) -> bool:
    return 400 <= status < 500 and status not in (408, 429)  # but not timeouts and rate limits


@dataclass
class TrackedRun:
    """One MLflow run; see Tracker for when its methods take effect."""

    tracker: Tracker
    run_id: str = ""
    """Empty until MLflow has created the run."""
    is_foreign: bool = False
    """Whether another process began it and will end it."""
    parent: TrackedRun | None = None

    @property
    def client(self) -> MlflowClient:
        return self.tracker.client

    def begin(self, name: str, fingerprint: str, tags: Mapping[str, str], parent: TrackedRun | None) -> None:
        """Create the run, or continue it."""
        parent_tag = {MLFLOW_PARENT_RUN_ID: parent.run_id} if parent else {}
        ids = {FINGERPRINT: fingerprint, **parent_tag}
        own = {**ids, MLFLOW_RUN_NAME: run_name(name)}
        shared = (FINGERPRINT, MLFLOW_RUN_NAME, MLFLOW_PARENT_RUN_ID)
        for run in self.tracker.tagged(ids):
            if {key: run.data.tags[key] for key in shared if key in run.data.tags} == own:
                self.run_id = run.info.run_id
                self.client.update_run(self.run_id, status="RUNNING")
                break
        else:
            self.run_id = self.client.create_run(self.tracker.experiment_id, tags={**tags, **own}).info.run_id

    def watch_machine(self) -> None:
        """Log this machine's CPU, GPU, memory, disk and network use until the run ends (MLflow: `system/…`)."""

        def start() -> None:
            logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
            SystemMetricsMonitor(self.run_id, resume_logging=True, tracking_uri=self.tracker.uri).start()

        self.tracker.enqueue(start)

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; logging the same ones again is fine."""
        params = [Param(key, str(value)[:6000]) for key, value in values.items()]
        self.tracker.enqueue(lambda: self.client.log_batch(self.run_id, params=params))

    def metrics(self, values: Mapping[str, float]) -> None:
        """Log metrics without steps."""
        now = int(time.time() * 1000)
        metrics = [Metric(key, value, now, 0) for key, value in values.items()]
        self.tracker.enqueue(lambda: self.client.log_batch(self.run_id, metrics=metrics))

    def curve(self, key: str, points: Sequence[tuple[int, float, float]]) -> None:
        """Log a metric over integer steps; see log_curve."""
        self.tracker.enqueue(lambda: log_curve(self.client, self.run_id, key, points))

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags, replacing older values."""
        tags = [RunTag(key, value) for key, value in values.items()]
        self.tracker.enqueue(lambda: self.client.log_batch(self.run_id, tags=tags))

    def artifact(self, name: str, content: bytes) -> None:
        """Log a file."""

        def log() -> None:
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / name).write_bytes(content)
                self.client.log_artifact(self.run_id, str(Path(folder) / name))

        self.tracker.enqueue(log, is_file=True)

    def model(
        self,
        write: Callable[[Path], None],
        register: str | None,
        alias: str,
        *,
        packages: Sequence[str],
        metadata: Mapping[str, str],
    ) -> None:
        """Log the model of amn_ray.inference.segmenter, unless this run already has it.

        Args:
            write: writes its data to a folder, see segmenter.write_model.
            register: a name in MLflow's model registry; None registers nothing.
            alias: given to the registered version.
            packages: the distributions that it needs, besides MODEL_PACKAGES.
            metadata: what stands in its card.
        """

        def log() -> None:
            if MODEL_TAG not in self.client.get_run(self.run_id).data.tags:
                with tempfile.TemporaryDirectory() as folder:
                    write(Path(folder))
                    self._log_model(Path(folder), register, alias, packages, metadata)

        self.tracker.enqueue(log, is_file=True)

    def _log_model(
        self, folder: Path, register: str | None, alias: str, packages: Sequence[str], metadata: Mapping[str, str]
    ) -> None:
        # Imported here: this takes seconds, and only happens once per pipeline.
        import mlflow.pyfunc
        from mlflow.models import Model, ModelSignature
        from mlflow.types import ColSpec, Schema

        mlflow.set_tracking_uri(self.tracker.uri)
        # Else the model goes to the default experiment, whose files are in the working directory.
        mlflow.set_experiment(experiment_id=self.tracker.experiment_id)
        logging.getLogger("mlflow").setLevel(logging.ERROR)  # else it lists the requirements that it would infer
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the missing input example: there is a signature
            info = Model.log(
                artifact_path=None,
                name="segmenter",
                flavor=mlflow.pyfunc,
                run_id=self.run_id,
                registered_model_name=register,
                loader_module="amn_ray.inference.segmenter",
                data_path=str(folder),
                code_paths=[str(PACKAGE)],
                pip_requirements=[f"{name}=={version(name)}" for name in (*MODEL_PACKAGES, *packages)],
                metadata=dict(metadata),
                signature=ModelSignature(Schema([ColSpec("binary", "image")]), Schema([ColSpec("binary", "mask")])),
            )
        if register is not None:
            self.client.set_registered_model_alias(register, alias, info.registered_model_version)
        self.client.set_tag(self.run_id, MODEL_TAG, info.model_uri)


def log_curve(client: MlflowClient, run_id: str, key: str, points: Sequence[tuple[int, float, float]]) -> None:
    """Log a metric over integer steps; points that MLflow already has are not logged again.

    If two processes log the same point at once, MLflow stores it once, since it has the same time.

    Args:
        client: of the tracking server.
        run_id: of the run.
        key: the name of the metric.
        points: (step, value, time.time() of its measurement).
    """
    logged = {metric.step for metric in client.get_metric_history(run_id, key)}
    missing = [Metric(key, value, int(1000 * at), step) for step, value, at in points if step not in logged]
    for start in range(0, len(missing), MAX_BATCH):
        client.log_batch(run_id, metrics=missing[start : start + MAX_BATCH])


class RunStates:
    """Checks whether runs still exist in a tracking server or database."""

    def __init__(self, uri: str) -> None:
        self.client: MlflowClient | None = None
        self._unavailable = "MLflow does not answer"
        if without_secrets(uri) == uri and "***" in uri:  # as in records
            self._unavailable = "MLflow asks for a password, which is not recorded"
        elif not uri.startswith("sqlite") or Path(make_url(uri).database or "").is_file():  # MLflow would create it
            self.client = MlflowClient(uri)

    def of(self, run_id: str) -> str:
        """The id of a run if it exists in MLflow; else the reason, in words."""
        if not run_id:
            return "not in MLflow, which did not answer"
        if self.client is None:
            return self._unavailable
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return "no longer in MLflow"
            self.client = None  # ask only once
            return self.of(run_id)
        return run_id if run.info.lifecycle_stage == LifecycleStage.ACTIVE else "deleted from MLflow"


def log_at_once(uri: str, run_id: str, key: str, points: Sequence[tuple[int, float, float]]) -> None:
    """Add points to a curve if MLflow answers now; lost points are logged again later."""
    with suppress(MlflowException, OSError):
        log_curve(MlflowClient(uri), run_id, key, points)
