"""Training the head."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler, PolynomialLR

from amn_ray.nn.backbones.backbone import backbone_in
from amn_ray.nn.precision import autocast
from amn_ray.training.job import TrainJob
from amn_ray.training.loop import Loop
from lse_seeds.lse.config import LseHeadConfig
from lse_seeds.lse.model import LseClassifier


def train_worker(settings: dict) -> None:
    """The whole training, on each worker."""
    job: TrainJob = settings["job"]
    config: LseHeadConfig = job.config
    loop = Loop(job, lambda: network(config, job.num_classes), lambda model: optimisation(model, config, job.num_steps))
    for batch in loop.batches():
        loop.step(batch_loss(loop.model, batch, config))


def network(config: LseHeadConfig, num_classes: int) -> LseClassifier:
    """The network, whose backbone the loop then gives the classifier's weights."""
    assert config.backbone is not None
    return LseClassifier(config.backbone, num_classes, config.sharpness)


def batch_loss(model: nn.Module, batch: dict[str, Tensor], config: LseHeadConfig) -> Tensor:
    """The classification loss of a batch of LseExample's arrays, on the model's device: a scalar."""
    with autocast(batch["image"].device, config.precision):
        logits_BN = model(backbone_in(model).normalise(batch["image"]))
    return F.multilabel_soft_margin_loss(logits_BN.float(), batch["labels"])


def optimisation(model: LseClassifier, config: LseHeadConfig, num_steps: int) -> tuple[SGD, LRScheduler]:
    """SGD, whose learning rate falls to 0."""
    optimizer = SGD(
        model.classifier.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    return optimizer, PolynomialLR(optimizer, num_steps, power=0.9)
