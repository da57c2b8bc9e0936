"""Weights on disk: safetensors, and state dicts of others (without unpickling code)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import safetensors.torch
import torch
from torch import Tensor, nn

from amn_ray.nn.backbones.backbone import Encoder
from amn_ray.nn.backbones.registry import build_backbone
from amn_ray.nn.config import PRETRAINED, STRIDE, BackboneConfig

M = TypeVar("M", bound=nn.Module)


def backbone_state(config: BackboneConfig) -> dict[str, Tensor]:
    """The state dict that `config.weights` names, checked against `config.name`.

    Raises:
        ValueError: the file is missing, is not a state dict, or belongs to another architecture (one sentence).
        RequestError: there is no such network.
    """
    where = f"backbone.weights={config.weights}"
    return initial_state(str(config.weights), build_backbone(config, STRIDE), where, f"backbone.name={config.name}")


def initial_state(source: str, backbone: Encoder, where: str, network: str) -> dict[str, Tensor]:
    """A published state dict, checked against a network.

    Args:
        source: `pretrained`, or a file.
        backbone: the network; it is changed.
        where: the setting that names the source, in errors: `backbone.weights=…`.
        network: the setting that names the network, in errors.

    Raises:
        ValueError: the file is missing, is not a state dict, or belongs to another architecture (one sentence).
    """
    if source == PRETRAINED:
        try:
            state = backbone.pretrained()
        except OSError as error:
            raise ValueError(
                f"{where}: the weights of {network} could not be downloaded ({error}); give a local .pth or "
                ".safetensors file, or null to train from scratch"
            ) from error
        except ValueError as error:
            raise ValueError(
                f"{where}: {error}; give a local .pth or .safetensors file for {network}, or null to train from scratch"
            ) from error
    else:
        state = backbone_of(_read(Path(source), where))
    try:
        backbone.load(state)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:160]
        raise ValueError(f"{where}: does not fit {network} ({detail}…)") from error
    return dict(state)


def _read(path: Path, where: str) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"{where}: not found, expected a .pth or .safetensors file")
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # invalid files make the readers raise anything
        raise ValueError(f"{where}: cannot be read as weights; expected a .pth or .safetensors state dict") from error
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{where}: is not a state dict (parameter name -> tensor); save model.state_dict()")
    return state


def to_bytes(module: nn.Module, description: Mapping[str, object]) -> tuple[bytes, bytes]:
    """A module as (safetensors, JSON description)."""
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    return safetensors.torch.save(state), json.dumps(description, indent=2).encode()


def load_module(module: M, content: bytes) -> M:
    """A module with the weights of a safetensors file, in eval mode and channels-last memory."""
    module.load_state_dict(safetensors.torch.load(content))
    return module.to(memory_format=torch.channels_last).eval()


def backbone_of(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The backbone's part of a segmentation network's weights (torchvision's COCO ones, or ours), else all of them."""
    prefix = "backbone."
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)} or state


def load_backbone(backbone: Encoder, content: bytes) -> None:
    """Load a backbone from a published state dict, or from the weights of another stage's network."""
    backbone.load(backbone_of(safetensors.torch.load(content)))


def pick_device() -> torch.device:
    """The GPU assigned to this process, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
