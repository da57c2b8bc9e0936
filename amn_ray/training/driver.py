"""The outside of training: a `TorchTrainer` that resumes, whatever died."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial

import ray.data
import ray.train
from ray.data import ExecutionOptions
from ray.train import CheckpointConfig, DataConfig, FailureConfig, Result, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer

from amn_ray.artifacts import Artifact
from amn_ray.errors import RequestError, RunError, told_by_workers
from amn_ray.training.feed import Feed
from amn_ray.training.job import HISTORY, MODEL, Job

RUN = "train"
RESTARTS = 3


def fit(worker: Callable[[dict], None], job: Job, callbacks: Sequence[UserCallback] = ()) -> list[dict[str, float]]:
    """Train `worker` until `model.safetensors` is in the job's output; returns the loss history.

    A worker that dies is restarted from its last epoch's checkpoint, and so is a training whose driver died.

    Raises:
        RequestError: batch size and number of workers or images do not fit.
        RunError: the training failed, also after restarts.
    """
    feed, share = job.feed, job.share
    if feed.batch_size % share.count:
        raise RequestError(
            f"{job.output.stage}.batch_size={feed.batch_size} cannot be divided among {share.count} training workers; "
            "change one of them (cluster.train_workers)"
        )
    if job.steps_per_epoch == 0:
        raise RequestError(
            f"{job.output.stage}.batch_size={feed.batch_size}: the data set has only {len(feed.ids)} images and "
            "incomplete batches are dropped; lower the batch size"
        )
    if not job.output.exists(MODEL):
        options = ExecutionOptions(preserve_order=True)
        trainer = TorchTrainer(
            worker,
            train_loop_config={"job": job},
            scaling_config=ScalingConfig(
                num_workers=share.count,
                use_gpu=share.gpus > 0,
                resources_per_worker={"CPU": share.cpus} | ({"GPU": share.gpus} if share.gpus else {}),
            ),
            run_config=RunConfig(
                name=RUN,
                storage_path=job.output.path,
                storage_filesystem=job.output.fs,
                failure_config=FailureConfig(max_failures=RESTARTS, controller_failure_limit=RESTARTS),
                checkpoint_config=CheckpointConfig(num_to_keep=1),
                callbacks=list(callbacks),
                logging_config=ray.train.LoggingConfig(log_level="WARNING"),
            ),
            # Called anew at every (re)start of the workers: the stream begins where the checkpoint ends.
            datasets={"train": partial(_remaining, feed, job.output, share.count)},
            dataset_config=DataConfig(execution_options=options),
        )
        try:
            with told_by_workers():
                trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise RunError(f"{job.output.stage}: training failed; {_reason(error)}") from error
    job.output.remove(RUN)
    return json.loads(job.output.read(HISTORY))


def _remaining(feed: Feed, output: Artifact, num_workers: int) -> ray.data.Dataset:
    return feed.dataset(_finished_epochs(output), num_workers)


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
    """The last line of the innermost message, which is the one that a worker wrote."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
