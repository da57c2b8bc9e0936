"""The backbone against torchvision's, and weights from files."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor

from amn_ray.nn.config import BackboneConfig
from amn_ray.nn.multiscale import same_size_groups
from amn_ray.nn.resnet import ResNet, normalise
from amn_ray.nn.weights import backbone_state
from tests.conftest import noise


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
    net.load_torchvision(backbone_state(config))
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


def test_float16_safetensors_load_as_float32(tmp_path: Path) -> None:
    state = torchvision.models.resnet18(weights=None).half().state_dict()
    safetensors.torch.save_file(state, tmp_path / "half.safetensors")
    config = BackboneConfig(name="resnet18", weights=str(tmp_path / "half.safetensors"))
    net = ResNet(config)
    net.load_torchvision(backbone_state(config))
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_code_in_a_pickle_is_never_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return open, (str(tmp_path / "owned"), "w")  # type: ignore[return-value]

    torch.save({"conv1.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="cannot be read"):
        backbone_state(BackboneConfig(name="resnet18", weights=str(tmp_path / "evil.pth")))
    assert not (tmp_path / "owned").exists()


def test_padding_is_zero_after_normalisation() -> None:
    rgba = torch.zeros(1, 2, 2, 4, dtype=torch.uint8)
    rgba[0, 0, 0] = torch.tensor([255, 128, 0, 255])
    out = normalise(rgba)
    expected = [(1 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (0 - 0.406) / 0.225]
    torch.testing.assert_close(out[0, :, 0, 0], torch.tensor(expected))
    assert (out[0, :, 1] == 0).all()
    assert (out[0, :, 0, 1] == 0).all()


def test_groups_hold_images_of_one_size_and_miss_none() -> None:
    images = [noise(*size) for size in [(8, 8), (8, 9), (8, 8), (8, 8), (9, 8)]]
    groups = list(same_size_groups(images, max_pixels=130))
    assert sorted(i for group in groups for i in group) == [0, 1, 2, 3, 4]
    assert all(len({images[i].shape for i in group}) == 1 for group in groups)
    assert max(len(group) for group in groups) == 2
