"""Which artifacts a pipeline will make or use: known before anything is made, without Ray and MLflow."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from amn_ray.core.artifacts import Artifact, Store
from amn_ray.core.settings import completed, deciding
from amn_ray.data.listing import Summary
from amn_ray.nn.config import BackboneConfig
from amn_ray.platform.hardware import Hardware
from amn_ray.recipe.config import PipelineConfig
from amn_ray.recipe.steps import GIVEN, Step, steps
from amn_ray.stages.score.config import ScoreConfig
from amn_ray.stages.score.stage import OF_MAPS, OF_MASKS, SCORE


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A step, with everything that decides what it makes."""

    step: Step
    settings: Any
    """The step's own, with all that it takes from the pipeline filled in; bf16 or fp32, never auto."""
    inputs: Mapping[str, Artifact]
    artifact: Artifact
    score: Scoring | None
    """How it is scored."""

    @property
    def name(self) -> str:
        """The step's."""
        return self.step.name

    @property
    def metrics(self) -> tuple[str, ...]:
        """What it reports if there is ground truth."""
        own = () if self.step.stage is None else (*self.step.stage.metrics, "seconds")
        return (*own, *(self.score.metrics if self.score else ()))


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """The comparison of maps or masks with the ground truth."""

    settings: ScoreConfig
    inputs: Mapping[str, Artifact]
    artifact: Artifact

    @property
    def metrics(self) -> tuple[str, ...]:
        """What it reports."""
        return OF_MAPS if "maps" in self.inputs else OF_MASKS


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
        return {f"{planned.name}/{metric}" for planned in self.steps for metric in planned.metrics}


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
    else:
        settings = _resolved(step, config, hardware)
        with step.named_errors():
            identity = step.stage.identity(settings)
        artifact = store.artifact(step.stage.name, step.stage.version, identity, inputs)
        makes = step.stage.makes
    score = None
    if step.truth is not None:
        score = _scoring(artifact, makes, made[step.truth], store, step.threshold)
    return Planned(step=step, settings=settings, inputs=inputs, artifact=artifact, score=score)


def _scoring(artifact: Artifact, makes: str, truth: Planned, store: Store, threshold: float | None) -> Scoring:
    settings = ScoreConfig(threshold=threshold)
    inputs = {"images": truth.inputs["images"], "truth": truth.artifact, makes: artifact}
    return Scoring(
        settings=settings,
        inputs=inputs,
        artifact=store.artifact(SCORE.name, SCORE.version, deciding(settings), inputs),
    )


def _resolved(step: Step, config: PipelineConfig, hardware: Hardware) -> Any:
    """The settings of a step, with those of the pipeline where its own are null."""
    if not dataclasses.is_dataclass(step.settings) or isinstance(step.settings, Summary | BackboneConfig):
        return step.settings
    settings: Any = completed(step.settings, seed=config.seed, precision=config.precision, backbone=config.backbone)
    changed: dict[str, Any] = {}
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if item.name == "precision" and value == "auto":
            changed[item.name] = hardware.precision
        if isinstance(value, BackboneConfig) and value.weights is not None:
            changed[item.name] = dataclasses.replace(value, weights=GIVEN)  # they are an input, known by their content
    return dataclasses.replace(settings, **changed)
