"""Which parameters train, at which learning rate, in each training of the method."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from amn_ray.nn.config import BackboneConfig
from amn_ray.stages.amn import train as amn
from amn_ray.stages.amn.config import AmnConfig
from amn_ray.stages.amn.model import AmnNet
from amn_ray.stages.classifier import train as classifier
from amn_ray.stages.classifier.config import ClassifierConfig
from amn_ray.stages.deeplabv2 import train as deeplab
from amn_ray.stages.deeplabv2.config import DeepLabConfig
from amn_ray.stages.deeplabv2.model import DeepLabNet
from amn_ray.stages.irn import train as irn
from amn_ray.stages.irn.config import IrnConfig
from amn_ray.stages.irn.model import IrnNet

PRETRAINED = BackboneConfig(name="resnet18", weights="pretrained")  # the network itself never loads them


def rates(model: nn.Module, optimizer: Optimizer) -> dict[str, tuple[float, float]]:
    """(learning rate, weight decay) of every parameter that the optimizer changes, by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [
        (names[id(parameter)], (group["lr"], group["weight_decay"]))
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    assert len(found) == len(dict(found)), "a parameter is in two groups"
    assert {name for name, _ in found} == {name for name, p in model.named_parameters() if p.requires_grad}
    return dict(found)


def decay(optimizer: Optimizer, schedule: LRScheduler, steps: int) -> list[float]:
    """The first group's learning rate at each step, as a share of the initial one."""
    first, shares = optimizer.param_groups[0]["initial_lr"], []
    for _ in range(steps):
        shares.append(optimizer.param_groups[0]["lr"] / first)
        optimizer.step()
        schedule.step()
    return shares


def test_the_classifier_trains_layers_3_and_4_at_a_tenth_of_its_heads_rate() -> None:
    model = classifier.network(ClassifierConfig(backbone=PRETRAINED), 20)
    optimizer, schedule = classifier.optimisation(model, ClassifierConfig(), 100)
    found = rates(model, optimizer)
    assert {name.split(".")[1] for name in found if name.startswith("backbone")} == {"layer3", "layer4"}
    assert all(rate == ((0.1, 1e-4) if name.startswith("backbone") else (1.0, 1e-4)) for name, rate in found.items())
    assert isinstance(optimizer, SGD)
    assert {group["momentum"] for group in optimizer.param_groups} == {0}
    assert decay(optimizer, schedule, 100) == pytest.approx([(1 - step / 100) ** 0.9 for step in range(100)])


def test_amn_trains_all_but_conv1_and_bn1_with_a_slow_backbone() -> None:
    model = AmnNet(AmnConfig(backbone=PRETRAINED, lc=["layer3", "layer4"]), 20)
    optimizer = amn.optimiser(model, AmnConfig())
    found = rates(model, optimizer)
    assert {name.split(".")[1] for name in found if name.startswith("backbone")} == {
        "layer1", "layer2", "layer3", "layer4",
    }  # fmt: skip
    for name, rate in found.items():
        assert rate == ((5e-6, 1e-4) if name.startswith("backbone") else (1e-4, 1e-4)), name
    assert {"conditioning.layer3.bias", "head.1.branches.3.weight"} <= found.keys()
    assert isinstance(optimizer, torch.optim.Adam)


def test_irn_trains_its_branches_only_the_displacement_ten_times_as_fast() -> None:
    model = IrnNet(IrnConfig(backbone=PRETRAINED))
    optimizer, schedule = irn.optimisation(model, IrnConfig(), 100)
    found = rates(model, optimizer)
    for name, rate in found.items():
        assert rate == ((0.1, 1e-4) if name.startswith("edge") else (1.0, 1e-4)), name
    assert {name.split(".")[0] for name in found} == {
        "edge_branches", "edge", "displacement_branches", "fuse_deep", "fuse_all",
    }  # fmt: skip
    assert decay(optimizer, schedule, 100) == pytest.approx([(1 - step / 100) ** 0.9 for step in range(100)])


def test_deeplab_has_three_rates_biases_without_decay_and_a_schedule_of_ten_steps() -> None:
    model = DeepLabNet(PRETRAINED, 20, DeepLabConfig().scales)
    optimizer, schedule = deeplab.optimisation(model, DeepLabConfig(), 200)
    for name, rate in rates(model, optimizer).items():
        if name.startswith("backbone"):
            assert rate == (2.5e-4, 5e-4)
        elif name.endswith("weight"):
            assert rate == (2.5e-3, 5e-4)
        else:
            assert rate == (5e-3, 0)
    assert {group["momentum"] for group in optimizer.param_groups} == {0.9}
    expected = [(1 - step // 10 * 10 / 200) ** 0.9 for step in range(200)]
    assert decay(optimizer, schedule, 200) == pytest.approx(expected)
    assert expected[9] == 1
    assert expected[10] < 1
