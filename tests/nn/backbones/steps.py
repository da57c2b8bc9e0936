"""One training step and the maps of every stage that has a backbone, on two small images."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from amn_ray.data.images import encode_mask, encode_png
from amn_ray.data.labelled_crop import LabelledCrop
from amn_ray.data.maps import stored_size
from amn_ray.data.pixels import Pixels
from amn_ray.nn.backbones.backbone import backbone_in
from amn_ray.nn.class_activation import cam_maps
from amn_ray.nn.config import LAYERS, BackboneConfig, stride_of
from amn_ray.stages.amn import train as amn
from amn_ray.stages.amn.config import AmnConfig, AmnMapsConfig
from amn_ray.stages.amn.example import AmnExample
from amn_ray.stages.amn.model import AmnNet, amn_maps
from amn_ray.stages.classifier import train as classifier
from amn_ray.stages.classifier.config import ClassifierConfig
from amn_ray.stages.deeplabv2 import train as deeplab
from amn_ray.stages.deeplabv2.config import DeepLabConfig
from amn_ray.stages.deeplabv2.example import DeepLabExample
from amn_ray.stages.deeplabv2.model import DeepLabNet, predict
from amn_ray.stages.irn import train as irn
from amn_ray.stages.irn.config import IrnConfig
from amn_ray.stages.irn.example import IrnExample
from amn_ray.stages.irn.model import IrnNet, edge_maps
from tests.conftest import noise

CPU = torch.device("cpu")
CLASSES = 3
CROP = 65
"""One more than a multiple of all strides."""
SIZE = (53, 70)
KEYS = [[1, 3], [2]]


def examples(example: Callable[[dict, np.random.Generator], dict]) -> dict[str, Tensor]:
    """A batch of two, as the loading tasks make it."""
    seed = np.zeros(SIZE, np.uint8)
    seed[10:40, 10:50] = 1
    seed[:, 60:] = 255
    made = [
        example(
            {"image": encode_png(noise(*SIZE)), "labels": labels, "mask": encode_mask(seed)}, np.random.default_rng(i)
        )
        for i, labels in enumerate(KEYS)
    ]
    return {name: torch.from_numpy(np.stack([one[name] for one in made])) for name in made[0]}


def step(net: nn.Module, optimizer: Optimizer, losses: Iterator[Tensor]) -> None:
    """One training step; all that trains must have a gradient, and must change, and nothing else may."""
    net.train()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for loss in losses:
        assert torch.isfinite(loss)
        loss.backward()
    optimizer.step()
    for name, p in net.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name
        if p.requires_grad:
            assert torch.isfinite(p.grad).all(), name
        else:
            assert torch.equal(p, before[name]), name
    assert any(not torch.equal(p, before[name]) for name, p in net.named_parameters())
    net.eval()


def classify(backbone: BackboneConfig) -> None:
    config = ClassifierConfig(backbone=backbone, crop=CROP, long_side=[60, 70], lr_backbone=1e-3, lr_head=1e-2)
    net = classifier.network(config, CLASSES).to(memory_format=torch.channels_last)
    optimizer, _ = classifier.optimisation(net, config, 5)
    batch = examples(LabelledCrop(config.long_side, config.crop, CLASSES, Pixels()))
    step(net, optimizer, iter([classifier.batch_loss(net, batch, config)]))
    maps = cam_maps(net, [noise(*SIZE)] * 2, KEYS, scales=[1.0, 0.5], precision="fp32", device=CPU)
    assert [m.shape for m in maps] == [(len(keys), *stored_size(*SIZE)) for keys in KEYS]


def activate(backbone: BackboneConfig) -> None:
    config = AmnConfig(backbone=backbone, crop=CROP, lc=list(LAYERS), precision="fp32")
    net = AmnNet(config, CLASSES).to(memory_format=torch.channels_last)
    batch = examples(AmnExample(config, CLASSES, Pixels(), stride_of(backbone.name)))
    step(net, amn.optimiser(net, config), iter([amn.batch_loss(net, batch, config)]))
    settings = AmnMapsConfig(scales=[1.0, 0.5], precision="fp32")
    maps = amn_maps(net, [noise(*SIZE)] * 2, KEYS, num_classes=CLASSES, config=settings, device=CPU)
    assert [m.shape for m in maps] == [(len(keys), *stored_size(*SIZE)) for keys in KEYS]
    assert all(np.isfinite(m).all() for m in maps)


def bound(backbone: BackboneConfig) -> None:
    config = IrnConfig(backbone=backbone, crop=CROP, radius=4, lr_edge=1e-3, lr_displacement=1e-3, precision="fp32")
    net = IrnNet(config).to(memory_format=torch.channels_last)
    assert not any(p.requires_grad for p in backbone_in(net).parameters())
    optimizer, _ = irn.optimisation(net, config, 5)
    batch = examples(IrnExample(config, Pixels()))
    step(net, optimizer, iter([irn.batch_loss(net, batch, config)]))
    edges, displacements = edge_maps(net, [noise(*SIZE)] * 2, device=CPU, precision="fp32")
    assert edges.shape == (2, *stored_size(*SIZE))
    assert displacements.shape == (2, 2)
    assert torch.isfinite(edges).all()


def segment(backbone: BackboneConfig) -> None:
    config = DeepLabConfig(backbone=backbone, crop=CROP, scales=[1.0, 0.5], precision="fp32")
    net = DeepLabNet(backbone, CLASSES, config.scales).to(memory_format=torch.channels_last)
    optimizer, _ = deeplab.optimisation(net, config, 5)
    batch = examples(DeepLabExample(config, Pixels()))
    step(net, optimizer, deeplab.batch_losses(net, batch, config))
    logits = predict(net, [noise(*SIZE)] * 2, device=CPU, precision="fp32")
    assert [one.shape for one in logits] == 2 * [(CLASSES + 1, -(-SIZE[0] // 8), -(-SIZE[1] // 8))]


STAGES = {"classifier": classify, "amn": activate, "irn": bound, "deeplabv2": segment}
