"""The ways to make maps on networks that they were not published for: which work, and which are refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from amn_ray.core.errors import RequestError
from amn_ray.data.maps import stored_size
from amn_ray.nn.classifier import Classifier
from amn_ray.nn.config import BackboneConfig
from amn_ray.stages.advcam.config import AdvCamConfig
from amn_ray.stages.advcam.model import advcam_maps
from amn_ray.stages.deeplabv2 import stage as deeplabv2
from amn_ray.stages.deeplabv2.config import DeepLabConfig
from amn_ray.stages.irn import stage as irn
from amn_ray.stages.irn.config import IrnConfig
from amn_ray.stages.lpcam.model import lpcam_maps
from amn_ray.stages.recam.model import RecamNet
from amn_ray.stages.rib.config import RibConfig
from amn_ray.stages.rib.model import RibMaker
from amn_ray.stages.seam.config import SeamNetworkConfig
from amn_ray.stages.seam.model import SeamNet, seam_maps
from tests.conftest import noise

CPU = torch.device("cpu")
CLASSES, SIZE = 3, (40, 56)
KEYS = [1, 3]
BACKBONES = ["timm/test_convnext", "timm/test_vit", "timm/swin_tiny_patch4_window7_224"]
Maps = Callable[[BackboneConfig, np.ndarray], np.ndarray]


def classifier(backbone: BackboneConfig) -> Classifier:
    return Classifier(backbone, CLASSES, None).eval()


def of_advcam(backbone: BackboneConfig, image: np.ndarray) -> np.ndarray:
    config = AdvCamConfig(steps=2, scales=[1.0], precision="fp32")
    return advcam_maps(classifier(backbone), [image], [KEYS], config, CPU)[0]


def of_rib(backbone: BackboneConfig, image: np.ndarray) -> np.ndarray:
    maker = RibMaker(classifier(backbone), RibConfig(steps=2, scales=[1.0], precision="fp32", coverage=1.0), CPU)
    return maker.maps(image, KEYS, lambda step: None)[0]


def of_lpcam(backbone: BackboneConfig, image: np.ndarray) -> np.ndarray:
    model = classifier(backbone)
    directions = torch.randn(CLASSES, model.backbone.channels["layer4"])
    known = torch.ones(CLASSES, dtype=torch.bool)
    return lpcam_maps(model, directions, known, [image], [KEYS], scales=[1.0], precision="fp32", device=CPU)[0]


def of_recam(backbone: BackboneConfig, image: np.ndarray) -> np.ndarray:
    from amn_ray.nn.class_activation import cam_maps

    net = RecamNet(backbone, CLASSES)
    losses = net(net.backbone.normalise(torch.from_numpy(image)[None]), torch.tensor([[1.0, 0.0, 1.0]]))
    sum(losses).backward()
    made = net.as_classifier(backbone, product=False)
    return cam_maps(made, [image], [KEYS], scales=[1.0], precision="fp32", device=CPU)[0]


def of_seam(backbone: BackboneConfig, image: np.ndarray) -> np.ndarray:
    net = SeamNet(SeamNetworkConfig(backbone=backbone, crop=64), CLASSES)
    normal = net.backbone.normalise(torch.from_numpy(image)[None])
    sum(loss.sum() for loss in net(normal, torch.tensor([[1.0, 0.0, 1.0]]))).backward()
    return seam_maps(net.eval(), [image], [KEYS], scales=[1.0], precision="fp32", device=CPU)[0]


METHODS: dict[str, Maps] = {
    "advcam": of_advcam, "rib": of_rib, "lpcam": of_lpcam, "recam": of_recam, "seam": of_seam,
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", BACKBONES)
def test_methods_that_start_from_any_backbone_make_maps_of_its_last_level(name: str, method: str) -> None:
    torch.manual_seed(0)
    maps = METHODS[method](BackboneConfig(name=name, weights=None, batchnorm="batch"), noise(*SIZE))
    assert maps.shape == (len(KEYS), *stored_size(*SIZE))
    assert np.isfinite(maps).all()
    assert maps.min() >= 0
    assert maps.max() <= 1


def test_deeplabv2_on_a_transformer_is_refused_before_anything_runs() -> None:
    config = DeepLabConfig(backbone=BackboneConfig(name="timm/test_vit", weights=None))
    with pytest.raises(RequestError, match=r"^segmenter\.backbone\.name=timm/test_vit: .*stride 8.*segmenter=smp"):
        deeplabv2.identity(config)
    assert deeplabv2.identity(DeepLabConfig(backbone=BackboneConfig(name="timm/test_convnext", weights=None)))


def test_irn_on_levels_of_one_stride_is_refused_with_what_to_set() -> None:
    plain, staged = (
        IrnConfig(backbone=BackboneConfig(name=name, weights=None)) for name in ("timm/test_vit", BACKBONES[2])
    )
    with pytest.raises(RequestError, match=r"^boundaries=irn: .*timm/test_vit have stride 16; set irn\.backbone\.name"):
        irn.identity(plain)
    assert irn.identity(staged)["backbone"]["name"] == BACKBONES[2]
