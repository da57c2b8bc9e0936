"""Training SEAM's network (docs/rivals.md; released code: train_SEAM.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler, PolynomialLR

from amn_ray.nn.backbones.backbone import backbone_in
from amn_ray.nn.precision import autocast
from amn_ray.stages.seam.config import SeamNetworkConfig
from amn_ray.stages.seam.model import SeamNet

if TYPE_CHECKING:
    from amn_ray.training.job import TrainJob

POWER = 0.9


def train_worker(settings: dict) -> None:
    """The training of each worker."""
    from amn_ray.training.loop import Loop  # imports Ray, which the rest of this page does not need

    job: TrainJob = settings["job"]
    config: SeamNetworkConfig = job.config
    loop = Loop(job, lambda: network(config, job.num_classes), lambda model: optimisation(model, config, job.num_steps))
    for batch in loop.batches():
        loop.step(batch_loss(loop.model, batch, config))


def network(config: SeamNetworkConfig, num_classes: int) -> SeamNet:
    """The network that is trained."""
    return SeamNet(config, num_classes)


def batch_loss(model: nn.Module, batch: dict[str, Tensor], config: SeamNetworkConfig) -> Tensor:
    """The loss of a batch of LabelledCrop's arrays, on the model's device: a scalar."""
    image_B3HW = backbone_in(model).normalise(batch["image"])
    with autocast(batch["image"].device, config.precision):
        parts = model(image_B3HW, batch["labels"])
    return sum(parts[1:], parts[0])


def optimisation(model: SeamNet, config: SeamNetworkConfig, num_steps: int) -> tuple[SGD, LRScheduler]:
    """SGD with two learning rates, decayed to 0 step by step."""
    backbone = [parameter for parameter in model.backbone.parameters() if parameter.requires_grad]
    new = [*model.classifier.parameters(), *model.correlation.parameters()]
    groups: list[dict[str, Any]] = [{"params": backbone, "lr": config.lr}, {"params": new, "lr": config.lr_head}]
    optimizer = SGD(groups, momentum=config.momentum, weight_decay=config.weight_decay)
    return optimizer, PolynomialLR(optimizer, num_steps, POWER)
