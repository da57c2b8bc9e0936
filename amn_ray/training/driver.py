"""The driver of a training: a `TorchTrainer` that resumes after any of its processes dies."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import ray.data
import ray.train
from ray.data import ExecutionOptions
from ray.train import CheckpointConfig, DataConfig, FailureConfig, Result, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer

from amn_ray.core.artifacts import MODEL, Artifact
from amn_ray.core.console import log
from amn_ray.core.errors import RequestError, RunError, unwrap_worker_errors
from amn_ray.platform import ray_internals
from amn_ray.platform.cluster import Cluster
from amn_ray.platform.memory import MemoryFull, Shortage, Work, killed, working
from amn_ray.training.config import TrainingConfig
from amn_ray.training.job import HISTORY, Probe, TrainJob
from amn_ray.training.stream import Example, TrainStream

RUN = "train"
RESTARTS = 3
NoRoom = ray_internals.startup_timeout()


def train(
    worker: Callable[[dict], None],
    config: TrainingConfig,
    output: Artifact,
    cluster: Cluster,
    *,
    sources: Sequence[tuple[Artifact, Sequence[str]]],
    example: Callable[[dict, np.random.Generator], Example],
    num_classes: int,
    backbone: Artifact | None,
    callbacks: Sequence[UserCallback] = (),
    probe: Probe | None = None,
    epochs: int | None = None,
    num_steps: int | None = None,
) -> dict[str, Any]:
    """Train until `model.safetensors` is in `output`.

    If a worker, the controller or the driver dies, the training restarts from the last epoch's checkpoint. While the
    cluster has no free resources, it waits, and then uses fewer workers if nodes were lost. If a worker was killed for
    lack of memory, it first waits for memory.

    Args:
        worker: runs the algorithm on each worker; its argument is {"job": TrainJob}.
        config: the stage's settings.
        output: where checkpoints, history and weights go.
        cluster: where it runs.
        sources: the columns to read per image, see TrainStream.
        example: makes a training example from them.
        num_classes: N, without the background.
        backbone: holds the initial weights; None starts from random ones.
        callbacks: Ray Train's, for tracking.
        probe: measures the network after each epoch.
        epochs: the length of the training in epochs; or
        num_steps: its length in optimizer steps.

    Returns:
        `rows`, the number of images; the loss `history`; and in `metrics` the last epoch's loss and speed.

    Raises:
        RequestError: the batch size does not fit the number of workers or images.
        RunError: the training failed despite restarts.
    """
    resources = cluster.train_share(config.batch_size)
    stream = TrainStream(
        sources=sources,
        example=example,
        seed=config.seed or 0,
        batch_size=config.batch_size,
        loaders=cluster.loaders(resources),
    )
    if stream.batch_size % resources.count:
        raise RequestError(
            f"{output.stage}.batch_size={stream.batch_size} cannot be divided among {resources.count} training "
            "workers; change one of them (cluster.train_workers)"
        )
    if stream.steps_per_epoch == 0:
        raise RequestError(
            f"{output.stage}.batch_size={stream.batch_size}: the data set has fewer images and "
            "incomplete batches are dropped; lower the batch size"
        )
    job = TrainJob(
        config=config,
        num_classes=num_classes,
        output=output,
        backbone=backbone,
        stream=stream,
        num_steps=(epochs or 0) * stream.steps_per_epoch if num_steps is None else num_steps,
        resources=resources,
        probe=probe,
    )
    deaths, waiting = 0, None
    while not output.exists(MODEL):
        output.check_claim()
        try:
            cluster.resumed(
                output.stage, partial(_fit, worker, job, callbacks), progress=partial(_finished_epochs, output)
            )
        except ray.exceptions.RayActorError as error:  # Ray Train restarts its workers, but not its controller
            deaths += 1
            if deaths > RESTARTS:
                raise RunError(f"{output.stage}: training failed; its controller died {deaths} times") from error
            log(output.stage, "the training controller died; resuming from the last epoch")
        except NoRoom:
            resources = cluster.train_share(config.batch_size)  # fewer workers, if a node was lost
            if resources.gpus < job.resources.gpus:
                resources = job.resources  # without GPUs, training would take days
            job = replace(job, resources=resources, stream=replace(stream, loaders=cluster.loaders(resources)))
            if resources != waiting:
                needed = f"{resources.count} × {resources.cpus:g} CPUs" + " and a GPU" * (resources.gpus > 0)
                log(output.stage, f"waits for free resources: {needed}")
            waiting = resources
    output.remove(RUN)
    recorded = json.loads(output.read(HISTORY))
    metrics = {"loss": recorded["history"][-1]["loss"], "images_per_second": recorded["images_per_second"]}
    apart = (
        f"BatchNorm computed its statistics on each of {job.resources.count} workers apart, so their number changes "
        "the result; on GPUs they are synchronised"
    )
    return {
        "rows": len(stream.ids),
        "gpus": job.resources.count * job.resources.gpus,
        "history": recorded["history"],
        "metrics": metrics,
        "warnings": [apart] * recorded.get("statistics_apart", False),
    }


def _fit(worker: Callable[[dict], None], job: TrainJob, callbacks: Sequence[UserCallback]) -> None:
    resources, stage = job.resources, job.output.stage
    work = Work(stage, f"{stage}.batch_size, {stage}.crop or {resources.setting}", time.time())
    options = ExecutionOptions(preserve_order=True)
    trainer = TorchTrainer(
        worker,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=resources.count,
            use_gpu=resources.gpus > 0,
            resources_per_worker={"CPU": resources.reserved_cpus} | ({"GPU": resources.gpus} if resources.gpus else {}),
        ),
        run_config=RunConfig(
            name=RUN,
            storage_path=job.output.path,
            storage_filesystem=job.output.fs,
            failure_config=FailureConfig(max_failures=RESTARTS, controller_failure_limit=RESTARTS),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            callbacks=[*callbacks, _NotAgain(work)],
            logging_config=ray.train.LoggingConfig(log_level="CRITICAL"),  # failures are raised, and reported once
        ),
        # Called at every (re)start of the workers: the stream begins where the checkpoint ends.
        datasets={"train": partial(_remaining_examples, job)},
        dataset_config=DataConfig(execution_options=options),
    )
    try:
        with working(work), unwrap_worker_errors():
            trainer.fit()
    except (ray.train.TrainingFailedError, ray.exceptions.RayActorError) as error:
        cause = getattr(error, "controller_failure", None)
        if isinstance(cause, NoRoom | RequestError | RunError):
            raise cause from error
        reported = killed(error, work)
        if isinstance(error, ray.exceptions.RayActorError) and not isinstance(reported, MemoryFull):
            raise
        raise (reported or RunError(f"{work.stage}: training failed; {_reason(error)}")) from error


class _NotAgain(UserCallback):
    """Ends a training that must not be retried immediately.

    A worker's RequestError or RunError (such as a NaN loss) would only recur, and after a lack of memory we must wait
    first.
    """

    def __init__(self, work: Work) -> None:
        self.work = work

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """See ray.train.UserCallback; an exception raised here ends the training."""
        for error in worker_exceptions.values():
            if isinstance(error, RequestError | RunError):
                raise error
            if shortage := Shortage.parse(error):
                raise MemoryFull(f"{self.work.stage}: {self.work.advice(shortage)}", shortage)


def _remaining_examples(job: TrainJob) -> ray.data.Dataset:
    return job.stream.dataset(_finished_epochs(job.output), job.num_steps, job.resources.count)


def _finished_epochs(output: Artifact) -> int:
    try:
        checkpoint = Result.from_path(output.at(RUN), storage_filesystem=output.fs).checkpoint
    except RuntimeError:  # nothing reported yet
        return 0
    if checkpoint is None:
        return 0
    with checkpoint.as_directory() as folder, open(f"{folder}/progress.json") as stream:
        return json.load(stream)["epoch"]


def _reason(error: BaseException) -> str:
    """The last line of the message, which is the worker's own."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
