"""Training IRN on refined seeds (method 7; released code: step/train_irn.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler, PolynomialLR

from amn_ray.nn.backbones.backbone import backbone_in
from amn_ray.nn.precision import autocast
from amn_ray.stages.irn.config import IrnConfig
from amn_ray.stages.irn.loss import irn_loss
from amn_ray.stages.irn.model import IrnNet

if TYPE_CHECKING:
    from amn_ray.training.job import TrainJob


def train_worker(settings: dict) -> None:
    """The training of each worker."""
    from amn_ray.training.loop import Loop  # imports Ray, which the rest of this page does not need

    job: TrainJob = settings["job"]
    config: IrnConfig = job.config
    loop = Loop(job, lambda: IrnNet(config), lambda model: optimisation(model, config, job.num_steps))
    for batch in loop.batches():
        loop.step(batch_loss(loop.model, batch, config))


def batch_loss(model: nn.Module, batch: dict[str, Tensor], config: IrnConfig) -> Tensor:
    """The loss of both branches on a batch of IrnExample's arrays, on the model's device: a scalar."""
    with autocast(batch["image"].device, config.precision):
        edge_Bhw, displacement_B2hw = model(backbone_in(model).normalise(batch["image"]))
    return irn_loss(edge_Bhw.float().sigmoid(), displacement_B2hw.float(), batch["seed"], config.radius)


def optimisation(model: IrnNet, config: IrnConfig, num_steps: int) -> tuple[SGD, LRScheduler]:
    """SGD with a learning rate for each branch, decayed to 0 step by step."""
    edge, displacement = model.branch_parameters()
    groups: list[dict[str, Any]] = [{"params": edge, "lr": config.lr_edge}, {"params": displacement}]
    optimizer = SGD(groups, lr=config.lr_displacement, momentum=config.momentum, weight_decay=config.weight_decay)
    return optimizer, PolynomialLR(optimizer, num_steps, config.power)
