"""Training AMN on refined seeds (method 4; released code: step/train_amn.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from amn_ray.nn.backbones.backbone import backbone_in
from amn_ray.nn.optimisation import groups_without_decay
from amn_ray.nn.precision import autocast
from amn_ray.stages.amn.config import AmnConfig
from amn_ray.stages.amn.loss import pcl_loss
from amn_ray.stages.amn.model import AmnNet

if TYPE_CHECKING:
    from amn_ray.training.job import TrainJob


def train_worker(settings: dict) -> None:
    """The training of each worker."""
    from amn_ray.training.loop import Loop  # imports Ray, which the rest of this page does not need

    job: TrainJob = settings["job"]
    config: AmnConfig = job.config
    loop = Loop(job, lambda: AmnNet(config, job.num_classes), lambda model: (optimiser(model, config), None))
    for batch in loop.batches():
        loop.step(batch_loss(loop.model, batch, config))


def batch_loss(model: nn.Module, batch: dict[str, Tensor], config: AmnConfig) -> Tensor:
    """The per-pixel classification loss of a batch of AmnExample's arrays, on the model's device: a scalar."""
    with autocast(batch["image"].device, config.precision):
        logits_BChw = model(backbone_in(model).normalise(batch["image"]), batch["labels"])
    return pcl_loss(logits_BChw.float(), batch["seed"], config.smoothing)


def optimiser(model: AmnNet, config: AmnConfig) -> Optimizer:
    """Adam or AdamW with two constant learning rates."""
    if config.optimizer == "adamw":
        parts = ((model.backbone.parameters(), config.lr_backbone), (model.head_parameters(), config.lr_head))
        decayed = [group for part, lr in parts for group in groups_without_decay(part, lr=lr)]
        return AdamW(decayed, weight_decay=config.weight_decay)
    backbone = [p for p in model.backbone.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": backbone, "lr": config.lr_backbone},
        {"params": model.head_parameters()},
    ]
    return Adam(groups, lr=config.lr_head, weight_decay=config.weight_decay)
