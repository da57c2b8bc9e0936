"""What every choice of a group has in common: the fields that a recipe sets, and their ranges."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest

from amn_ray.core.settings import affecting_result, build, filled
from amn_ray.nn.config import BackboneConfig
from amn_ray.recipe.config import PipelineConfig
from amn_ray.stages import builtin, groups, methods
from amn_ray.stages.methods import GROUPS
from amn_ray.stages.stage import Stage

SHARED = {"seed": 7, "precision": "bf16", "ema": 0.9, "backbone": BackboneConfig(name="resnet18", weights=None)}
BASES = {
    "maps_network": groups.MapsNetworkConfig,
    "maps": groups.MapsConfig,
    "refined": groups.RefinementConfig,
    "amn": groups.ActivationConfig,
    "amn_maps": groups.MapsConfig,
    "amn_refined": groups.RefinementConfig,
    "irn": groups.BoundariesConfig,
    "pseudo_masks": groups.PseudoMasksConfig,
    "segmenter": groups.SegmenterConfig,
    "predictions": groups.PredictionsConfig,
    "predictions_refined": groups.PredictionRefinementConfig,
}
"""By step: what the settings of every choice are."""
MADE = [
    pytest.param(step, stage, id=f"{method.group}={method.name}-{step}")
    for method in builtin.OURS
    for step, stage in method.stages.items()
]
TRAINING = [
    ({"batch_size": 0}, "batch_size=0: must be greater than 0"),
    ({"crop": 0}, "crop=0: must be greater than 0"),
    ({"seed": -1}, "seed=-1: must not be negative"),
    ({"precision": "fp8"}, "precision=fp8: 'fp8' must be one of auto, bf16, fp32"),
]
REFUSED: dict[type, list[tuple[dict[str, Any], str]]] = {
    groups.MapsNetworkConfig: [],
    groups.MapsConfig: [
        ({"scales": []}, "scales=[]: must be a list of factors greater than 0"),
        ({"scales": [1.0, 0.0]}, "scales=[1.0, 0.0]: must be a list of factors greater than 0"),
        ({"scales": [1.0, -2.0]}, "scales=[1.0, -2.0]: must be a list of factors greater than 0"),
        ({"threshold": -0.01}, "threshold=-0.01: must be in [0, 1]"),
        ({"threshold": 1.01}, "threshold=1.01: must be in [0, 1]"),
    ],
    groups.RefinementConfig: [
        ({"conf_fg": 1.5}, "conf_fg=1.5: must be in [0, 1]"),
        ({"conf_bg": -0.5}, "conf_bg=-0.5: must be in [0, 1]"),
        ({"conf_fg": 0.2, "conf_bg": 0.3}, "conf_bg=0.3: must not be above conf_fg=0.2"),
    ],
    groups.PseudoMasksConfig: [
        ({"power": 0}, "power=0: must be greater than 0"),
        ({"power": -1.3}, "power=-1.3: must be greater than 0"),
        ({"background": -0.1}, "background=-0.1: must be in [0, 1]"),
        ({"background": 1.1}, "background=1.1: must be in [0, 1]"),
    ],
    groups.ActivationConfig: [({"epochs": 0}, "epochs=0: must be greater than 0"), *TRAINING],
    groups.BoundariesConfig: [({"epochs": 0}, "epochs=0: must be greater than 0"), *TRAINING],
    groups.SegmenterConfig: [({"iterations": 0}, "iterations=0: must be greater than 0"), *TRAINING],
    groups.PredictionsConfig: [
        ({"scales": []}, "scales=[]: must be a list of factors greater than 0"),
        ({"scales": [1.0, -0.5]}, "scales=[1.0, -0.5]: must be a list of factors greater than 0"),
    ],
    groups.PredictionRefinementConfig: [],
}
"""Values that are out of range, and how the sentence about them begins."""
ACCEPTED: dict[type, list[dict[str, Any]]] = {
    groups.MapsConfig: [{"threshold": 0.0}, {"threshold": 1.0}, {"scales": [1.0]}],
    groups.RefinementConfig: [{"conf_fg": 0.3, "conf_bg": 0.3}, {"conf_fg": 1.0, "conf_bg": 0.0}],
    groups.ActivationConfig: [{"epochs": 1, "batch_size": 1, "crop": 1}],
    groups.PseudoMasksConfig: [{"background": 0.0}, {"background": 1.0}, {"power": 1e-3}],
    groups.SegmenterConfig: [{"iterations": 1, "batch_size": 1, "crop": 1, "seed": 0, "precision": "auto"}],
    groups.PredictionsConfig: [{"scales": [1.0]}],
}
"""The ends of the ranges."""


def test_the_configuration_has_a_node_for_each_step_that_a_choice_makes() -> None:
    nodes = {item.name: item.default_factory for item in dataclasses.fields(PipelineConfig)}
    assert nodes.keys() >= {step for steps in GROUPS.values() for step in steps}
    assert {step: nodes[step] for step in BASES} == BASES


def test_each_method_of_ours_is_registered_once() -> None:
    assert len(builtin.OURS) == len({(method.group, method.name) for method in builtin.OURS})
    assert all(methods.method(method.group, method.name) is method for method in builtin.OURS)


@pytest.mark.parametrize(("step", "stage"), MADE)
def test_a_choice_has_the_fields_of_its_group_and_keeps_their_ranges(step: str, stage: Stage[Any]) -> None:
    base = BASES[step]
    assert issubclass(stage.config, base)
    for kind in (base, stage.config):
        for values, sentence in REFUSED[base]:
            with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
                kind(**values)
        for values in ACCEPTED.get(base, []):
            kind(**values)


@pytest.mark.parametrize(("step", "stage"), MADE)
def test_the_settings_of_a_choice_come_back_from_a_manifest(step: str, stage: Stage[Any]) -> None:
    settings = filled(stage.config(), **SHARED)
    written = json.loads(json.dumps(affecting_result(settings)))
    back = build(stage.config, written)
    assert affecting_result(back) == affecting_result(settings)
    assert all(getattr(back, name) == getattr(settings, name) for name in written)


@pytest.mark.parametrize(("step", "stage"), MADE)
def test_only_tau_and_what_an_input_says_are_no_part_of_a_fingerprint(step: str, stage: Stage[Any]) -> None:
    known = set(affecting_result(filled(stage.config(), **SHARED)))
    hidden = {item.name for item in dataclasses.fields(stage.config)} - known
    if issubclass(stage.config, groups.MapsConfig):
        assert hidden == {"threshold", "images"}
    else:
        assert hidden == ({"images"} if issubclass(stage.config, groups.MapsNetworkConfig) else set())
