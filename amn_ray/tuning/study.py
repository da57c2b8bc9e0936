"""The settings of a study, and its trials. All are checked before anything runs, without Ray.

Every trial is a pipeline, composed by Hydra from the sweep's own configuration and a few overrides. So every key and
group can be searched, and misspelt keys and values out of range are refused as on the command line.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import MISSING

from amn_ray.core.checks import check_choice
from amn_ray.core.errors import RequestError
from amn_ray.recipe.renamed import refuse_old_key

SEARCHES = ("grid", "random", "optuna")
DISTRIBUTIONS = ("uniform", "log_uniform", "integers")
_NAME = re.compile(r"[\w-]+")
_PLAIN = re.compile(r"(?!(?:null|true|false|nan|inf)$)[a-z_./][\w./-]*", re.ASCII | re.IGNORECASE)
"""A string that Hydra reads as that string without quotes."""


@dataclass(kw_only=True)
class AshaConfig:
    """Stop trials whose AMN is not among the best so far after some epochs (asynchronous successive halving)."""

    grace: int = 1
    """Epochs that every trial gets; further decisions follow at grace × reduction, × reduction², …"""
    reduction: int = 2
    """One in this many trials continues."""

    def __post_init__(self) -> None:
        if self.grace < 1:
            raise ValueError(f"grace={self.grace}: must be at least 1")
        if self.reduction < 2:
            raise ValueError(f"reduction={self.reduction}: must be at least 2")


@dataclass(kw_only=True)
class StudyConfig:
    """A question, answered by trials that differ in a few settings."""

    name: str = MISSING
    question: str = ""
    """The question that the study answers; the title of its table."""
    cases: dict[str, Any] = field(default_factory=dict)
    """Named sets of settings, {name: {key or group: value}}; each is combined with the whole space."""
    space: dict[str, Any] = field(default_factory=dict)
    """{key or group: [value, …]}, or {key: {uniform | log_uniform | integers: [low, high]}}."""
    search: str = "grid"
    """grid: every combination; random: `num_trials` random samples; optuna: as many proposals of Optuna (TPE)."""
    num_trials: int | None = None
    metric: str = MISSING
    """`<step>/<metric>` that ranks trials and that Optuna optimises: one of the selection split, selection_…."""
    mode: str = "max"
    """max or min."""
    seeds_of: str | None = None
    """The step whose random seed varies, such as segmenter: all that comes before it is then the same in all trials;
    null: the seed of all steps."""
    columns: list[str] = field(default_factory=list)
    """Further metrics in the study's table."""
    asha: AshaConfig | None = None
    """null: never stop a trial early."""

    def __post_init__(self) -> None:
        if self.name != MISSING and not _NAME.fullmatch(self.name):
            raise ValueError(f"name={self.name}: must only contain letters, digits, _ and -")
        check_choice(self, "search", SEARCHES)
        check_choice(self, "mode", ("max", "min"))
        if self.asha is not None and (self.metric, self.mode) != ("amn_maps/selection_miou", "max"):
            raise ValueError(
                "asha: stops trials by AMN's mIoU, so it needs metric=amn_maps/selection_miou and mode=max"
            )
        for key, values in self.space.items():
            _check_space(key, values, sampled=self.search != "grid")
        for name, settings in self.cases.items():
            if not isinstance(settings, Mapping):
                raise ValueError(f"cases: {name} must be a set of settings, {{key: value}}")
            for key in settings.keys() & self.space.keys():
                raise ValueError(f"cases: {name} sets {key}, which space searches, too; keep it in one of them")
        if self.search == "grid":
            if self.num_trials is not None:
                raise ValueError("num_trials: a grid runs its whole space; set search=random or optuna")
        elif not self.num_trials or self.num_trials < 1:
            raise ValueError(f"num_trials={self.num_trials}: search={self.search} needs the number of trials")
        elif self.cases:
            raise ValueError(f"cases: only a grid has cases; with search={self.search} list the values in space")
        elif not self.space:
            raise ValueError("space: is empty, so there is nothing to search")


def _check_space(key: str, values: Any, *, sampled: bool) -> None:
    if isinstance(values, list):
        if not values:
            raise ValueError(f"space: {key} has no values")
        if len({json.dumps(value) for value in values}) < len(values):
            raise ValueError(f"space: {key} lists a value twice")
        return
    if not isinstance(values, Mapping) or len(values) != 1 or next(iter(values)) not in DISTRIBUTIONS:
        raise ValueError(f"space: {key} must be a list of values, or one of {', '.join(DISTRIBUTIONS)}: [low, high]")
    ((kind, bounds),) = values.items()
    if not sampled:
        raise ValueError(f"space: {key} is {kind}, which a grid cannot enumerate; set search=random or optuna")
    numbers = isinstance(bounds, list) and len(bounds) == 2 and all(isinstance(bound, int | float) for bound in bounds)
    if not numbers or not bounds[0] < bounds[1]:
        raise ValueError(f"space: {key} {kind}={bounds}: must be [low, high] with low below high")
    if kind == "log_uniform" and bounds[0] <= 0:
        raise ValueError(f"space: {key} log_uniform={bounds}: must be greater than 0")
    if kind == "integers" and not all(isinstance(bound, int) for bound in bounds):
        raise ValueError(f"space: {key} integers={bounds}: must be integers")


@dataclass(frozen=True)
class Trial:
    """One pipeline of a study."""

    group: str
    """The settings that distinguish it from other trials, without the seed, as text."""
    settings: Mapping[str, Any]
    """The same settings as keys (or groups) and values."""
    seed: int

    @property
    def label(self) -> str:
        return f"{self.group} seed={self.seed}".strip()

    def overrides(self, seeds_of: str | None) -> list[str]:
        """Hydra overrides; for `seeds_of` see StudyConfig."""
        return [*_as_overrides(self.settings), f"{seed_key(seeds_of)}={self.seed}"]


def seed_key(step: str | None) -> str:
    """The setting of a step's random seed; None: of that of all steps."""
    return "seed" if step is None else f"{step}.seed"


def _as_overrides(settings: Mapping[str, Any]) -> list[str]:
    """Settings as overrides on Hydra's command line."""
    return [f"{key}={_value(value)}" for key, value in settings.items()]


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(_value(item) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_value(item)}' for key, item in value.items())}}}"
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.4g}" if float(f"{value:.4g}") == value else repr(value)
    if not isinstance(value, str):
        return str(value)
    return value if _PLAIN.fullmatch(value) else QuotedString(value, Quote.single).with_quotes()


def grid(study: StudyConfig, seeds: Sequence[int]) -> list[Trial]:
    """All trials of a grid: cases × values × seeds, with the seeds of a setting next to each other."""
    values = [[(key, value) for value in choices] for key, choices in study.space.items()]
    return [
        _trial(case, settings, dict(chosen), seed)
        for case, settings in (study.cases or {"": {}}).items()
        for chosen in itertools.product(*values)
        for seed in seeds
    ]


def _trial(case: str, of_case: Mapping[str, Any], chosen: Mapping[str, Any], seed: int) -> Trial:
    group = " ".join([*([case] if case else []), *_as_overrides(chosen)])
    return Trial(group, {**of_case, **chosen}, seed)


def draws(study: StudyConfig, seed: int) -> list[Trial]:
    """All trials of a random search, drawn with `seed`."""
    rng = np.random.default_rng(seed)
    trials: dict[str, Trial] = {}
    for _ in range(study.num_trials or 0):
        values = {key: _draw(choices, rng) for key, choices in study.space.items()}
        trial = sample(study, values, seed)
        trials[trial.label] = trial
    return list(trials.values())


def _draw(choices: Any, rng: np.random.Generator) -> float | int:
    if isinstance(choices, list):
        return int(rng.integers(len(choices)))
    ((kind, (low, high)),) = choices.items()
    if kind == "integers":
        return int(rng.integers(low, high, endpoint=True))
    return float(rng.uniform(low, high) if kind == "uniform" else np.exp(rng.uniform(np.log(low), np.log(high))))


def sample(study: StudyConfig, values: Mapping[str, Any], seed: int) -> Trial:
    """The trial of sampled values; for a list, a value is an index. Numbers are rounded to four significant digits."""
    settings = {
        key: choices[values[key]] if isinstance(choices, list) else _rounded(values[key])
        for key, choices in study.space.items()
    }
    return Trial(" ".join(_as_overrides(settings)), settings, seed)


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.4g}")


def corners(study: StudyConfig, seed: int) -> list[Trial]:
    """For a Bayesian search: trials that together cover all listed values and both ends of all distributions."""
    ends = {
        key: values if isinstance(values, list) else next(iter(values.values())) for key, values in study.space.items()
    }
    longest = max(len(values) for values in ends.values())
    rows = [{key: values[min(i, len(values) - 1)] for key, values in ends.items()} for i in range(longest)]
    return [Trial(" ".join(_as_overrides(row)), row, seed) for row in rows]


def check_keys(study: StudyConfig, given: Sequence[str], groups: Sequence[str]) -> None:
    """Refuse keys that cannot be searched.

    Args:
        study: its cases and space.
        given: the overrides of the sweep's own command line.
        groups: the groups of the configuration.

    Raises:
        RequestError: a key is both searched and given, does not affect results, or cannot be searched by Optuna.
    """
    named = {override.lstrip("+~").partition("=")[0] for override in given}
    if "seed" in named:
        raise RequestError("seed: a study has several seeds; set seeds=[…] instead")
    for key in [*study.space, *(key for settings in study.cases.values() for key in settings)]:
        refuse_old_key(key)
        if key in ("seed", "seeds", seed_key(study.seeds_of)):
            raise RequestError(f"study: {key} cannot be searched; set seeds=[…]")
        if key in ("store", "cluster", "retry_failed") or key.startswith(("cluster.", "tracking.", "study.")):
            raise RequestError(f"study: {key} cannot be searched, because it does not affect results")
        if key in named:
            raise RequestError(f"{key}: is given on the command line, but the study searches it; drop one of them")
        if study.search == "optuna" and key in groups:
            raise RequestError(f"study.space: {key} is a group, which only search=grid and search=random can vary")
