"""The backbone stage: `backbone.weights` -> a checked state dict in the store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amn_ray.core.artifacts import Artifact
from amn_ray.core.errors import RequestError
from amn_ray.nn.config import BackboneConfig
from amn_ray.platform.cluster import Cluster

NAME = "backbone"
VERSION = 1
WEIGHTS = "backbone.safetensors"


def identity(config: BackboneConfig) -> dict[str, Any]:
    """What decides the weights: the architecture, and the file's content rather than its name."""
    source = config.weights
    if source != "imagenet":
        path = Path(str(source))
        if not path.is_file():
            raise RequestError(
                f"backbone.weights={source}: not found, expected `imagenet`, null, or a .pth or .safetensors file"
            )
        source = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"name": config.name, "weights": source}


def run(config: BackboneConfig, inputs: Mapping[str, Artifact], output: Artifact, cluster: Cluster) -> dict[str, Any]:
    """Read, check and store the initial weights; see stages/__init__.py.

    Raises:
        RequestError: the file is no state dict, or one of another architecture.
    """
    import safetensors.torch  # here: see stages/cam/stage.py

    from amn_ray.nn.weights import backbone_state

    try:
        state = backbone_state(config)
    except ValueError as error:
        raise RequestError(str(error)) from error
    output.write(WEIGHTS, safetensors.torch.save({name: value.contiguous() for name, value in state.items()}))
    return {"metrics": {}}
