"""What a run's maps, supervision and segmentation network are called: names, and how they differ from the published."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from amn_ray.core.errors import RequestError
from amn_ray.stages import builtin, methods  # noqa: F401 — `builtin` registers the methods

FULLY_SUPERVISED = "fully supervised"
LAYERS = ("layer4",)
"""The layers after which the paper multiplies the labels into the features."""


def method_name(settings: Mapping[str, Any]) -> str:
    """The name of a run's final maps: `AdvCAM (5 steps, 1 scale)`, `AMN without LC`, `AMN on RIB`.

    A run that was trained on the ground truth is `fully supervised`, whatever made its maps.

    Args:
        settings: of the run, with dotted keys.
    """
    if is_fully_supervised(settings):
        return FULLY_SUPERVISED
    maps = maps_name(settings)
    if settings["choices.activation"] == "none":
        return maps
    layers = settings.get("amn.lc")
    labels = ""
    if layers is not None and list(layers) != list(LAYERS):
        labels = f" with LC after {', '.join(layers)}" if layers else " without LC"
    name = _name("activation", settings, labels)
    return name if settings["choices.maps"] == "cam" else f"{name} on {maps}"


def is_fully_supervised(settings: Mapping[str, Any]) -> bool:
    """Whether a run's segmentation network learns from the ground truth instead of pseudo-masks."""
    try:
        method = methods.method("boundaries", str(settings.get("choices.boundaries")))
    except RequestError:  # of a plug-in that is not loaded; those never see the ground truth
        return False
    return method.instead.get("pseudo_masks") == "truth"


def description(settings: Mapping[str, Any]) -> dict[str, str]:
    """What masks and networks of a run should always be accompanied by.

    Args:
        settings: of the run, with dotted keys.
    """
    supervised = is_fully_supervised(settings)
    maps = {} if supervised else {"maps": method_name(settings)}
    return {
        "supervision": FULLY_SUPERVISED if supervised else "image-level labels",
        **maps,
        "segmentation network": segmenter_name(settings),
    }


def segmenter_name(settings: Mapping[str, Any]) -> str:
    """The name of a run's segmentation network: `DeepLabv2 resnet101`, `deeplabv3plus mit_b2`."""
    return _name("segmenter", settings)


def maps_name(settings: Mapping[str, Any]) -> str:
    """The name of a run's maps before AMN."""
    return _name("maps", settings)


def deviations(settings: Mapping[str, Any]) -> list[str]:
    """How the methods that make a run's final maps differ from the published ones."""
    of_maps = _deviations("maps", settings)
    if settings["choices.activation"] == "none":
        return of_maps
    before = [f"{settings['choices.maps']}: {words}" for words in of_maps] if settings["choices.maps"] != "cam" else []
    return _deviations("activation", settings) + before


def _name(group: str, settings: Mapping[str, Any], variant: str = "") -> str:
    choice = settings[f"choices.{group}"]
    try:
        title = methods.method(group, choice).title or choice
        title = title(settings) if callable(title) else title
    except RequestError:  # of a plug-in that is not loaded
        return choice
    words = _deviations(group, settings)
    return f"{title}{variant}" + (f" ({', '.join(words)})" if words else "")


def _deviations(group: str, settings: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for step, stage in methods.method(group, settings[f"choices.{group}"]).stages.items():
        names = {item.name for item in dataclasses.fields(stage.config)}
        own = {key.removeprefix(f"{step}."): value for key, value in settings.items() if key.startswith(f"{step}.")}
        try:
            config = stage.config(**{name: value for name, value in own.items() if name in names})
        except (ValueError, TypeError):  # recorded when other values were allowed
            found.append("settings of another version")
        else:
            found += getattr(config, "deviations", [])
    return found
