"""Weights that a training starts from: identified by their content, and written where every worker can read them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from amn_ray.core.artifacts import Artifact
from amn_ray.core.errors import RequestError
from amn_ray.training.job import BACKBONE


def content_of(source: str, setting: str) -> str:
    """`imagenet`, or the SHA-256 of a file of weights.

    Args:
        source: `imagenet`, or a file.
        setting: the key whose value it is, in errors.

    Raises:
        RequestError: there is no such file.
    """
    if source == "imagenet":
        return source
    path = Path(source)
    if not path.is_file():
        raise RequestError(f"{setting}={source}: not found, expected `imagenet`, null, or a .pth or .safetensors file")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write(state: Callable[[], Mapping[str, Any]], output: Artifact) -> None:
    """Write a state dict, as `driver.train` expects it in its `backbone`.

    Raises:
        RequestError: `state` raised a ValueError.
    """
    import safetensors.torch  # here: a pipeline whose artifacts all exist does not need PyTorch

    try:
        found = state()
    except ValueError as error:
        raise RequestError(str(error)) from error
    output.write(BACKBONE, safetensors.torch.save({name: value.contiguous() for name, value in found.items()}))
