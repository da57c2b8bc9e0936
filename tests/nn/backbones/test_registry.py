"""Networks of plug-ins: one that is no chain and has no stem, and ones that are refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from amn_ray.core.errors import RequestError
from amn_ray.nn.backbones.backbone import After, Backbone
from amn_ray.nn.backbones.registry import BACKBONES, build_backbone, register_backbone
from amn_ray.nn.config import LAYERS, BackboneConfig
from tests.nn.backbones.steps import STAGES


class Plain(Backbone):
    """Like a plain vision transformer: every level has the grid of its patches."""

    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.patches = nn.Conv2d(3, 8, stride, stride)
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(4))
        self.channels = dict.fromkeys(LAYERS, 8)
        self.strides = dict.fromkeys(LAYERS, stride)

    def forward(self, image_BCHW: Tensor, after: After | None = None) -> Tensor:
        height, width = image_BCHW.shape[-2:]
        padded = nn.functional.pad(image_BCHW, (0, -width % self.stride, 0, -height % self.stride))
        feature = self.patches(padded)
        for level, block in zip(LAYERS, self.blocks, strict=True):
            feature = feature + block(feature).relu()
            if after is not None:
                feature = after(level, feature)
        return feature

    def freeze(self, until: str) -> None:
        self.patches.requires_grad_(False)
        for level, block in zip(LAYERS, self.blocks, strict=True):
            if until == "stem":
                break
            block.requires_grad_(False)
            if level == until:
                break


def plain(config: BackboneConfig, output_stride: int) -> Backbone:
    return Plain(output_stride)


def of_14(config: BackboneConfig, output_stride: int) -> Backbone:
    return Plain(14)


@pytest.fixture
def _plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amn_ray.nn.backbones.registry.BACKBONES", dict(BACKBONES))
    register_backbone("plain", plain)
    register_backbone("of_14", of_14)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.usefixtures("_plugin")
def test_every_stage_works_with_a_network_of_one_grid_and_no_stem(stage: str) -> None:
    torch.manual_seed(0)
    STAGES[stage](BackboneConfig(name="plain", weights=None))


@pytest.mark.usefixtures("_plugin")
def test_strides_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RequestError, match=r"^backbone\.name=of_14: .*layer4 14.* 16 in layer4; choose another"):
        build_backbone(BackboneConfig(name="of_14"), 16)
    with pytest.raises(RequestError, match=r"^backbone\.name=resnet18: has no output stride 32"):
        build_backbone(BackboneConfig(name="resnet18"), 32)


@pytest.mark.usefixtures("_plugin")
def test_a_name_belongs_to_one_network() -> None:
    register_backbone("plain", plain)  # a module that is imported twice
    with pytest.raises(RequestError, match=r"backbone\.name=plain: is registered twice"):
        register_backbone("plain", of_14)


@pytest.mark.usefixtures("_plugin")
def test_names_that_no_network_has_are_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"^name=plane: must be one of resnet18, .*timm/NAME, plain.* mean plain\?"):
        BackboneConfig(name="plane")
    with pytest.raises(ValueError, match=r"^name=other/net: must be one of"):
        BackboneConfig(name="other/net")


def test_naming_torchvisions_networks_loads_no_pytorch() -> None:
    code = (
        "import sys; from amn_ray.nn.config import BackboneConfig; BackboneConfig(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
