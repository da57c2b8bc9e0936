"""What we ask of timm, an optional dependency (extra `networks`): names, and published weights."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

PREFIX = "timm/"


def flat(name: str) -> str:
    """Some of timm's feature networks rename modules: stages.0 becomes stages_0."""
    return name.replace(".", "_")


def timm_name(name: str) -> str:
    """The name of a network in timm."""
    timm = library(name)
    architecture, _, tag = name.removeprefix(PREFIX).partition(".")
    available = timm.list_models()
    if architecture not in available:
        near = [f"{PREFIX}{found}" for found in difflib.get_close_matches(architecture, available, n=3)]
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"name={name}: timm {timm.__version__} has no such network{hint}")
    tags = [found.partition(".")[2] for found in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ValueError(
            f"name={name}: timm {timm.__version__} has no such weights of {architecture}, but "
            f"{', '.join(tags) or 'none'}"
        )
    return name.removeprefix(PREFIX)


def library(name: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise ValueError(
            f"name={name}: is a network of timm, which is not installed; run pip install 'amn-ray[networks]'"
        ) from error
    return timm


def without_head(name: str, state: Mapping[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    """Weights that timm published for a network -> those of its features, in the names of a feature network.

    Args:
        name: of the network in timm.
        state: parameter name -> value.
        own: the names in the feature network; some of these replace dots by underscores.
    """
    names = {flat(key): key for key in own}
    with torch.device("meta"):
        whole = library(name).create_model(name)
    head = {flat(key) for key in whole.state_dict()} - names.keys()
    return {names.get(flat(key), key): value for key, value in state.items() if flat(key) not in head}


def pretrained(name: str) -> Mapping[str, Tensor]:
    """The weights of a network of timm: those of the tag in its name, else timm's default.

    Raises:
        ValueError: there are none.
        OSError: they could not be downloaded.
    """
    timm = library(name)
    if not timm.is_model_pretrained(name):
        raise ValueError("timm has no weights for this network")
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # of the hub's client or its transport
        raise OSError(str(error)) from error
