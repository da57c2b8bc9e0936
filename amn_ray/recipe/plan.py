"""Which artifacts a pipeline will build or reuse: planned before anything runs, without Ray and MLflow."""

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
    """A step, with everything that determines its result."""

    step: Step
    settings: Any
    """The step's settings, with those shared with the pipeline filled in; precision is bf16 or fp32, never auto."""
    inputs: Mapping[str, Artifact]
    artifact: Artifact
    chosen: frozenset[str]
    """Modules that the settings select, and those of the networks that it uses."""
    score: Scoring | None
    """How it is scored."""

    @property
    def name(self) -> str:
        """The step's name."""
        return self.step.name

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules whose code, with all that they import, makes it (see core.code)."""
        return () if self.step.stage is None else (self.step.stage.code, *sorted(self.chosen))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that it reports if there is ground truth."""
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
    """The metrics that it reports."""

    @property
    def modules(self) -> tuple[str, ...]:
        """See Planned."""
        return (self.stage.code, *sorted(self.chosen))


class State(Enum):
    """The state of a step's artifact, as shown to users."""

    EXISTS = "exists"
    MISSING = "missing"
    REBUILD = "to rebuild"


@dataclass(frozen=True)
class Plan:
    """The steps of a pipeline, in execution order."""

    config: PipelineConfig
    steps: tuple[Planned, ...]

    def __iter__(self) -> Iterator[Planned]:
        return iter(self.steps)

    def get(self, name: str) -> Planned | None:
        """The step of that name, if it is part of the plan."""
        return next((planned for planned in self.steps if planned.name == name), None)

    def metric_names(self) -> set[str]:
        """The metrics that the pipeline reports: `<step>/<metric>`."""
        named = {planned.name: planned for planned in self.steps}
        named |= {name: named[step] for name, step in self.finals().items()}
        return {f"{name}/{metric}" for name, planned in named.items() for metric in planned.metrics}

    def states(self) -> dict[str, State]:
        """The state of each step's artifact, from the manifests; nothing runs."""
        states: dict[str, State] = {}
        ids: dict[str, str | None] = {}
        for planned in self.steps:
            state, ids[planned.name] = self._state(planned, states, ids)
            states[planned.name] = state
        return states

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
            return State.REBUILD, None
        inputs = {part: ids[source] for part, source in step.inputs.items()}
        manifest = planned.artifact.manifest()
        return (State.EXISTS, manifest["id"]) if manifest.get("input_ids") == inputs else (State.REBUILD, None)

    def finals(self) -> dict[str, str]:
        """`final_maps` and `final_refined`, which studies and the paper's figures compare: AMN's if there is AMN, else
        those of the maps method.
        """
        planned_names = {planned.name for planned in self.steps}
        pairs = {"final_maps": ("amn_maps", "maps"), "final_refined": ("amn_refined", "refined")}
        present = {name: [step for step in steps if step in planned_names] for name, steps in pairs.items()}
        return {name: steps[0] for name, steps in present.items() if steps}


def make_plan(config: PipelineConfig, splits: Mapping[str, Summary], store: Store, hardware: Hardware) -> Plan:
    """The plan of a pipeline.

    Args:
        config: all settings.
        splits: the listed data set.
        store: where artifacts are.
        hardware: what the networks will run on.

    Raises:
        RequestError: the choices do not fit together, or a weights file is missing.
    """
    earlier: dict[str, Planned] = {}
    for step in steps(config, splits):
        earlier[step.name] = _planned(step, config, earlier, store, hardware)
    return Plan(config, tuple(earlier.values()))


def _planned(
    step: Step, config: PipelineConfig, earlier: Mapping[str, Planned], store: Store, hardware: Hardware
) -> Planned:
    inputs = {part: earlier[source].artifact for part, source in step.inputs.items()}
    if step.stage is None:
        assert step.same_as is not None
        settings, artifact = None, earlier[step.same_as].artifact
        kind = earlier[step.same_as].step.stage
        makes = "masks" if kind is None else kind.makes
        chosen = earlier[step.same_as].chosen
    else:
        settings = _resolved(step, config, hardware)
        with step.named_errors():
            identity = step.stage.identity(settings)
        artifact = store.artifact(step.stage.name, step.stage.version, identity, inputs)
        makes = step.stage.makes
        networks = [earlier[source] for source in step.inputs.values() if _makes_weights(earlier[source].step)]
        chosen = frozenset(chosen_modules(settings)).union(*(network.chosen for network in networks))
    score = None
    if step.truth is not None:
        truth = earlier[step.truth]
        sources = {"images": truth.inputs["images"], "truth": truth.artifact, makes: artifact}
        names = score_names(of_maps=makes == "maps", of_all=truth.settings.masks > truth.settings.evaluated)
        score = _scoring(SCORE, score_settings(step.threshold), sources, store, names)
    elif step.judges is not None:
        precision = getattr(settings, "precision", None)
        sources = {"images": earlier[step.judges].artifact, "classifier": artifact}
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
    """The settings of a step, with the pipeline's where its own are null."""
    if not dataclasses.is_dataclass(step.settings) or isinstance(step.settings, Summary | BackboneConfig):
        return step.settings
    settings: Any = filled(
        step.settings, seed=config.seed, precision=config.precision, ema=config.ema, backbone=config.backbone
    )
    changed: dict[str, Any] = {}
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if item.name == "precision" and value == "auto":
            changed[item.name] = hardware.precision
        if isinstance(value, BackboneConfig) and value.weights is not None:
            changed[item.name] = dataclasses.replace(value, weights=GIVEN)  # they are an input, identified by content
    return dataclasses.replace(settings, **changed)
