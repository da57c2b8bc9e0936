"""Training the classifier (method 1; released code: step/train_cam.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from amn_ray.nn.backbones.backbone import backbone_in
from amn_ray.nn.classifier import Classifier
from amn_ray.nn.optimisation import groups_without_decay, polynomial
from amn_ray.nn.precision import autocast
from amn_ray.stages.classifier.config import ADAMW, ClassifierConfig

if TYPE_CHECKING:
    from amn_ray.training.job import TrainJob


def train_worker(settings: dict) -> None:
    """The training of each worker."""
    from amn_ray.training.loop import Loop  # imports Ray, which the rest of this page does not need

    job: TrainJob = settings["job"]
    config: ClassifierConfig = job.config
    loop = Loop(job, lambda: network(config, job.num_classes), lambda model: optimisation(model, config, job.num_steps))
    for batch in loop.batches():
        loop.step(batch_loss(loop.model, batch, config))


def network(config: ClassifierConfig, num_classes: int) -> Classifier:
    """The network that is trained."""
    assert config.backbone is not None
    return Classifier(config.backbone, num_classes, config.detach_after)


def batch_loss(model: nn.Module, batch: dict[str, Tensor], config: ClassifierConfig) -> Tensor:
    """The classification loss of a batch of LabelledCrop's arrays, on the model's device: a scalar."""
    with autocast(batch["image"].device, config.precision):
        logits_BN = model(backbone_in(model).normalise(batch["image"]))
    return F.multilabel_soft_margin_loss(logits_BN.float(), batch["labels"])


def optimisation(model: Classifier, config: ClassifierConfig, num_steps: int) -> tuple[Optimizer, LRScheduler]:
    """SGD or AdamW with two learning rates, decayed to 0 step by step."""
    if config.optimizer == ADAMW:
        rates = config.adamw
        parts = ((model.backbone, rates.lr_backbone), (model.classifier, rates.lr_head))
        decayed = [group for part, lr in parts for group in groups_without_decay(part.parameters(), lr=lr)]
        adamw = AdamW(decayed, weight_decay=rates.weight_decay)
        return adamw, polynomial(adamw, num_steps, config.power, rates.warmup)
    backbone = [p for p in model.backbone.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": backbone, "lr": config.lr_backbone},
        {"params": model.classifier.parameters()},
    ]
    optimizer = SGD(groups, lr=config.lr_head, momentum=config.momentum, weight_decay=config.weight_decay)
    return optimizer, polynomial(optimizer, num_steps, config.power)
