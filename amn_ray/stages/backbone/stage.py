"""Initial weights: `backbone.weights` -> a checked state dict in the store, where every worker can read it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from amn_ray.core.artifacts import Artifact
from amn_ray.core.errors import RequestError
from amn_ray.nn.config import BackboneConfig
from amn_ray.stages.stage import Context, Result, Stage
from amn_ray.training.job import BACKBONE


def identity(config: BackboneConfig) -> dict[str, Any]:
    """What determines the weights: the architecture, and the file's content rather than its name.

    Raises:
        RequestError: there is no such file.
    """
    return {"name": config.name, "weights": content_of(str(config.weights), "backbone")}


def content_of(source: str, key: str) -> str:
    """`imagenet`, or the SHA-256 of a file of weights.

    Raises:
        RequestError: there is no such file; it names the setting `weights` of `key`.
    """
    if source == "imagenet":
        return source
    path = Path(source)
    if not path.is_file():
        raise RequestError(
            f"{key}.weights={source}: not found, expected `imagenet`, null, or a .pth or .safetensors file"
        )
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(config: BackboneConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Read, check and store the initial weights.

    Raises:
        RequestError: the file is not a state dict, or belongs to another architecture.
    """
    from amn_ray.nn.weights import backbone_state  # here: a pipeline whose artifacts all exist does not need PyTorch

    write(lambda: backbone_state(config), output)
    return {"metrics": {}}


def write(state: Callable[[], Mapping[str, Any]], output: Artifact) -> None:
    """Write initial weights, as trainings read them.

    Raises:
        RequestError: `state` raised a ValueError.
    """
    import safetensors.torch

    try:
        found = state()
    except ValueError as error:
        raise RequestError(str(error)) from error
    output.write(BACKBONE, safetensors.torch.save({name: value.contiguous() for name, value in found.items()}))


INITIAL_WEIGHTS = Stage(
    name="backbone", version=1, config=BackboneConfig, makes="weights", needs=(), run=run, identity=identity
)
