"""MLflow: one parent run per pipeline, one child per step. The only module that talks to MLflow.

The same command continues its own run (found by the fingerprint of its configuration), whether it ended or died.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # MLflow asks GitPython, which complains where git is missing

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME
from ray.train import UserCallback

from amn_ray.artifacts import Store
from amn_ray.claims import claimed
from amn_ray.config import TrackingConfig
from amn_ray.errors import RequestError

FINGERPRINT = "fingerprint"
MODEL_TAG = "model_uri"
PACKAGE = Path(__file__).parent
MODEL_PACKAGES = ("torch", "torchvision", "numpy", "pandas", "pillow", "pyarrow", "pydensecrf2", "safetensors")
"""What the logged model needs besides our code, which travels with it."""
MAX_BATCH = 1000
"""Metrics per request, MLflow's own limit."""


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
    return f"sqlite:///{store.path}/mlflow.db"


class Tracker:
    """The runs of one pipeline.

    Raises:
        RequestError: there is no MLflow at `tracking.uri`, or the experiment was deleted.
    """

    def __init__(self, config: TrackingConfig, store: Store) -> None:
        self.uri = config.uri or default_uri(store)
        try:
            # A fresh SQLite file that several processes open at once is broken; so is an experiment that two create.
            with claimed(store, "mlflow", is_done=lambda: False, on_wait=lambda: None):
                self.client = MlflowClient(self.uri)
                experiment = self.client.get_experiment_by_name(config.experiment)
                if experiment is None:
                    location = None if config.uri else f"file://{store.path}/mlartifacts"
                    self.experiment_id = self.client.create_experiment(config.experiment, artifact_location=location)
        except (MlflowException, OSError) as error:
            raise RequestError(
                f"tracking.uri={self.uri}: MLflow does not answer there ({str(error).splitlines()[0]}); start "
                "`mlflow server`, or set tracking.uri=null for a SQLite file in the store"
            ) from error
        if experiment is not None:
            if experiment.lifecycle_stage != LifecycleStage.ACTIVE:
                raise RequestError(
                    f"tracking.experiment={config.experiment}: was deleted from {self.uri}; restore it with `mlflow "
                    f"experiments restore --experiment-id {experiment.experiment_id}`, or set another name"
                )
            self.experiment_id = experiment.experiment_id

    @contextmanager
    def run(
        self, name: str, fingerprint: str, tags: Mapping[str, str], parent: TrackedRun | None = None
    ) -> Iterator[TrackedRun]:
        """Create or continue a run; it ends FINISHED, FAILED or (on an interrupt) KILLED."""
        parent_id = parent.run_id if parent else None
        found = self._find(name, fingerprint, parent_id)
        if found is None:
            all_tags = {**tags, FINGERPRINT: fingerprint, MLFLOW_RUN_NAME: name}
            if parent_id:
                all_tags[MLFLOW_PARENT_RUN_ID] = parent_id
            found = self.client.create_run(self.experiment_id, tags=all_tags)
        else:
            self.client.update_run(found.info.run_id, status="RUNNING")
        run = TrackedRun(self.client, found.info.run_id)
        status = "FAILED"
        try:
            yield run
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            self.client.set_terminated(run.run_id, status)

    def end_running(self, parent_id: str, stopped: Collection[str] = ()) -> None:
        """Mark what is RUNNING below a run as KILLED, because its process was ended by force.

        Args:
            parent_id: a study.
            stopped: the names of trials that were stopped on purpose: only these, also where their process had time to
                say that it FAILED; they get the tag `stopped`.
        """
        for run in self._children(parent_id):
            if not stopped:
                self._kill(run, ("RUNNING",))
            elif run.data.tags.get(MLFLOW_RUN_NAME) in stopped:
                TrackedRun(self.client, run.info.run_id).tags({"stopped": "true"})
                self._kill(run, ("RUNNING", "FAILED"))

    def _kill(self, run: Run, states: Collection[str]) -> None:
        for ended in (*self._children(run.info.run_id), run):
            if ended.info.status in states:
                self.client.set_terminated(ended.info.run_id, "KILLED")

    def _children(self, parent_id: str) -> list[Run]:
        return list(self.client.search_runs([self.experiment_id], f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent_id}'"))

    def _find(self, name: str, fingerprint: str, parent_id: str | None) -> Run | None:
        terms = [f"tags.{FINGERPRINT} = '{fingerprint}'", f"tags.`{MLFLOW_RUN_NAME}` = '{name}'"]
        if parent_id:
            terms.append(f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent_id}'")
        found = self.client.search_runs([self.experiment_id], " and ".join(terms), ViewType.ACTIVE_ONLY, max_results=1)
        return found[0] if found else None


@dataclass(frozen=True)
class TrackedRun:
    """One MLflow run."""

    client: MlflowClient
    run_id: str

    def params(self, values: Mapping[str, Any]) -> None:
        """Parameters; logging the same ones again is fine."""
        params = [Param(key, str(value)[:6000]) for key, value in values.items()]
        self.client.log_batch(self.run_id, params=params)

    def metrics(self, values: Mapping[str, float]) -> None:
        """Metrics without steps."""
        now = int(time.time() * 1000)
        self.client.log_batch(self.run_id, metrics=[Metric(key, value, now, 0) for key, value in values.items()])

    def curve(self, key: str, points: Sequence[tuple[int, float]]) -> None:
        """A metric over integer steps; points that are there already are not logged again."""
        known = {metric.step for metric in self.client.get_metric_history(self.run_id, key)}
        now = int(time.time() * 1000)
        fresh = [Metric(key, value, now, step) for step, value in points if step not in known]
        for start in range(0, len(fresh), MAX_BATCH):
            self.client.log_batch(self.run_id, metrics=fresh[start : start + MAX_BATCH])

    def tags(self, values: Mapping[str, str]) -> None:
        """Tags, replacing older values."""
        self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in values.items()])

    def artifact(self, path: Path) -> None:
        """A file."""
        self.client.log_artifact(self.run_id, str(path))

    @property
    def has_model(self) -> bool:
        """Whether `model` was called for this run."""
        return MODEL_TAG in self.client.get_run(self.run_id).data.tags

    def model(self, uri: str, folder: Path, register: str | None, alias: str) -> None:
        """Log the model of amn_ray.segmenter whose data is in `folder`.

        Args:
            uri: of the tracking server or database.
            folder: see segmenter.write_model.
            register: a name in MLflow's model registry; None registers nothing.
            alias: given to the registered version.
        """
        # Imported here: seconds, and needed once in a pipeline's life.
        import mlflow.pyfunc
        from mlflow.models import Model, ModelSignature
        from mlflow.types import ColSpec, Schema

        mlflow.set_tracking_uri(uri)
        # Else the model goes to the default experiment, whose files are in the working directory.
        mlflow.set_experiment(experiment_id=self.client.get_run(self.run_id).info.experiment_id)
        logging.getLogger("mlflow").setLevel(logging.ERROR)  # else it lists what it would have guessed
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is no input example: a signature says it better
            made = Model.log(
                artifact_path=None,
                name="segmenter",
                flavor=mlflow.pyfunc,
                run_id=self.run_id,
                registered_model_name=register,
                loader_module="amn_ray.segmenter",
                data_path=str(folder),
                code_paths=[str(PACKAGE)],
                pip_requirements=[f"{name}=={version(name)}" for name in MODEL_PACKAGES],
                signature=ModelSignature(Schema([ColSpec("binary", "image")]), Schema([ColSpec("binary", "mask")])),
            )
        if register is not None:
            self.client.set_registered_model_alias(register, alias, made.registered_model_version)
        self.tags({MODEL_TAG: made.model_uri})


class RunStates:
    """Whether runs of one tracking server or database are still there."""

    def __init__(self, uri: str) -> None:
        self.client: MlflowClient | None = None
        path = Path(uri.removeprefix("sqlite:///"))
        if not uri.startswith("sqlite:///") or path.is_file():  # MLflow would create it
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # else it tries for minutes
            self.client = MlflowClient(uri)

    def of(self, run_id: str) -> str:
        """The id of a run that is in MLflow; else what is wrong with it, in words."""
        if self.client is None:
            return "MLflow does not answer"
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return "not in MLflow any more"
            self.client = None  # asked once
            return self.of(run_id)
        return run_id if run.info.lifecycle_stage == LifecycleStage.ACTIVE else "deleted from MLflow"


class EpochCallback(UserCallback):
    """Called in Ray Train's controller after every epoch: a line for the reader, points for MLflow's loss curve."""

    def __init__(self, uri: str, run_id: str, step: str) -> None:
        self.uri = uri
        self.run_id = run_id
        self.step = step

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """See ray.train.UserCallback; one dict of metrics per worker."""
        report = metrics[0]
        print(
            f"{self.step:>9}  epoch {report['epoch']}/{report['epochs']}  loss {report['loss']:.4f}  "
            f"{report['images_per_second']:.1f} images/s",
            flush=True,
        )
        points = [(int(point["step"]), point["loss"]) for point in report["points"]]
        try:
            TrackedRun(MlflowClient(self.uri), self.run_id).curve(f"{self.step}/loss_curve", points)
        except MlflowException as error:  # the pipeline logs the whole curve again when the step is done
            print(f"{self.step:>9}  warning: MLflow did not take this epoch ({str(error).splitlines()[0]})", flush=True)
