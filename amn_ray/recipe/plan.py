"""Which artifacts a pipeline will make or use: known before anything is made, without Ray and MLflow."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from amn_ray.core.artifacts import Artifact, Store
from amn_ray.core.settings import affecting_result, chosen_modules, filled
from amn_ray.data.listing import Summary
from amn_ray.nn.config import BackboneConfig
from amn_ray.platform.hardware import Hardware
from amn_ray.recipe.config import PipelineConfig
from amn_ray.recipe.steps import GIVEN, Step, steps
from amn_ray.stages.classifier.config import LabelScoreConfig
from amn_ray.stages.classifier.stage import LABEL_SCORE
from amn_ray.stages.score.stage import SCORE, score_names
from amn_ray.stages.score.stage import settings as score_settings
from amn_ray.stages.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A step, with everything that decides what it makes."""

    step: Step
    settings: Any
    """The step's own, with all that it takes from the pipeline filled in; bf16 or fp32, never auto."""
    inputs: Mapping[str, Artifact]
    artifact: Artifact
    chosen: frozenset[str]
    """Modules that the settings choose, and those of the networks that it uses."""
    score: Scoring | None
    """How it is scored."""

    @property
    def name(self) -> str:
        """The step's."""
        return self.step.name

    @property
    def modules(self) -> tuple[str, ...]:
        """Whose code makes it, with all that they import (see core.code)."""
        return () if self.step.stage is None else (self.step.stage.run.__module__, *sorted(self.chosen))

    @property
    def metrics(self) -> tuple[str, ...]:
        """What it reports if there is ground truth."""
        own = () if self.step.stage is None else (*self.step.stage.metrics, "seconds")
        return (*own, *(self.score.metrics if self.score else ()))


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """The comparison of maps or masks with the ground truth, or of a classifier with labels."""

    stage: Stage[Any]
    settings: Any
    inputs: Mapping[str, Artifact]
    artifact: Artifact
    chosen: frozenset[str]
    """See Planned."""
    metrics: tuple[str, ...]
    """What it reports."""

    @property
    def modules(self) -> tuple[str, ...]:
        """See Planned."""
        return (self.stage.run.__module__, *sorted(self.chosen))


class State(Enum):
    """Of a step's artifact, in words for the reader."""

    THERE = "there"
    MISSING = "to be made"
    ANEW = "to be made anew"


@dataclass(frozen=True)
class Plan:
    """The steps of a pipeline, in the order in which they are made."""

    config: PipelineConfig
    steps: tuple[Planned, ...]

    def __iter__(self) -> Iterator[Planned]:
        return iter(self.steps)

    def get(self, name: str) -> Planned | None:
        """The step of that name, if it is part of the plan."""
        return next((planned for planned in self.steps if planned.name == name), None)

    def metric_names(self) -> set[str]:
        """What the pipeline reports: `<step>/<metric>`."""
        named = {planned.name: planned for planned in self.steps}
        named |= {name: named[step] for name, step in self.finals().items()}
        return {f"{name}/{metric}" for name, planned in named.items() for metric in planned.metrics}

    def states(self) -> dict[str, State]:
        """What would become of each step: reads the manifests, and makes nothing."""
        found: dict[str, State] = {}
        ids: dict[str, str | None] = {}
        for planned in self.steps:
            state, ids[planned.name] = self._state(planned, found, ids)
            found[planned.name] = state
        return found

    def _state(
        self, planned: Planned, states: Mapping[str, State], ids: Mapping[str, str | None]
    ) -> tuple[State, str | None]:
        step = planned.step
        if step.stage is None:
            assert step.same_as is not None
            return states[step.same_as], ids[step.same_as]
        if not planned.artifact.complete:
            return State.MISSING, None
        if planned.name in self.config.rebuild:
            return State.ANEW, None
        inputs = {part: ids[source] for part, source in step.inputs.items()}
        manifest = planned.artifact.manifest()
        return (State.THERE, manifest["id"]) if manifest.get("input_ids") == inputs else (State.ANEW, None)

    def finals(self) -> dict[str, str]:
        """`final_maps` and `final_refined`, which studies and the paper's figures compare: AMN's if there is AMN, else
        the method's own.
        """
        there = {planned.name for planned in self.steps}
        pairs = {"final_maps": ("amn_maps", "maps"), "final_refined": ("amn_refined", "refined")}
        found = {name: [step for step in steps if step in there] for name, steps in pairs.items()}
        return {name: steps[0] for name, steps in found.items() if steps}


def make_plan(config: PipelineConfig, splits: Mapping[str, Summary], store: Store, hardware: Hardware) -> Plan:
    """The plan of a pipeline.

    Args:
        config: all settings.
        splits: the listed data set.
        store: where artifacts are.
        hardware: what the networks will run on.

    Raises:
        RequestError: the choices do not fit one another, or a file of weights is not there.
    """
    made: dict[str, Planned] = {}
    for step in steps(config, splits):
        made[step.name] = _planned(step, config, made, store, hardware)
    return Plan(config, tuple(made.values()))


def _planned(
    step: Step, config: PipelineConfig, made: Mapping[str, Planned], store: Store, hardware: Hardware
) -> Planned:
    inputs = {part: made[source].artifact for part, source in step.inputs.items()}
    if step.stage is None:
        assert step.same_as is not None
        settings, artifact = None, made[step.same_as].artifact
        kind = made[step.same_as].step.stage
        makes = "masks" if kind is None else kind.makes
        chosen = made[step.same_as].chosen
    else:
        settings = _resolved(step, config, hardware)
        with step.named_errors():
            identity = step.stage.identity(settings)
        artifact = store.artifact(step.stage.name, step.stage.version, identity, inputs)
        makes = step.stage.makes
        networks = [made[source] for source in step.inputs.values() if _makes_weights(made[source].step)]
        chosen = frozenset(chosen_modules(settings)).union(*(network.chosen for network in networks))
    score = None
    if step.truth is not None:
        truth = made[step.truth]
        sources = {"images": truth.inputs["images"], "truth": truth.artifact, makes: artifact}
        names = score_names(of_maps=makes == "maps", of_all=truth.settings.masks > truth.settings.evaluated)
        score = _scoring(SCORE, score_settings(step.threshold), sources, store, names)
    elif step.judges is not None:
        precision = getattr(settings, "precision", None)
        sources = {"images": made[step.judges].artifact, "classifier": artifact}
        score = _scoring(LABEL_SCORE, LabelScoreConfig(precision=precision), sources, store, LABEL_SCORE.metrics)
        score = dataclasses.replace(score, chosen=chosen)
    return Planned(step=step, settings=settings, inputs=inputs, artifact=artifact, chosen=chosen, score=score)


def _makes_weights(step: Step) -> bool:
    return step.stage is not None and step.stage.makes == "weights"


def _scoring(
    stage: Stage[Any], settings: Any, inputs: Mapping[str, Artifact], store: Store, metrics: tuple[str, ...]
) -> Scoring:
    return Scoring(
        stage=stage,
        settings=settings,
        inputs=inputs,
        artifact=store.artifact(stage.name, stage.version, affecting_result(settings), inputs),
        chosen=frozenset(chosen_modules(settings)),
        metrics=metrics,
    )


def _resolved(step: Step, config: PipelineConfig, hardware: Hardware) -> Any:
    """The settings of a step, with those of the pipeline where its own are null."""
    if not dataclasses.is_dataclass(step.settings) or isinstance(step.settings, Summary | BackboneConfig):
        return step.settings
    settings: Any = filled(step.settings, seed=config.seed, precision=config.precision, backbone=config.backbone)
    changed: dict[str, Any] = {}
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if item.name == "precision" and value == "auto":
            changed[item.name] = hardware.precision
        if isinstance(value, BackboneConfig) and value.weights is not None:
            changed[item.name] = dataclasses.replace(value, weights=GIVEN)  # they are an input, known by their content
    return dataclasses.replace(settings, **changed)
