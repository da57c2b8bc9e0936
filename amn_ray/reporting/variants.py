"""Which runs a page compares: those of one data set, grouped into variants.

Data sets are distinguished by the content of their tables, wherever they were read from. Runs that differ only in the
seed are one variant; settings count only if the run's choices have the step: without AMN, none of AMN's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from amn_ray.core.artifacts import Artifact
from amn_ray.core.errors import RequestError
from amn_ray.data.listing import Summary
from amn_ray.data.source import DatasetConfig
from amn_ray.recipe.config import STEPS, Choices, PipelineConfig
from amn_ray.recipe.method_names import (
    FULLY_SUPERVISED,
    LAYERS,
    is_fully_supervised,
    maps_name,
    method_name,
    segmenter_name,
)
from amn_ray.recipe.records import Run
from amn_ray.recipe.steps import steps
from amn_ray.reporting.tracked import NO_SETTINGS
from amn_ray.stages.images.stage import IMAGES
from amn_ray.stages.methods import GROUPS
from amn_ray.stages.truth.stage import TRUTH

NO_VARIANT = (*NO_SETTINGS, "plugins", "until", "seed")
NODES_OF_NO_VARIANT = ("cluster", "tracking", "dataset")
"""Settings that do not distinguish variants."""


class Seeds(NamedTuple):
    """The random seeds of a run."""

    common: int
    """Of all steps but those that have their own."""
    own: str = ""
    """Of these, in words: `segmenter 2`."""

    @classmethod
    def of(cls, run: Run) -> Seeds:
        """Those in a run's settings."""
        steps = {key.removesuffix(".seed"): seed for key, seed in run.settings.items() if key.endswith(".seed")}
        common = run.settings["seed"]
        own = [f"{step} {seed}" for step, seed in steps.items() if seed not in (None, common) and step in STEPS]
        return cls(common, ", ".join(own))

    def __str__(self) -> str:
        return f"{self.common} ({self.own})" if self.own else str(self.common)


@dataclass
class DataSet:
    """Runs on the same images and ground truth."""

    tables: dict[str, Artifact] = field(default_factory=dict)
    """Its tables, by step; a run has those that its steps need."""
    runs: list[Run] = field(default_factory=list)
    title: str = ""

    @property
    def name(self) -> str:
        """The name in the settings of its runs."""
        return self.runs[0].settings["dataset.name"]


def by_data(chosen: Sequence[Run]) -> list[DataSet]:
    """The runs by data set: no two runs of one have different tables."""
    found: list[DataSet] = []
    for run in sorted(chosen, key=lambda run: len(_tables(run)), reverse=True):
        tables = _tables(run)
        fits = (data for data in found if all(data.tables.get(step, made) == made for step, made in tables.items()))
        data = next(fits, None)
        if data is None:
            data = DataSet()
            found.append(data)
        data.tables |= tables
        data.runs.append(run)
    for data in found:
        data.runs.sort(key=chosen.index)
        same_name = [other.tables for other in found if other.name == data.name]
        marks = dict.fromkeys(
            f"{made.stage}/{made.fingerprint}"
            for step, made in data.tables.items()
            if any(tables.get(step, made) != made for tables in same_name)
        )
        data.title = f"{data.name} ({', '.join(marks)})" if marks else data.name
    return sorted(found, key=lambda data: chosen.index(data.runs[0]))


def _tables(run: Run) -> dict[str, Artifact]:
    kinds = (IMAGES.name, TRUTH.name)
    return {step: made for step, made in run.artifacts.items() if made.stage in kinds}


@dataclass
class Variant:
    """Runs that differ only in the seed."""

    settings: Mapping[str, Any]
    label: str = ""
    different: Mapping[str, Any] = field(default_factory=dict)
    """Its settings that differ from the reference."""
    runs: dict[Seeds, list[Run]] = field(default_factory=dict)
    """By seeds; several, if a later run went further."""

    @property
    def method(self) -> str:
        """The name of its final maps."""
        return method_name(self.settings)

    @property
    def maps_method(self) -> str:
        """The name of its maps before AMN."""
        return maps_name(self.settings)

    @property
    def segmenter(self) -> str:
        """The name of its segmentation network."""
        return segmenter_name(self.settings)

    @property
    def all_runs(self) -> list[Run]:
        """Of all seeds."""
        return [run for same in self.runs.values() for run in same]

    def holding(self, step: str, *, score: bool) -> dict[Seeds, Run]:
        """By seeds: a run with the step (or its score)."""
        found = {}
        for seed, candidates in sorted(self.runs.items()):
            for run in candidates:
                if step in (run.scores if score else run.artifacts):
                    found[seed] = run
                    break
        return found

    @cached_property
    def manifests(self) -> dict[str, dict[Seeds, dict[str, Any]]]:
        """Score manifests: step -> seeds -> manifest; only of steps that were scored on some image."""
        every = {
            step: {seed: run.scores[step].manifest() for seed, run in self.holding(step, score=True).items()}
            for step in in_order(run.scores for run in self.all_runs)
        }
        kept = {
            step: {seed: manifest for seed, manifest in by_seed.items() if "iou" in manifest}
            for step, by_seed in every.items()
        }
        return {step: by_seed for step, by_seed in kept.items() if by_seed}

    def of(self, step: str) -> dict[Seeds, dict[str, Any]]:
        """The manifests of a step's scores, by seeds."""
        return self.manifests.get(step, {})

    def has_maps(self, step: str) -> bool:
        """Whether the step was scored and makes maps."""
        return any("curve" in manifest for manifest in self.of(step).values())

    def values(self, step: str, metric: str) -> list[float]:
        """A score of every seed."""
        found = self.of(step).values()
        return [manifest["metrics"][metric] for manifest in found if metric in manifest["metrics"]]


def in_order(made: Iterable[Iterable[str]]) -> list[str]:
    """The steps of several runs, in an order that agrees with each run's own.

    A step that the longest run lacks follows its predecessor in another run.
    """
    found: list[str] = []
    for names in sorted(map(list, made), key=len, reverse=True):
        place = 0
        for step in names:
            if step not in found:
                found.insert(place, step)
            place = found.index(step) + 1
    return found


def step_named(name: str, run: Run) -> str:
    """A step of a run; `final_maps` and `final_refined` are AMN's if it has AMN, else the method's own."""
    own = name.removeprefix("final_")
    return f"amn_{own}" if own != name and f"amn_{own}" in run.artifacts else own


def variants_of(members: Sequence[Run]) -> list[Variant]:
    """The variants of one data set, the reference first: the paper's method, where it went furthest."""
    found: dict[str, Variant] = {}
    for run in members:
        settings = _deciding(run)
        variant = found.setdefault(str(sorted(settings.items())), Variant(settings))
        variant.runs.setdefault(Seeds.of(run), []).append(run)

    def rank(variant: Variant) -> tuple[int, int, int, int]:
        chosen = dataclasses.asdict(Choices())  # the paper's
        published = sum(variant.settings[f"choices.{group}"] == name for group, name in chosen.items())
        published += variant.settings.get("amn.lc") == list(LAYERS)
        furthest = max(len(run.artifacts) for run in variant.all_runs)
        distance = sum(len(_difference(variant, other)) for other in found.values())
        return published, furthest, len(variant.runs), -distance

    ordered = sorted(found.values(), key=rank, reverse=True)
    reference = ordered[0]
    reference.label = "reference"
    for variant in ordered[1:]:
        variant.different = _difference(variant, reference)
        variant.label = " ".join(f"{key}={text_of(value)}" for key, value in variant.different.items())
    for variant in ordered:
        if is_fully_supervised(variant.settings):
            variant.label = f"{FULLY_SUPERVISED}: {variant.label}"
    return ordered


def _difference(variant: Variant, other: Variant) -> dict[str, Any]:
    """The settings of `variant` that `other` does not have."""
    return {key: value for key, value in variant.settings.items() if value != other.settings.get(key)}


def _deciding(run: Run) -> dict[str, Any]:
    """The settings that determine a run's variant: those that affect results, of the steps that it can have."""
    choices = tuple(run.settings[f"choices.{group}"] for group in GROUPS)
    possible = _made_by(choices, None) | _made_by(choices, run.settings["until"])
    without = {*NODES_OF_NO_VARIANT, *STEPS} - possible

    def counts(key: str) -> bool:
        return not (key in NO_VARIANT or key.endswith(".seed") or key.partition(".")[0] in without)

    return {key: value for key, value in run.settings.items() if counts(key)}


@lru_cache
def _made_by(choices: Sequence[str], until: str | None) -> set[str]:
    """The steps with a stage in a pipeline with these choices, in the order of GROUPS.

    All steps, if one of the choices belongs to a plug-in that is not loaded.
    """
    config = PipelineConfig(choices=Choices(**dict(zip(GROUPS, choices, strict=True))), until=until)
    any_data = Summary(
        config=DatasetConfig(), split="", classes=(), rows=1, masks=1, evaluated=1, unlabelled=0, unknown_classes={},
        warnings=(), digest="", truth_digest="",
    )  # fmt: skip
    try:
        made = steps(config, {"train": any_data, "val": any_data})
    except RequestError:
        return set(STEPS)
    return {step.name for step in made if step.stage is not None}


def text_of(value: Any) -> str:
    """A value as it is written on the command line."""
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def only(variants: Iterable[Variant], keys: set[str], fits: Callable[[Mapping[str, Any]], bool]) -> Variant | None:
    """The variant that differs from the reference only in `keys`, and fits."""
    return next((v for v in variants if v.different.keys() <= keys and fits(v.settings)), None)
