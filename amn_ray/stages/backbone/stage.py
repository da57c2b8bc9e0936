"""Initial weights: `backbone.weights` -> a checked state dict in the store, where every worker can read it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
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
    source = config.weights
    if source != "imagenet":
        path = Path(str(source))
        if not path.is_file():
            raise RequestError(
                f"backbone.weights={source}: not found, expected `imagenet`, null, or a .pth or .safetensors file"
            )
        source = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"name": config.name, "weights": source}


def run(config: BackboneConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Read, check and store the initial weights.

    Raises:
        RequestError: the file is not a state dict, or belongs to another architecture.
    """
    import safetensors.torch  # here: a pipeline whose artifacts all exist does not need PyTorch

    from amn_ray.nn.weights import backbone_state

    try:
        state = backbone_state(config)
    except ValueError as error:
        raise RequestError(str(error)) from error
    output.write(BACKBONE, safetensors.torch.save({name: value.contiguous() for name, value in state.items()}))
    return {"metrics": {}}


INITIAL_WEIGHTS = Stage(
    name="backbone", version=1, config=BackboneConfig, makes="weights", needs=(), run=run, identity=identity
)
