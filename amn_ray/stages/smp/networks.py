"""Which networks the library has: names, and what it needs to be told to build each of them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from amn_ray.nn.backbones.backbone import MEAN, STD
from amn_ray.nn.backbones.backbone import is_transformer as of_any_kind

TIMM = "tu-"
PROBE = (128, 160)
"""Height and width of a test image, in pixels: multiples of all strides, and not the square of a pre-training."""
ANY_SIZE: tuple[Mapping[str, Any], ...] = ({}, {"strict_img_size": False}, {"dynamic_img_size": True})
"""What different networks of timm need to be told to see images of any size."""

STATISTICS: Mapping[str, tuple[Sequence[float], Sequence[float]]] = {
    "dpn": ((124 / 255, 117 / 255, 104 / 255), (0.2348, 0.2348, 0.2348)),
    "inceptionv4": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "inceptionresnetv2": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "xception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""By the beginning of an encoder's name: mean and standard deviation that are not ImageNet's."""


def library() -> Any:
    """The module `segmentation_models_pytorch`.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import segmentation_models_pytorch
    except ImportError as error:
        raise ValueError(
            "arch: networks of segmentation-models-pytorch need that library, which is not installed; run pip install "
            "'amn-ray[networks]'"
        ) from error
    return segmentation_models_pytorch


def build(arch: str, encoder: str, num_outputs: int) -> Any:
    """A network with random weights."""
    return _create(arch, encoder, num_outputs, check(arch, encoder))


def published_statistics(encoder: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of the images that an encoder was pre-trained on."""
    if encoder.startswith(TIMM):
        import timm

        trained = timm.get_pretrained_cfg(encoder.removeprefix(TIMM))
        return (MEAN, STD) if trained is None else (trained.mean, trained.std)
    return next((values for name, values in STATISTICS.items() if encoder.startswith(name)), (MEAN, STD))


def pretrained_encoder(name: str) -> nn.Module:
    """An encoder with the library's default weights, downloaded.

    Raises:
        KeyError: it has none.
    """
    return library().encoders.get_encoder(name, weights="imagenet")


@cache
def needs_two_images(arch: str, encoder: str) -> bool:
    """Whether BatchNorm cannot compute statistics of one image, since the network pools it to one place."""
    network = build(arch, encoder, 2).train()
    try:
        network(torch.zeros(1, 3, *PROBE))
    except ValueError:
        return True
    return False


@cache
def unused(arch: str, encoder: str) -> frozenset[str]:
    """The parameters of a network that do not affect its output."""
    network = _probed(arch, encoder, check(arch, encoder))
    return frozenset(name for name, parameter in network.named_parameters() if parameter.grad is None)


@cache
def check(arch: str, encoder: str) -> Mapping[str, Any]:
    """What the encoder needs to be told besides its name.

    Raises:
        ValueError: the library is not installed, lacks the architecture or the encoder, or cannot join them; one
            sentence.
    """
    smp = library()
    version = f"segmentation-models-pytorch {smp.__version__}"
    architectures = list(smp.MODEL_ARCHITECTURES_MAPPING)
    if arch not in architectures:
        near = difflib.get_close_matches(arch, architectures, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"arch={arch}: {version} has only {', '.join(architectures)}{hint}")
    if not _has_encoder(encoder):
        near = difflib.get_close_matches(encoder, _encoders(), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; see its documentation for a list"
        raise ValueError(f"encoder={encoder}: {version} has no such encoder{hint}")
    reason = ""
    for options in ANY_SIZE if encoder.startswith(TIMM) else ANY_SIZE[:1]:
        try:
            _probed(arch, encoder, options)
        except Exception as error:  # of any kind: the library's and timm's networks raise whatever they like
            reason = reason or " ".join(str(error).split())
        else:
            return options
    raise ValueError(f"encoder={encoder}: {version} cannot use it in {arch} ({reason[:120]}); choose another encoder")


def is_transformer(arch: str, encoder: str) -> bool:
    """Whether a network's encoder computes attention between places of the image."""
    return of_any_kind(_probed(arch, encoder, check(arch, encoder)).encoder)


def _probed(arch: str, encoder: str, options: Mapping[str, Any]) -> Any:
    """A network that has seen an image: without memory for weights where it can be built so."""
    with torch.random.fork_rng(devices=[]):
        try:
            return _built(arch, encoder, options, "meta")
        except Exception:  # networks compute with their weights while they are built
            return _built(arch, encoder, options, "cpu")


def _built(arch: str, encoder: str, options: Mapping[str, Any], device: str) -> Any:
    with torch.device(device):
        network = _create(arch, encoder, 2, options).eval()
        network(torch.zeros(1, 3, *PROBE)).sum().backward()
    return network


def _create(arch: str, encoder: str, num_outputs: int, options: Mapping[str, Any]) -> Any:
    return library().create_model(arch, encoder_name=encoder, encoder_weights=None, classes=num_outputs, **options)


def _has_encoder(name: str) -> bool:
    import timm

    if not name.startswith(TIMM):
        return name in library().encoders.encoders
    architecture, _, tag = name.removeprefix(TIMM).partition(".")
    return architecture in timm.list_models() and (not tag or name.removeprefix(TIMM) in timm.list_pretrained())


def _encoders() -> list[str]:
    import timm

    return [*library().encoders.encoders, *(f"{TIMM}{name}" for name in timm.list_models())]
