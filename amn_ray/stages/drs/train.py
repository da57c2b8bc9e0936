"""Training DRS's networks (docs/rivals.md; released code: scripts/train_cls.py, train_refine.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, PolynomialLR

from amn_ray.nn.backbones.backbone import backbone_in
from amn_ray.nn.precision import autocast, wide
from amn_ray.stages.drs.config import DrsNetworkConfig
from amn_ray.stages.drs.model import DrsNet, SecondNet

if TYPE_CHECKING:
    from amn_ray.training.job import TrainJob

POWER = 0.9
DROPS = (4, 9)
"""After so many epochs the learning rates of VGG-16 are divided by ten."""
SECOND_DROPS = (9, 19)
BIASES = 2
"""Biases of VGG-16 learn so many times faster than weights."""
SECOND_LR = 1e-4


def train_worker(settings: dict) -> None:
    """The training of each worker."""
    from amn_ray.training.loop import Loop  # imports Ray, which the rest of this page does not need

    job: TrainJob = settings["job"]
    config: DrsNetworkConfig = job.config
    steps = job.num_steps, job.stream.steps_per_epoch
    loop = Loop(job, lambda: network(config, job.num_classes), lambda model: optimisation(model, config, *steps))
    for batch in loop.batches():
        loop.step(batch_loss(loop.model, batch, config))


def train_second_worker(settings: dict) -> None:
    """The training of the second network, of each worker."""
    from amn_ray.training.loop import Loop

    job: TrainJob = settings["job"]
    steps_per_epoch = job.stream.steps_per_epoch
    loop = Loop(job, lambda: SecondNet(job.num_classes), lambda model: second_optimisation(model, steps_per_epoch))
    for batch in loop.batches():
        loop.step(second_loss(loop.model, batch, job.config))


def network(config: DrsNetworkConfig, num_classes: int) -> DrsNet:
    """The network that is trained."""
    return DrsNet(config, num_classes)


def batch_loss(model: nn.Module, batch: dict[str, Tensor], config: DrsNetworkConfig) -> Tensor:
    """The loss of a batch of LabelledSquare's or LabelledCrop's arrays, on the model's device: a scalar."""
    image_BCHW = backbone_in(model).normalise(batch["image"])
    valid = None if config.on_vgg else (batch["image"][..., 3:] > 0).to(image_BCHW.dtype).permute(0, 3, 1, 2)
    with autocast(batch["image"].device, config.precision):
        logits_BN = model(image_BCHW, valid)
    return F.multilabel_soft_margin_loss(wide(logits_BN), batch["labels"])


def second_loss(model: nn.Module, batch: dict[str, Tensor], config: DrsNetworkConfig) -> Tensor:
    """The mean squared difference of the network's output and TargetSquare's target, over all classes and pixels."""
    image_BCHW = backbone_in(model).normalise(batch["image"])
    with autocast(batch["image"].device, config.precision):
        made_BNhw = wide(model(image_BCHW))
    target_BNHW = batch["target"].to(made_BNhw.dtype) / 255
    return F.mse_loss(F.interpolate(made_BNhw, target_BNHW.shape[2:], mode="bilinear", align_corners=True), target_BNHW)


def optimisation(
    model: DrsNet, config: DrsNetworkConfig, num_steps: int, steps_per_epoch: int
) -> tuple[SGD, LRScheduler]:
    """SGD with a rate for pre-trained layers, and one for new ones.

    On VGG-16 biases learn twice as fast, and all rates drop twice; on other networks they fall to 0 step by step.
    """
    assert config.lr is not None
    assert config.lr_head is not None
    assert config.momentum is not None
    old = [(name, p) for name, p in model.named_parameters() if name.startswith("backbone.") and p.requires_grad]
    new = [(name, p) for name, p in model.named_parameters() if not name.startswith("backbone.")]
    groups: list[dict[str, Any]] = []
    for parameters, rate in ((old, config.lr), (new, config.lr_head)):
        biases = [p for name, p in parameters if config.on_vgg and name.endswith("bias")]
        weights = [p for name, p in parameters if not (config.on_vgg and name.endswith("bias"))]
        groups += [{"params": weights, "lr": rate}, {"params": biases, "lr": BIASES * rate}]
    optimizer = SGD(
        [group for group in groups if group["params"]],
        momentum=config.momentum,
        weight_decay=config.weight_decay or 0.0,
        nesterov=config.on_vgg and config.momentum > 0,
    )
    if config.on_vgg:
        return optimizer, LambdaLR(optimizer, dropped(DROPS, steps_per_epoch))
    return optimizer, PolynomialLR(optimizer, num_steps, POWER)


def second_optimisation(model: SecondNet, steps_per_epoch: int) -> tuple[Adam, LRScheduler]:
    """Adam with one rate, which drops twice."""
    optimizer = Adam(model.parameters(), SECOND_LR)
    return optimizer, LambdaLR(optimizer, dropped(SECOND_DROPS, steps_per_epoch))


def dropped(after: tuple[int, ...], steps_per_epoch: int) -> Callable[[int], float]:
    """Step -> factor of the learning rates: a tenth after each of these epochs."""
    return lambda step: 0.1 ** sum(step >= epoch * steps_per_epoch for epoch in after)
