"""The ResNets against torchvision's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

from amn_ray.nn.backbones.resnet import ResNet
from amn_ray.nn.config import BackboneConfig
from amn_ray.nn.weights import backbone_state


@pytest.mark.parametrize(
    ("name", "width"), [("resnet18", 512), ("resnet34", 512), ("resnet50", 2048), ("resnet101", 2048)]
)
def test_features_have_stride_16_for_every_backbone(name: str, width: int) -> None:
    net = ResNet(BackboneConfig(name=name, weights=None)).eval()
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 50, 70)).shape == (1, width, 4, 5)


def test_layers_before_the_last_are_torchvisions(tmp_path: Path) -> None:
    reference = torchvision.models.resnet50(weights=None).eval()
    torch.save(reference.state_dict(), tmp_path / "r50.pth")
    config = BackboneConfig(name="resnet50", weights=str(tmp_path / "r50.pth"))
    net = ResNet(config).eval()
    net.load(backbone_state(config))
    image = torch.randn(1, 3, 64, 64)
    seen: dict[str, Tensor] = {}

    def remember(name: str, out: Tensor) -> Tensor:
        seen[name] = out
        return out

    with torch.no_grad():
        net(image, remember)
        x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(image))))
        expected = reference.layer3(reference.layer2(reference.layer1(x)))
    torch.testing.assert_close(seen["layer3"], expected)
    assert seen["layer4"].shape[-2:] == expected.shape[-2:]  # stride 1
    assert all(conv.dilation == (1, 1) for conv in net.layer4.modules() if isinstance(conv, torch.nn.Conv2d))


def test_padding_is_zero_after_normalisation() -> None:
    rgba = torch.zeros(1, 2, 2, 4, dtype=torch.uint8)
    rgba[0, 0, 0] = torch.tensor([255, 128, 0, 255])
    out = ResNet(BackboneConfig(name="resnet18", weights=None)).normalise(rgba)
    expected = [(1 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (0 - 0.406) / 0.225]
    torch.testing.assert_close(out[0, :, 0, 0], torch.tensor(expected))
    assert (out[0, :, 1] == 0).all()
    assert (out[0, :, 0, 1] == 0).all()
