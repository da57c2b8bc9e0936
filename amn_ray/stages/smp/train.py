"""Training a network of segmentation-models-pytorch on pseudo-masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from amn_ray.core.errors import RequestError
from amn_ray.data.source import IGNORE
from amn_ray.nn.backbones.backbone import backbone_in
from amn_ray.nn.optimisation import groups_without_decay, polynomial
from amn_ray.nn.precision import autocast
from amn_ray.nn.reduction import global_mean
from amn_ray.stages.smp import networks
from amn_ray.stages.smp.config import ADAMW, SmpConfig
from amn_ray.stages.smp.model import SmpNet

if TYPE_CHECKING:
    from amn_ray.training.job import TrainJob


def train_worker(settings: dict) -> None:
    """The training of each worker."""
    from amn_ray.training.loop import Loop  # imports Ray, which the rest of this page does not need

    job: TrainJob = settings["job"]
    config: SmpConfig = job.config
    loop = Loop(
        job,
        lambda: SmpNet(config.arch, config.encoder, job.num_classes),
        lambda model: optimisation(model, config, job.num_steps),
    )
    if loop.images_alone == 1 and networks.needs_two_images(config.arch, config.encoder):
        raise RequestError(
            f"segmenter.batch_size={config.batch_size}: leaves each worker one image, of which {config.arch} cannot "
            "compute statistics, since it pools an image to one place; set a larger batch, or cluster.train_workers=1"
        )
    for batch in loop.batches():
        loop.step(batch_loss(loop.model, batch, config))


def batch_loss(model: nn.Module, batch: dict[str, Tensor], config: SmpConfig) -> Tensor:
    """The mean cross-entropy over the defined pixels of MaskedCrop's arrays, on the model's device: a scalar."""
    with autocast(batch["image"].device, config.precision):
        logits_BCHW = model(backbone_in(model).normalise(batch["image"]))
    label_BHW = batch["label"].long()
    total = F.cross_entropy(logits_BCHW.float(), label_BHW, ignore_index=IGNORE, reduction="sum")
    return global_mean(total, (label_BHW != IGNORE).sum())


def optimisation(model: SmpNet, config: SmpConfig, num_steps: int) -> tuple[Optimizer, LRScheduler]:
    """The chosen optimiser with two learning rates, which rise and then decay to 0 step by step."""
    encoder, new = list(model.backbone.parameters()), model.new_parameters()
    if config.optimizer == ADAMW:
        chosen = config.adamw
        groups = [*groups_without_decay(encoder, lr=chosen.lr), *groups_without_decay(new, lr=chosen.lr_head)]
        optimizer: Optimizer = AdamW(groups, lr=chosen.lr, weight_decay=chosen.weight_decay)
        return optimizer, polynomial(optimizer, num_steps, chosen.power, chosen.warmup)
    sgd = config.sgd
    parts: list[dict[str, Any]] = [{"params": encoder}, {"params": new, "lr": sgd.lr_head}]
    optimizer = SGD(parts, lr=sgd.lr, momentum=sgd.momentum, weight_decay=sgd.weight_decay)
    return optimizer, polynomial(optimizer, num_steps, sgd.power, sgd.warmup)
