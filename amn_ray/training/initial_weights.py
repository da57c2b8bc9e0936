"""Weights that a training starts from: identified by their content, and written where every worker can read them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amn_ray.core.artifacts import MODEL, Artifact
from amn_ray.core.errors import RequestError
from amn_ray.nn.config import PRETRAINED
from amn_ray.training.job import BACKBONE

if TYPE_CHECKING:
    from amn_ray.nn.backbones.backbone import Encoder


def content_of(source: str, setting: str) -> str:
    """`pretrained`, or the SHA-256 of a file of weights.

    Args:
        source: `pretrained`, or a file.
        setting: the key whose value it is, in errors.

    Raises:
        RequestError: there is no such file.
    """
    if source == PRETRAINED:
        return source
    path = Path(source)
    if not path.is_file():
        raise RequestError(
            f"{setting}={source}: not found, expected `{PRETRAINED}`, null, or a .pth or .safetensors file"
        )
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


@contextmanager
def held_in(
    output: Artifact, source: str | None, build: Callable[[], Encoder], setting: str, network: str
) -> Iterator[Artifact | None]:
    """Initial weights that one training alone has: held in its own output until it has ended.

    Args:
        output: of the training.
        source: `pretrained`, a file, or None.
        build: makes the network that they belong to.
        setting: the key whose value is `source`, in errors.
        network: the setting that names the network, in errors.

    Yields:
        What driver.train takes as `backbone`; None starts from random weights.

    Raises:
        RequestError: the weights cannot be had, or belong to another network.
    """
    if source is None:
        yield None
        return
    if not (output.exists(MODEL) or output.exists(BACKBONE)):

        def state() -> Mapping[str, Any]:
            from amn_ray.nn.weights import initial_state  # as above

            encoder = build()
            initial_state(source, encoder, f"{setting}={source}", network)
            return encoder.state_dict()  # without what was published besides, such as a classifier

        write(state, output)
    yield output
    output.remove(BACKBONE)
