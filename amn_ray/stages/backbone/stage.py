"""Initial weights: `backbone.weights` -> a checked state dict in the store, where every worker can read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amn_ray.core.artifacts import Artifact
from amn_ray.nn.config import BackboneConfig
from amn_ray.stages.stage import Context, Result, Stage
from amn_ray.training.initial_weights import content_of, write


def identity(config: BackboneConfig) -> dict[str, Any]:
    """What determines the weights: the architecture, and the file's content rather than its name.

    Raises:
        RequestError: there is no such file.
    """
    return {"name": config.name, "weights": content_of(str(config.weights), "backbone.weights")}


def run(config: BackboneConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Read, check and store the initial weights.

    Raises:
        RequestError: the file is not a state dict, or belongs to another architecture.
    """
    from amn_ray.nn.weights import backbone_state  # here: a pipeline whose artifacts all exist does not need PyTorch

    write(lambda: backbone_state(config), output)
    return {"metrics": {}}


INITIAL_WEIGHTS = Stage(
    name="backbone", version=1, config=BackboneConfig, makes="weights", needs=(), run=run, identity=identity
)
