"""Training steps and maps of the method's sizes, with their time and memory (`pytest -s` shows them)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from amn_ray.nn.class_activation import cam_maps
from amn_ray.nn.classifier import Classifier
from amn_ray.nn.config import BackboneConfig
from amn_ray.stages.amn.config import AmnConfig, AmnMapsConfig
from amn_ray.stages.amn.model import AmnNet, amn_maps
from amn_ray.stages.cam.config import CamConfig
from amn_ray.stages.deeplabv2.config import DeepLabConfig
from amn_ray.stages.deeplabv2.model import DeepLabNet, predict
from amn_ray.stages.irn.config import IrnConfig, WalkConfig
from amn_ray.stages.irn.model import IrnNet, edge_maps
from amn_ray.stages.irn.walk import random_walk
from tests.gpu.core.test_walk import walkers
from tests.gpu.core.trainings import NAMES, Step, batch_of, network, scene, training

pytestmark = pytest.mark.gpu
CROPS = {"classifier": 512, "amn": 512, "irn": 512, "deeplabv2": 321}
BATCHES = {"classifier": 16, "amn": 16, "irn": 32, "deeplabv2": 10}
BACKBONES = {"classifier": "resnet50", "amn": "resnet50", "irn": "resnet50", "deeplabv2": "resnet101"}
RATES: dict[str, dict[str, Any]] = {
    "classifier": {"lr_backbone": 1e-4, "lr_head": 1e-3},
    "amn": {},
    "irn": {},
    "deeplabv2": {"lr": 1e-7},
}
"""Small ones where the method's own, which follow ImageNet's weights, let random weights diverge."""
VOC = 20
"""Classes."""
PHOTOGRAPHS = 5
"""A group, see nn.multiscale."""


def timed(what: str, work: Callable[[], Any], device: torch.device, per: int, unit: str) -> None:
    """Print how long `work` takes after a first call, and the most memory that it had."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    work()
    seconds = []
    for _ in range(1 if device.type == "cpu" else 3):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else math.nan
    print(f"\n{what}: {sorted(seconds)[len(seconds) // 2] / per:.4f} s/{unit}, {peak:.1f} GiB at most")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("as_in_the_loop")
def test_a_step_of_the_methods_size_fits(name: str, device: torch.device) -> None:
    whole = device.type == "cuda"
    backbone, crop, count = (BACKBONES[name], CROPS[name], BATCHES[name]) if whole else ("resnet18", 65, 2)
    one = training(name, backbone, precision="bf16", classes=VOC, crop=crop, **RATES[name])
    step, batch = Step(one, network(one.build), device), batch_of(one, count, crop, device)
    losses: list[float] = []
    what = f"{name}, {backbone}, bf16, {count} crops of {crop}"
    timed(what, lambda: losses.append(step(batch)), device, 1, "step")
    assert all(map(math.isfinite, losses)), losses


@pytest.mark.parametrize("name", NAMES)
def test_maps_of_photographs_fit(name: str, device: torch.device) -> None:
    count, size = (PHOTOGRAPHS, (375, 500)) if device.type == "cuda" else (1, (61, 75))
    images, keys = [scene(seed, *size)[0] for seed in range(count)], [[1, 2]] * count
    backbone = BackboneConfig(name=BACKBONES[name])
    model: nn.Module
    if name == "classifier":
        model = network(lambda: Classifier(backbone, VOC, "layer2")).to(device)
        work = partial(cam_maps, model, images, keys, scales=CamConfig().scales, precision="bf16", device=device)
    elif name == "amn":
        config = AmnMapsConfig(precision="bf16")
        model = network(lambda: AmnNet(AmnConfig(backbone=backbone), VOC)).to(device)
        work = partial(amn_maps, model, images, keys, num_classes=VOC, config=config, device=device)
    elif name == "irn":
        model = network(lambda: IrnNet(IrnConfig(backbone=backbone))).to(device)
        work = partial(edge_maps, model, images, precision="bf16", device=device)
    else:
        model = network(lambda: DeepLabNet(backbone, VOC, DeepLabConfig().scales)).to(device)
        work = partial(predict, model, images, precision="bf16", device=device)
    timed(f"{name}, {BACKBONES[name]}, bf16, {count} images of {size[1]}×{size[0]}", work, device, count, "image")


def test_the_walk_of_a_photograph_fits(device: torch.device) -> None:
    grid = (94, 125) if device.type == "cuda" else (16, 19)
    maps, edge = (part.to(device) for part in walkers(2, *grid))
    timed(
        f"walk, 2 maps of {grid[1]}×{grid[0]}",
        lambda: random_walk(maps, edge, WalkConfig(power=1.3)),
        device,
        1,
        "image",
    )
