"""What happens while a pipeline runs, for those who watch: values that tell all that an observer may need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amn_ray.core.artifacts import Artifact


@dataclass(frozen=True, kw_only=True)
class RunBegan:
    """All has been checked, nothing has been made."""

    settings: Mapping[str, Any]
    """The whole configuration, as one level of dotted keys."""


@dataclass(frozen=True, kw_only=True)
class StepBegan:
    """A step's turn has come: it will be made, or is there."""

    step: str
    artifact: Artifact
    settings: Mapping[str, Any]
    """Those that decide its result, as one level of dotted keys."""


@dataclass(frozen=True, kw_only=True)
class StepWaits:
    """Another run makes just this."""

    step: str
    artifact: Artifact


@dataclass(frozen=True, kw_only=True)
class StepIsMade:
    """Nobody has made it: work begins."""

    step: str
    artifact: Artifact


@dataclass(frozen=True, kw_only=True)
class Warned:
    """Something that the user should know."""

    step: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class StepEnded:
    """It is there."""

    step: str
    artifact: Artifact
    reused: bool
    manifest: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a step made was compared with the ground truth."""

    step: str
    artifact: Artifact
    """The score's own."""
    manifest: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunEnded:
    """All steps are there."""

    artifacts: Mapping[str, Artifact]
    """By step."""
    scores: Mapping[str, Artifact]
    """By step that was scored."""
    manifests: Mapping[str, Mapping[str, Any]]
    """Of both: by step, and by `<step>_score`."""
    summary: Mapping[str, Mapping[str, float]]
    """Step -> metric -> value."""


@dataclass(frozen=True, kw_only=True)
class RunFailed:
    """It ended before its last step."""

    interrupted: bool
    """By the user or by a signal, and not by an error."""


Event = RunBegan | StepBegan | StepWaits | StepIsMade | Warned | StepEnded | Scored | RunEnded | RunFailed


class Observer:
    """Watches a pipeline; does nothing but what it overrides."""

    def notify(self, event: Event) -> None:
        """Called for each event, in the order in which they happen."""

    def callbacks(self, step: str) -> Sequence[Any]:
        """Ray Train's callbacks for a training that is about to begin; they travel to its controller."""
        return ()

    def probe(self, step: str, settings: Any, artifacts: Mapping[str, Artifact]) -> Any:
        """What measures the network of a training that is about to begin, after each epoch; None for nothing.

        Args:
            step: that trains.
            settings: its own.
            artifacts: what the steps before have made.
        """
        return None
