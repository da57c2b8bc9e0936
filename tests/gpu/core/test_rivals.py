"""Maps of the paper's rivals: the device against the CPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from amn_ray.nn.class_activation import cam_maps
from amn_ray.nn.classifier import Classifier
from amn_ray.nn.config import BackboneConfig
from amn_ray.nn.weights import to_bytes
from amn_ray.stages.advcam.config import AdvCamConfig
from amn_ray.stages.advcam.model import advcam_maps
from amn_ray.stages.drs.config import DrsNetworkConfig
from amn_ray.stages.drs.model import DrsNet
from amn_ray.stages.lpcam.model import direction, lpcam_maps
from amn_ray.stages.recam.config import RecamNetworkConfig
from amn_ray.stages.recam.train import batch_loss, optimisation
from amn_ray.stages.recam.train import network as recam_network
from amn_ray.stages.rib.config import RibConfig
from amn_ray.stages.rib.model import RibMaker
from amn_ray.stages.seam.config import SeamNetworkConfig
from amn_ray.stages.seam.model import SeamNet, seam_maps
from tests.gpu.core.trainings import CLASSES, batch_of, network, scene, training

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
RESNET = BackboneConfig(name="resnet18")
IMAGES = [scene(seed, 61, 75)[0] for seed in range(3)]
KEYS = [[1], [2, 3], [3]]


def classifier() -> Classifier:
    made = network(lambda: Classifier(RESNET, CLASSES, "layer2"))
    assert isinstance(made, Classifier)
    return made


def advcam(precision: str, device: torch.device) -> list[np.ndarray]:
    config = AdvCamConfig(precision=precision, scales=[1.0, 0.5], steps=4)
    return advcam_maps(classifier().to(device), IMAGES, KEYS, config, device)


def rib(precision: str, device: torch.device) -> list[np.ndarray]:
    config = RibConfig(precision=precision, scales=[1.0, 0.5], steps=2, lr_backbone=1e-4, lr_head=1e-3, coverage=1.0)
    maker = RibMaker(classifier().to(device), config, device)
    batches = [batch_of(training("classifier", crop=64, long_side=[48, 80]), 2, 80, CPU) for _ in range(2)]
    made = [
        maker.maps(image, labels, lambda step: (batches[step]["image"], batches[step]["labels"]))
        for image, labels in list(zip(IMAGES, KEYS, strict=True))[:2]
    ]
    assert [steps for _, steps in made] == [2, 2]
    return [maps_Khw for maps_Khw, _ in made]


def lpcam(precision: str, device: torch.device) -> list[np.ndarray]:
    model = classifier()
    rows_nC = torch.rand(9, model.backbone.channels["layer4"], generator=torch.Generator().manual_seed(0))
    directions_NC = torch.stack([direction(rows_nC[i : i + 2], rows_nC[i + 3 : i + 4]) for i in range(CLASSES)])
    return lpcam_maps(
        model.to(device), directions_NC.to(device), torch.tensor([True, False, True]), IMAGES, KEYS,
        scales=[1.0, 0.5], precision=precision, device=device,
    )  # fmt: skip


def drs(precision: str, device: torch.device) -> list[np.ndarray]:
    settings = DrsNetworkConfig(backbone=RESNET, precision=precision)
    model = network(lambda: DrsNet(settings, CLASSES)).to(device)
    return cam_maps(model, IMAGES, KEYS, scales=[1.0, 0.5], precision=precision, device=device)  # type: ignore[arg-type]


def seam(precision: str, device: torch.device) -> list[np.ndarray]:
    settings = SeamNetworkConfig(backbone=RESNET, precision=precision)
    model = network(lambda: SeamNet(settings, CLASSES)).to(device)
    assert isinstance(model, SeamNet)
    return seam_maps(model, IMAGES, KEYS, scales=[1.0, 0.5], precision=precision, device=device)


METHODS: dict[str, Callable[[str, torch.device], list[np.ndarray]]] = {
    "advcam": advcam,
    "rib": rib,
    "lpcam": lpcam,
    "drs": drs,
    "seam": seam,
}


@pytest.mark.parametrize("name", METHODS)
def test_maps_are_those_of_the_cpu(name: str, device: torch.device) -> None:
    expected, found = METHODS[name]("fp32", CPU), METHODS[name]("fp32", device)
    assert min(np.ptp(one) for one in expected) > 0.02, "maps that say something"
    for one, other in zip(found, expected, strict=True):
        assert (one.dtype, one.shape) == (np.float32, other.shape)
        np.testing.assert_allclose(one, other, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_changes_maps_by_little(name: str, device: torch.device) -> None:
    """By 2% of their range in the mean; AdvCAM's climb, on a network that has learnt nothing, by 10%."""
    exact, rounded = METHODS[name]("fp32", CPU), METHODS[name]("bf16", device)
    for one, other in zip(rounded, exact, strict=True):
        difference = np.abs(one - other) / max(np.ptp(each) for each in exact)
        print(f"\n{name}: {other.shape} mean {difference.mean():.4f}, largest {difference.max():.4f}")
        assert difference.mean() < (0.1 if name == "advcam" else 0.02)


@pytest.mark.usefixtures("as_in_the_loop")
def test_a_step_of_recam_is_that_of_the_cpu(device: torch.device) -> None:
    config = RecamNetworkConfig(backbone=RESNET, precision="fp32", lr_backbone=1e-3, lr_head=1e-2)
    start, _ = to_bytes(classifier(), {})
    moved: list[dict[str, Tensor]] = []
    for place in (CPU, device):
        torch.manual_seed(0)
        model = recam_network(config, CLASSES, start).to(place)
        before = {name: value.detach().cpu().clone() for name, value in model.named_parameters()}
        optimizer, _ = optimisation(model, config, 4)
        batch = batch_of(training("classifier", crop=64, long_side=[48, 80]), 4, 80, place)
        batch_loss(model, batch, config).backward()
        optimizer.step()
        moved.append({name: value.detach().cpu() - before[name] for name, value in model.named_parameters()})
    expected, found = (torch.cat([change.flatten() for change in one.values()]) for one in moved)
    assert expected.norm() > 0
    assert (found - expected).norm() < 1e-3 * expected.norm()
