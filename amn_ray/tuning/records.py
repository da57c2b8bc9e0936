"""Records of a study's trials: a small JSON file for each, written when it starts and when it ends.

A study that is started again reads them, and does not repeat finished, stopped or failed trials.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amn_ray.core.artifacts import fingerprint
from amn_ray.core.folders import Folder
from amn_ray.tuning.study import Trial

STATES = ("finished", "stopped", "failed")


@dataclass(frozen=True, kw_only=True)
class Record:
    """The record of one trial."""

    group: str
    settings: Mapping[str, Any]
    seed: int
    """For these three fields see study.Trial."""
    state: str
    """running (or its process died), finished, stopped (early, by ASHA) or failed."""
    started: float
    chosen: Mapping[str, Any]
    """The values that the search chose."""
    objective: float | None = None
    """The study's metric; if the trial was stopped, the last epoch's probe instead."""
    epoch: int | None = None
    """If the trial was stopped: after which epoch."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    run: str | None = None
    """The name of its folder in the store's `runs/`."""
    tracked: bool = True
    """Whether all of it is in MLflow."""
    error: str | None = None
    repeats: int = 1
    """How often the search chose exactly this trial."""

    @property
    def trial(self) -> Trial:
        return Trial(self.group, self.settings, self.seed)

    @property
    def ended(self) -> bool:
        return self.state in STATES


class Records:
    """The records of a study, in a folder that its trials can write to."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def begin(self, trial: Trial, chosen: Mapping[str, Any]) -> None:
        """Record that a trial starts; one that was already finished or stopped counts once more."""
        previous = self.of(trial) if self.folder.exists(_name(trial)) else None
        chosen_again = previous is not None and previous.state in ("finished", "stopped") and previous.tracked
        repeats = 1 if previous is None else previous.repeats + chosen_again
        self._write(
            Record(
                group=trial.group, settings=trial.settings, seed=trial.seed, state="running", started=time.time(),
                chosen=chosen, repeats=repeats,
            )
        )  # fmt: skip

    def end(self, trial: Trial, state: str, **result: Any) -> None:
        """Record that a trial ends."""
        self._write(dataclasses.replace(self.of(trial), state=state, **result))

    def of(self, trial: Trial) -> Record:
        """The record of a trial that has begun."""
        return Record(**json.loads(self.folder.read(_name(trial))))

    def all(self) -> list[Record]:
        """All records, in the order in which the trials started."""
        names = [entry.base_name for entry in self.folder.entries() if entry.base_name.endswith(".json")]
        found = [Record(**json.loads(self.folder.read(name))) for name in names]
        return sorted(found, key=lambda record: record.started)

    def _write(self, record: Record) -> None:
        content = json.dumps(dataclasses.asdict(record), indent=2).encode()
        self.folder.write(_name(record.trial), content)


def _name(trial: Trial) -> str:
    return f"{fingerprint(trial.label)}.json"
