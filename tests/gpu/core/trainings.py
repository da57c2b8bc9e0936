"""The four trainings, put together as their train_worker does it, on drawn images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from amn_ray.data.images import encode_mask, encode_png
from amn_ray.data.labelled_crop import LabelledCrop
from amn_ray.data.pixels import DEFAULT
from amn_ray.data.transforms import resize_image
from amn_ray.nn.backbones.backbone import backbone_in
from amn_ray.nn.config import BackboneConfig
from amn_ray.stages.amn import train as amn
from amn_ray.stages.amn.config import AmnConfig
from amn_ray.stages.amn.example import AmnExample
from amn_ray.stages.amn.model import AmnNet
from amn_ray.stages.classifier import train as classifier
from amn_ray.stages.classifier.config import ClassifierConfig
from amn_ray.stages.deeplabv2 import train as deeplabv2
from amn_ray.stages.deeplabv2.config import DeepLabConfig
from amn_ray.stages.deeplabv2.example import DeepLabExample
from amn_ray.stages.deeplabv2.model import DeepLabNet
from amn_ray.stages.irn import train as irn
from amn_ray.stages.irn.config import IrnConfig
from amn_ray.stages.irn.example import IrnExample
from amn_ray.stages.irn.model import IrnNet

CLASSES = 3
NAMES = ("classifier", "amn", "irn", "deeplabv2")
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Training:
    """A network, the examples that it learns from, and how one step is made."""

    build: Callable[[], nn.Module]
    example: Callable[[dict, np.random.Generator], dict[str, np.ndarray]]
    losses: Callable[[nn.Module, Batch], Iterable[Tensor]]
    """The parts of a batch's loss."""
    optimisation: Callable[[Any], tuple[Optimizer, LRScheduler | None]]


def training(
    name: str, backbone: str = "resnet18", steps: int = 100, classes: int = CLASSES, **settings: Any
) -> Training:
    """One of NAMES, of the method's settings but for those given.

    Its backbone is one that started from ImageNet (conv1 and bn1 do not train, statistics are kept); see `network`.
    """
    settings["backbone"] = BackboneConfig(name=backbone)
    if name == "classifier":
        classifier_config = ClassifierConfig(**settings)
        return Training(
            lambda: classifier.network(classifier_config, classes),
            LabelledCrop(classifier_config.long_side, classifier_config.crop, classes, DEFAULT),
            lambda model, batch: [classifier.batch_loss(model, batch, classifier_config)],
            lambda model: classifier.optimisation(model, classifier_config, steps),
        )
    if name == "amn":
        amn_config = AmnConfig(**settings)
        return Training(
            lambda: AmnNet(amn_config, classes),
            AmnExample(amn_config, classes, DEFAULT),
            lambda model, batch: [amn.batch_loss(model, batch, amn_config)],
            lambda model: (amn.optimiser(model, amn_config), None),
        )
    if name == "irn":
        irn_config = IrnConfig(**settings)
        return Training(
            lambda: IrnNet(irn_config),
            IrnExample(irn_config, DEFAULT),
            lambda model, batch: [irn.batch_loss(model, batch, irn_config)],
            lambda model: irn.optimisation(model, irn_config, steps),
        )
    deeplab_config = DeepLabConfig(**settings)
    return Training(
        lambda: DeepLabNet(deeplab_config.backbone, classes, deeplab_config.scales),
        DeepLabExample(deeplab_config, DEFAULT),
        lambda model, batch: deeplabv2.batch_losses(model, batch, deeplab_config),
        lambda model: deeplabv2.optimisation(model, deeplab_config, steps),
    )


def network(build: Callable[[], nn.Module]) -> nn.Module:
    """A network on the CPU with random weights, the same at each call.

    Its BatchNorms hold the statistics of drawn images, as those of a trained network would: with others the features
    of so many layers vanish or explode.
    """
    torch.manual_seed(0)
    model = build()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean over all batches, of which there is one
        norm.train()
    backbone = backbone_in(model)
    with torch.no_grad():
        backbone(backbone.normalise(torch.from_numpy(np.stack([scene(i, 96, 96)[0] for i in range(4)]))))
    for norm in norms:
        norm.momentum = 0.1
    return model.eval().to(memory_format=torch.channels_last)


def scene(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """A drawn image uint8 (H, W, 3), its mask uint8 (H, W) with 255 at the objects' borders, and its labels."""
    rng = np.random.default_rng(seed)
    labels = sorted(rng.choice(CLASSES, rng.integers(1, CLASSES), replace=False) + 1)
    image = resize_image(rng.integers(60, 120, (6, 6, 3), dtype=np.uint8), height, width).copy()
    mask = np.zeros((height, width), np.uint8)
    colours = np.array([[0, 0, 0], [230, 40, 40], [40, 230, 40], [40, 40, 230]], np.uint8)
    for label in labels:
        h, w = height * 2 // 5, width * 2 // 5
        y, x = rng.integers(0, height - h), rng.integers(0, width - w)
        mask[y : y + h, x : x + w] = 255
        mask[y + 1 : y + h - 1, x + 1 : x + w - 1] = label
        image[y : y + h, x : x + w] = colours[label]
    noise = rng.integers(0, 25, image.shape, dtype=np.uint8)
    return image + noise, mask, [int(label) for label in labels]


def batch_of(training: Training, count: int, size: int, device: torch.device) -> Batch:
    """A batch as the loop's stream makes it: encoded images, augmented examples, stacked, on the device."""
    examples = []
    for seed in range(count):
        image, mask, labels = scene(seed, size, size)
        row = {"image": encode_png(image), "mask": encode_mask(mask), "labels": labels}
        examples.append(training.example(row, np.random.default_rng(seed)))
    return {name: torch.from_numpy(np.stack([one[name] for one in examples])).to(device) for name in examples[0]}


class Step:
    """What the loop holds for a training on one worker, and does in each step."""

    def __init__(self, training: Training, model: nn.Module, device: torch.device) -> None:
        self.losses = training.losses
        # On its device before the optimizer exists, as in the loop. A copy: the next one begins where this one did.
        self.model = copy.deepcopy(model).to(device).to(memory_format=torch.channels_last).train()
        self.optimizer, self.schedule = training.optimisation(self.model)

    def __call__(self, batch: Batch) -> float:
        """One step; the loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for loss in self.losses(self.model, batch):
            loss.backward()
            total += loss.item()
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        return total

    def gradients(self) -> dict[str, Tensor]:
        """Of the last step, on the CPU."""
        return {name: p.grad.cpu() for name, p in self.model.named_parameters() if p.grad is not None}

    def weights(self) -> dict[str, Tensor]:
        """The parameters that train, on the CPU."""
        return {name: p.detach().cpu().clone() for name, p in self.model.named_parameters() if p.requires_grad}
