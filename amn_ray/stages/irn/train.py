"""Training IRN on refined seeds (method 7; released code: step/train_irn.py)."""

from __future__ import annotations

from typing import Any

from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler, PolynomialLR

from amn_ray.nn.resnet import normalise
from amn_ray.stages.irn.config import IrnConfig
from amn_ray.stages.irn.model import IrnNet, irn_loss
from amn_ray.training.job import Job
from amn_ray.training.loop import Loop


def train_worker(settings: dict) -> None:
    """The whole training, on each worker."""
    job: Job = settings["job"]
    config: IrnConfig = job.config
    loop = Loop(job, lambda: IrnNet(config), lambda model: optimisation(model, config, job.num_steps))
    for batch in loop.batches():
        with loop.autocast():
            edge_Bhw, displacement_B2hw = loop.model(normalise(batch["image"]))
        loop.step(irn_loss(edge_Bhw.float().sigmoid(), displacement_B2hw.float(), batch["seed"], config.radius))


def optimisation(model: IrnNet, config: IrnConfig, num_steps: int) -> tuple[SGD, LRScheduler]:
    """SGD with a learning rate for each branch, decayed to 0 step by step."""
    edge, displacement = model.branch_parameters()
    groups: list[dict[str, Any]] = [{"params": edge, "lr": config.lr_edge}, {"params": displacement}]
    optimizer = SGD(groups, lr=config.lr_displacement, momentum=config.momentum, weight_decay=config.weight_decay)
    return optimizer, PolynomialLR(optimizer, num_steps, config.power)
