"""Training DeepLabv2 on pseudo-masks (method 9; public PyTorch port of DeepLabv2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from amn_ray.data.source import IGNORE
from amn_ray.nn.backbones.backbone import backbone_in
from amn_ray.nn.precision import autocast
from amn_ray.stages.deeplabv2.config import DeepLabConfig
from amn_ray.stages.deeplabv2.loss import segmentation_loss
from amn_ray.stages.deeplabv2.model import DeepLabNet

if TYPE_CHECKING:
    from amn_ray.training.job import TrainJob

DECAY_EVERY = 10


def train_worker(settings: dict) -> None:
    """The training of each worker."""
    from amn_ray.training.loop import Loop  # imports Ray, which the rest of this page does not need

    job: TrainJob = settings["job"]
    config: DeepLabConfig = job.config
    loop = Loop(
        job,
        lambda: DeepLabNet(config.backbone, job.num_classes, config.scales),
        lambda model: optimisation(model, config, job.num_steps),
    )
    for batch in loop.batches():
        loop.step_in_parts(batch_losses(loop.model, batch, config))


def batch_losses(model: nn.Module, batch: dict[str, Tensor], config: DeepLabConfig) -> Iterator[Tensor]:
    """The loss of a batch of DeepLabExample's arrays, on the model's device: scalars that sum to it, one per part."""
    image = batch["image"]
    labels = [batch[f"label{i}"] for i in range(len(config.scales))]
    labels.append(labels[0])  # of the maximum over scales
    counts = [(label != IGNORE).sum() for label in labels]
    size = -(-len(image) // config.grad_accumulation)
    for start in range(0, len(image), size):
        part = slice(start, start + size)
        with autocast(image.device, config.precision):
            pyramid = model(backbone_in(model).normalise(image[part]))
        yield segmentation_loss([logits.float() for logits in pyramid], [label[part] for label in labels], counts)


def optimisation(model: DeepLabNet, config: DeepLabConfig, num_steps: int) -> tuple[SGD, LRScheduler]:
    """SGD with three learning rates, decayed every few steps."""
    weights, biases = ([p for n, p in model.head.named_parameters() if n.endswith(end)] for end in ("weight", "bias"))
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.backbone.parameters() if p.requires_grad]},
        {"params": weights, "lr": 10 * config.lr},
        {"params": biases, "lr": 20 * config.lr, "weight_decay": 0},
    ]
    optimizer = SGD(groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    return optimizer, LambdaLR(
        optimizer, lambda step: (1 - step // DECAY_EVERY * DECAY_EVERY / num_steps) ** config.power
    )
