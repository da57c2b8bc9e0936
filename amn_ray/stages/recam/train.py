"""Training ReCAM's network (docs/rivals.md; released code: step/train_recam.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler, PolynomialLR

from amn_ray.core.artifacts import MODEL
from amn_ray.nn.backbones.backbone import backbone_in
from amn_ray.nn.precision import autocast
from amn_ray.stages.recam.config import RecamNetworkConfig
from amn_ray.stages.recam.model import RecamNet

if TYPE_CHECKING:
    from amn_ray.training.job import TrainJob

POWER = 0.9


def train_worker(settings: dict) -> None:
    """The training of each worker."""
    from amn_ray.training.loop import Loop  # imports Ray, which the rest of this page does not need

    job: TrainJob = settings["job"]
    config: RecamNetworkConfig = job.config
    assert job.backbone is not None
    classifier = job.backbone.read(MODEL)
    loop = Loop(
        job,
        lambda: network(config, job.num_classes, classifier),
        lambda model: optimisation(model, config, job.num_steps),
    )
    for batch in loop.batches():
        loop.step(batch_loss(loop.model, batch, config))


def network(config: RecamNetworkConfig, num_classes: int, classifier: bytes) -> RecamNet:
    """The network that is trained, with the weights of the classifier (safetensors)."""
    assert config.backbone is not None
    result = RecamNet(config.backbone, num_classes)
    result.start_from(classifier)
    return result


def batch_loss(model: nn.Module, batch: dict[str, Tensor], config: RecamNetworkConfig) -> Tensor:
    """The loss of a batch of LabelledCrop's arrays, on the model's device: a scalar."""
    image_BCHW = backbone_in(model).normalise(batch["image"])
    with autocast(batch["image"].device, config.precision):
        classification, reactivation = model(image_BCHW, batch["labels"])
    return classification + config.weight * reactivation


def optimisation(model: RecamNet, config: RecamNetworkConfig, num_steps: int) -> tuple[SGD, LRScheduler]:
    """SGD without momentum, with two learning rates, decayed to 0 step by step."""
    trained = [*model.backbone.parameters(), *model.classifier.parameters()]
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in trained if parameter.requires_grad], "lr": config.lr_backbone},
        {"params": model.recam.parameters()},
    ]
    optimizer = SGD(groups, lr=config.lr_head, weight_decay=config.weight_decay)
    return optimizer, PolynomialLR(optimizer, num_steps, POWER)
