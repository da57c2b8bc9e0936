"""The registry of methods for each step: ours and those of plug-ins.

A method is a value in its folder, and one line in builtin.py. A plug-in calls `register` on import.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import yaml
from omegaconf import OmegaConf

from amn_ray.core.errors import RequestError
from amn_ray.stages.stage import Makes, Stage

GROUPS: Mapping[str, Mapping[str, Makes]] = {
    "refinement": {"refined": "masks", "amn_refined": "masks"},
    "boundaries": {"irn": "weights", "pseudo_masks": "masks"},
    "segmenter": {"segmenter": "weights", "predictions": "masks"},
    "prediction_refinement": {"predictions_refined": "masks"},
    "maps": {"maps_network": "weights", "maps": "maps"},
    "activation": {"amn": "weights", "amn_maps": "maps"},
}
"""By group: the steps that its methods may make, and the kind of each step's result."""


class SegmentationNetwork(Protocol):
    """A trained segmentation network, held by a process that predicts."""

    def logits(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The logits of some images.

        Args:
            images: RGB uint8 (H, W, 3), all of one size.

        Returns:
            For each of them float32 (N+1, h, w) of the labels 0…N, on a grid of any size that covers the image.
        """
        ...


OpenNetwork = Callable[[Mapping[str, Any], Mapping[str, Any], int, bytes], SegmentationNetwork]
"""(settings of the training, settings of the predictions, N, content of model.safetensors) -> the network, on the GPU
of this process if it has one. Settings are JSON. It must be a module-level function: loading a model imports it by
name."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method of a group.

    Raises:
        ValueError: it makes a step of another group, or needs the ground truth; one sentence.
    """

    group: str
    name: str
    title: str | Callable[[Mapping[str, Any]], str] = ""
    """Its name in tables and figures, where it is not `name`; or (settings of a run, with dotted keys) -> its name."""
    stages: Mapping[str, Stage[Any]] = field(default_factory=dict)
    """By step: the stage that makes it."""
    instead: Mapping[str, str] = field(default_factory=dict)
    """By step without a stage: the step whose result it is."""
    choices: Mapping[str, str] = field(default_factory=dict)
    """By group: the method that this one chooses with itself, unless the user names another."""
    settings: Path | None = None
    """A YAML file: the settings of this method, also for steps that it does not make itself, and under `with` those for
    pairs: `recipe=quick: {…}`, `dataset=coco14: {…}`."""
    packages: Sequence[str] = ()
    """For a segmenter: the distributions that its network needs besides those of this package, without extras."""
    open_network: OpenNetwork | None = None
    """For a segmenter: required by jobs/predict.py and the MLflow model."""

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise ValueError(f"{self.name}: group={self.group} is none of {', '.join(GROUPS)}")
        where, makes = f"{self.group}={self.name}", GROUPS[self.group]
        _check_name(self.name, where)
        for step in (*self.stages, *self.instead):
            if step not in makes:
                raise ValueError(f"{where}: makes {step}, but may make {', '.join(makes)}")
        for step, stage in self.stages.items():
            _check_name(stage.name, f"{where}, {step}")
            if stage.makes != makes[step]:
                raise ValueError(
                    f"{where}: {step} needs a stage that makes {makes[step]}, but {stage.name} makes {stage.makes}"
                )
            if "truth" in (*stage.needs, *stage.optional):
                raise ValueError(f"{where}: the stage {stage.name} needs truth, which only scores may see")

    def values(self) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Its settings, and those for pairs.

        Raises:
            RequestError: its file is missing, or not YAML of this form.
        """
        if self.settings is None:
            return {}, {}
        try:
            content = OmegaConf.to_container(OmegaConf.create(self.settings.read_text()))
        except OSError as error:
            raise RequestError(
                f"{self.settings}: cannot be read ({error.strerror}), but {self.group}={self.name} has its settings "
                "there; is it part of the installed package?"
            ) from error
        except yaml.YAMLError as error:
            raise RequestError(f"{self.settings}: {' '.join(str(error).split())}") from error
        pairs = content.pop("with", None) or {} if isinstance(content, dict) else content
        if not isinstance(pairs, dict) or not all(isinstance(part, dict) for part in (content, *pairs.values())):
            raise RequestError(f"{self.settings}: must be `step: {{key: value}}`, and `with: {{recipe=NAME: {{…}}}}`")
        return content, pairs


def on_backbone(name: str, settings: Mapping[str, Any]) -> str:
    """The title of a method that was published on another network than the run's: `SEAM-R50`."""
    return f"{name}-{settings.get('backbone.name', '?').replace('resnet', 'R')}"


_METHODS: dict[tuple[str, str], Method] = {}
_STAGES: dict[str, Stage[Any]] = {}
"""By name, which is also their folder in the store."""


def register(method: Method) -> None:
    """Add a method to the choices of its group.

    Raises:
        RequestError: another method has its name, or another stage has the name of one of its stages.
    """
    existing = _METHODS.get((method.group, method.name), method)
    if existing is not method:
        raise RequestError(f"{method.group}={method.name}: is declared twice; give one of them another name")
    for stage in method.stages.values():
        register_stage(stage)
    _METHODS[method.group, method.name] = method


def register_stage(stage: Stage[Any]) -> None:
    """Reserve the name of a stage, which is also its folder in the store.

    Raises:
        RequestError: another stage has that name.
    """
    if _STAGES.setdefault(stage.name, stage) is not stage:
        raise RequestError(f"the stage {stage.name}: is declared twice; give one of them another name")


def method(group: str, name: str) -> Method:
    """The method of that name.

    Raises:
        RequestError: no method has that name.
    """
    if (group, name) not in _METHODS:
        choices = names(group)
        near = difflib.get_close_matches(name, choices, n=1)
        hint = f", did you mean {near[0]}" if near else ""
        raise RequestError(f"{group}={name}: must be one of {', '.join(choices)}{hint}")
    return _METHODS[group, name]


def names(group: str) -> list[str]:
    """The names of a group's methods."""
    return [name for of, name in _METHODS if of == group]


def all_methods() -> Iterable[Method]:
    """The methods of all groups."""
    return list(_METHODS.values())


def _check_name(name: str, where: str) -> None:
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
        raise ValueError(f"{where}: the name {name!r} must be letters, digits and _ only")
