"""What is known of each trial of a study: a small JSON file, written when it starts and when it ends.

A study that is started again reads them: what is finished, stopped or failed is not run again.
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
    """One trial."""

    group: str
    settings: Mapping[str, Any]
    seed: int
    """These three: see study.Trial."""
    state: str
    """running (or its process died), finished, stopped (early, by ASHA) or failed."""
    started: float
    chosen: Mapping[str, Any]
    """What the search chose."""
    objective: float | None = None
    """The study's metric; where stopped, the last epoch's probe instead."""
    epoch: int | None = None
    """Where stopped: after which epoch."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    run: str | None = None
    """Its folder in the store's `runs/`."""
    tracked: bool = True
    """Whether MLflow knows all of it."""
    error: str | None = None
    repeats: int = 1
    """How often the search chose just this."""

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
        """A trial starts; one that was finished or stopped before counts once more."""
        before = self.of(trial) if self.folder.exists(_name(trial)) else None
        again = before is not None and before.state in ("finished", "stopped") and before.tracked
        repeats = 1 if before is None else before.repeats + again
        self._write(
            Record(
                group=trial.group, settings=trial.settings, seed=trial.seed, state="running", started=time.time(),
                chosen=chosen, repeats=repeats,
            )
        )  # fmt: skip

    def end(self, trial: Trial, state: str, **result: Any) -> None:
        """A trial ends."""
        self._write(dataclasses.replace(self.of(trial), state=state, **result))

    def of(self, trial: Trial) -> Record:
        """The record of a trial that has begun."""
        return Record(**json.loads(self.folder.read(_name(trial))))

    def all(self) -> list[Record]:
        """In the order in which they started."""
        names = [entry.base_name for entry in self.folder.entries() if entry.base_name.endswith(".json")]
        found = [Record(**json.loads(self.folder.read(name))) for name in names]
        return sorted(found, key=lambda record: record.started)

    def _write(self, record: Record) -> None:
        content = json.dumps(dataclasses.asdict(record), indent=2).encode()
        self.folder.write(_name(record.trial), content)


def _name(trial: Trial) -> str:
    return f"{fingerprint(trial.label)}.json"
