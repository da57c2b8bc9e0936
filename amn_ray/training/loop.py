"""The training loop of a worker: everything but the algorithms, which are in the stages' train.py."""

from __future__ import annotations

import copy
import json
import logging
import math
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from amn_ray.core.artifacts import MODEL
from amn_ray.core.errors import RequestError, RunError
from amn_ray.nn import weights
from amn_ray.nn.backbones.backbone import backbone_in
from amn_ray.training.job import BACKBONE, HISTORY, TrainJob
from amn_ray.training.stream import STEP


class Loop:
    """Yields batches, takes optimizer steps, reports and saves a checkpoint per epoch, and the weights at the end."""

    def __init__(
        self,
        job: TrainJob,
        build: Callable[[], nn.Module],
        optimise: Callable[[Any], tuple[Optimizer, LRScheduler | None]],
    ) -> None:
        logging.getLogger().setLevel(logging.WARNING)  # Ray Train logs every report to the root logger
        torch.set_num_threads(job.resources.threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
        context = ray.train.get_context()
        self.job = job
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        if job.resources.gpus and not torch.cuda.is_available():
            raise RequestError(
                f"cluster.device: node {socket.gethostname()} has a GPU that PyTorch cannot use; check "
                "`nvidia-smi` there, install a PyTorch that matches its driver, or set cluster.device=cpu"
            )

        torch.manual_seed(job.stream.seed)
        network = build()
        self.images_alone = job.stream.batch_size // self.world_size
        """The images from which this worker alone computes statistics of a batch."""
        batch_statistics = any(
            isinstance(module, BatchNorm) and module.training for module in network.train().modules()
        )
        if batch_statistics and self.world_size > 1 and self.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
            self.images_alone = job.stream.batch_size
        self.statistics_apart = batch_statistics and self.images_alone < job.stream.batch_size
        # Moved before the optimizer exists: a checkpoint's momenta are loaded to the device of their parameters.
        self.plain_model = network.to(self.device).to(memory_format=torch.channels_last)
        self.optimizer, self.schedule = optimise(self.plain_model)
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        self.speed = 0.0
        """Images per second of the last epoch."""
        self.averaged: nn.Module | None = None
        """The network with averaged weights; see TrainingConfig.ema."""
        self._resume()
        self.num_taken = min(self.epoch * job.stream.steps_per_epoch, job.num_steps)
        """The number of optimizer steps so far."""
        self.model = ray.train.torch.prepare_model(self.plain_model)
        self._losses: list[Tensor] = []
        self._num_reported = len(self.history)

    def batches(self) -> Iterator[dict[str, Tensor]]:
        """This worker's part of every remaining batch; also finishes each epoch."""
        shard = ray.train.get_dataset_shard("train")
        stream = iter(
            shard.iter_torch_batches(batch_size=self.job.stream.batch_size // self.world_size, prefetch_batches=2)
        )
        while self.epoch < self.job.num_epochs:
            started = time.monotonic()
            # Dropout must not depend on what ran before a restart.
            torch.manual_seed((self.job.stream.seed * 100_003 + self.epoch) * 1009 + self.rank)
            self.model.train()
            first = self.epoch * self.job.stream.steps_per_epoch
            for step in range(first, first + self.job.steps_of(self.epoch)):
                yield self._batch(stream, step)
            self._end_epoch(time.monotonic() - started)
        if self.rank == 0:
            model, description = weights.to_bytes(self._result(), {"num_classes": self.job.num_classes})
            self.job.output.write("model.json", description)
            summary = {
                "history": self.history,
                "images_per_second": self.speed,
                "statistics_apart": self.statistics_apart,
            }
            self.job.output.write(HISTORY, json.dumps(summary).encode())
            self.job.output.write(MODEL, model)

    def _batch(self, stream: Iterator[dict[str, Tensor]], step: int) -> dict[str, Tensor]:
        """The batch of this step.

        Raises:
            RuntimeError: the stream has ended, or holds examples of a later step or of several. (A restart may help, so
                this is not a RunError.)
        """
        for batch in stream:
            steps = sorted(set(batch[STEP].tolist()))
            if steps == [step]:
                return batch
            if steps[-1] >= step:
                raise RuntimeError(f"step {step} received the examples of {', '.join(map(str, steps))}")
            # Else the stream started from an older checkpoint than this worker.
        raise RuntimeError(f"the stream of examples ended before step {step}")

    def step(self, loss: Tensor) -> None:
        """One optimizer step on this worker's loss."""
        self.step_in_parts([loss])

    def step_in_parts(self, losses: Iterable[Tensor]) -> None:
        """One optimizer step on the sum of `losses`, computed one at a time: only one graph is in memory."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for loss in losses:
            loss.backward()
            total += loss.detach()
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        if self.averaged is not None:
            average(self.averaged, self.plain_model, self.job.config.ema, self.num_taken)
        self.num_taken += 1
        self._losses.append(total)

    def _result(self) -> nn.Module:
        """The network as it is stored and used, with its current buffers (BatchNorm's statistics)."""
        if self.averaged is None:
            return self.plain_model
        for mean, value in zip(self.averaged.buffers(), self.plain_model.buffers(), strict=True):
            mean.copy_(value)
        return self.averaged

    def _end_epoch(self, seconds: float) -> None:
        losses = torch.stack(self._losses).float()
        self._losses = []
        if dist.is_initialized() and self.world_size > 1:
            dist.all_reduce(losses)
            losses /= self.world_size
        values = losses.tolist()
        steps, first = len(values), self.epoch * self.job.stream.steps_per_epoch
        for offset, value in enumerate(values):
            if not math.isfinite(value):
                raise RunError(
                    f"{self.job.output.stage}: the loss became {value} at step {first + offset} "
                    f"(epoch {self.epoch}); lower the learning rate, or use precision=fp32"
                )
        self.speed = steps * self.job.stream.batch_size / seconds
        every = max(1, steps // 20)
        self.history += [
            {"step": first + offset + 1, "loss": sum(part) / len(part), "time": time.time()}
            for offset in range(0, steps, every)
            if (part := values[offset : offset + every])
        ]
        self.epoch += 1
        if self.epoch % self.job.epochs_per_checkpoint and self.epoch < self.job.num_epochs:
            return
        metrics = {
            "epoch": self.epoch,
            "epochs": self.job.num_epochs,
            "loss": sum(values) / len(values),
            "images_per_second": self.speed,
            "seconds": seconds,
            "points": self.history[self._num_reported :],
        }
        self._num_reported = len(self.history)
        if self.job.probe is not None:
            metrics |= self.job.probe(self._result().eval(), self.device, self.rank, self.world_size)
        if self.rank == 0:
            with tempfile.TemporaryDirectory() as folder:
                self._save(Path(folder))
                ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
        else:
            ray.train.report(metrics)

    def _save(self, folder: Path) -> None:
        state: dict[str, Any] = {"model": self.plain_model.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.schedule is not None:
            state["schedule"] = self.schedule.state_dict()
        if self.averaged is not None:
            state["averaged"] = self._result().state_dict()
        torch.save(state, folder / "state.pt")
        progress = {"epoch": self.epoch, "history": self.history, "speed": self.speed}
        (folder / "progress.json").write_text(json.dumps(progress))

    def _resume(self) -> None:
        """Load, in order of precedence: our checkpoint, the backbone's initial weights, random weights."""
        checkpoint, state = ray.train.get_checkpoint(), None
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                state = torch.load(Path(folder) / "state.pt", map_location="cpu", weights_only=True)
                progress = json.loads((Path(folder) / "progress.json").read_text())
            self.plain_model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.schedule is not None:
                self.schedule.load_state_dict(state["schedule"])
            self.epoch, self.history, self.speed = progress["epoch"], progress["history"], progress["speed"]
        elif self.job.backbone is not None:
            start = BACKBONE if self.job.backbone.exists(BACKBONE) else MODEL
            weights.load_backbone(backbone_in(self.plain_model), self.job.backbone.read(start))
        if self.job.config.ema is not None:
            self.averaged = copy.deepcopy(self.plain_model).requires_grad_(False)
            if state is not None:
                self.averaged.load_state_dict(state["averaged"])


@torch.no_grad()
def average(averaged: nn.Module, model: nn.Module, decay: float, num_taken: int) -> None:
    """Move averaged parameters towards a network's: averaged = d · averaged + (1 − d) · parameter.

    Args:
        averaged: a copy of the network as it was before its first step, then what earlier calls made of it.
        model: the network after a step.
        decay: in (0, 1).
        num_taken: t, the number of steps before this one; d = min(decay, (1 + t) / (10 + t)), so that the initial
            weights are soon forgotten.
    """
    share = 1 - min(decay, (1 + num_taken) / (10 + num_taken))
    torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), share)
