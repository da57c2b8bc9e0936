"""What each network makes of images: the device against the CPU, in float32 and in bfloat16."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from amn_ray.nn import multiscale
from amn_ray.nn.class_activation import cam_maps
from amn_ray.nn.classifier import Classifier
from amn_ray.nn.config import BackboneConfig
from amn_ray.nn.multiscale import same_size_groups
from amn_ray.stages.amn.config import AmnConfig, AmnMapsConfig
from amn_ray.stages.amn.model import AmnNet, amn_maps
from amn_ray.stages.deeplabv2.model import DeepLabNet, predict
from amn_ray.stages.irn.config import IrnConfig
from amn_ray.stages.irn.model import IrnNet, edge_maps
from tests.gpu.core.trainings import CLASSES, NAMES, network, scene

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
RESNET = BackboneConfig(name="resnet18")
SIZES = [(61, 75), (48, 64), (61, 75), (33, 97), (61, 75)]
"""Odd ones, and three images of one size, which do not fit into one group."""
SCALES = [1.0, 0.5, 1.5]
IMAGES = [scene(seed, *size)[0] for seed, size in enumerate(SIZES)]
KEYS = [[1], [2, 3], [1, 2, 3], [3, 1], []]
BUILD = {
    "classifier": lambda: Classifier(RESNET, CLASSES, "layer2"),
    "amn": lambda: AmnNet(AmnConfig(backbone=RESNET), CLASSES),
    "irn": lambda: IrnNet(IrnConfig(backbone=RESNET)),
    "deeplabv2": lambda: DeepLabNet(RESNET, CLASSES, [1.0, 0.75, 0.5]),
}


def make(model: nn.Module, group: Sequence[int], precision: str, device: torch.device) -> Sequence[np.ndarray]:
    """The maps, boundaries or logits of a group of images of one size."""
    images, keys = [IMAGES[i] for i in group], [KEYS[i] for i in group]
    if isinstance(model, Classifier):
        return cam_maps(model, images, keys, scales=SCALES, precision=precision, device=device)
    if isinstance(model, AmnNet):
        config = AmnMapsConfig(precision=precision, scales=SCALES)
        return amn_maps(model, images, keys, num_classes=CLASSES, config=config, device=device)
    if isinstance(model, IrnNet):
        edges, _ = edge_maps(model, images, device=device, precision=precision)
        assert edges.device.type == device.type  # where the walk goes on
        return list(edges.cpu().numpy())
    assert isinstance(model, DeepLabNet)
    return predict(model, images, device=device, precision=precision)


def make_all(name: str, precision: str, device: torch.device, max_pixels: int = 2**20) -> list[np.ndarray]:
    """Those of IMAGES, group by group, as the stages' infer.py makes them."""
    model = network(BUILD[name]).to(device)
    made: dict[int, np.ndarray] = {}
    for group in same_size_groups(IMAGES, max_pixels):
        made |= zip(group, make(model, group, precision, device), strict=True)
    return [made[i] for i in range(len(IMAGES))]


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_those_of_the_cpu_however_they_are_grouped(
    name: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = make_all(name, "fp32", CPU)
    assert min(np.ptp(one) for one in expected if one.size) > 0.02, "maps that say something"
    monkeypatch.setitem(multiscale.PIXELS_PER_PASS, device.type, 10_000)  # one pair, or less, of the images of a group
    found = make_all(name, "fp32", device, max_pixels=10_000)
    for one, other in zip(found, expected, strict=True):
        assert (one.dtype, one.shape) == (np.float32, other.shape)
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_changes_maps_by_little(name: str, device: torch.device) -> None:
    """By 2% of their range in the mean, and nowhere by more than 15%."""
    exact, rounded = make_all(name, "fp32", CPU), make_all(name, "bf16", device)
    spread = max(np.ptp(one) for one in exact if one.size)
    for one, other in zip(rounded, exact, strict=True):
        difference = np.abs(one - other) / spread
        if difference.size:
            print(f"\n{name}: {other.shape} mean {difference.mean():.4f}, largest {difference.max():.4f}")
            assert difference.mean() < 0.02
            assert difference.max() < 0.15


def test_mean_displacements_are_those_of_the_cpu(device: torch.device) -> None:
    model, images = network(BUILD["irn"]), [IMAGES[i] for i in (0, 2, 4)]
    assert isinstance(model, IrnNet)
    model.displacement_mean += torch.tensor([1.5, -2.5])
    (_, expected), (_, found) = (
        edge_maps(model.to(place), images, device=place, precision="fp32") for place in (CPU, device)
    )
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)
