"""Weights from files."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision

from amn_ray.nn.backbones.resnet import ResNet
from amn_ray.nn.config import BackboneConfig
from amn_ray.nn.weights import backbone_state


def test_float16_safetensors_load_as_float32(tmp_path: Path) -> None:
    state = torchvision.models.resnet18(weights=None).half().state_dict()
    safetensors.torch.save_file(state, tmp_path / "half.safetensors")
    config = BackboneConfig(name="resnet18", weights=str(tmp_path / "half.safetensors"))
    net = ResNet(config)
    net.load(backbone_state(config))
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_code_in_a_pickle_is_never_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return open, (str(tmp_path / "owned"), "w")  # type: ignore[return-value]

    torch.save({"conv1.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="cannot be read"):
        backbone_state(BackboneConfig(name="resnet18", weights=str(tmp_path / "evil.pth")))
    assert not (tmp_path / "owned").exists()
