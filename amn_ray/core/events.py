"""The events of a running pipeline, and the base class of its observers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amn_ray.core.artifacts import Artifact


@dataclass(frozen=True, kw_only=True)
class RunBegan:
    """All checks have passed; no step has begun."""

    settings: Mapping[str, Any]
    """The whole configuration, flattened to dotted keys."""


@dataclass(frozen=True, kw_only=True)
class StepBegan:
    """A step begins; its artifact may already exist."""

    step: str
    artifact: Artifact
    settings: Mapping[str, Any]
    """The settings that affect its result, flattened to dotted keys."""


@dataclass(frozen=True, kw_only=True)
class StepWaits:
    """Another run is building this artifact."""

    step: str
    artifact: Artifact


@dataclass(frozen=True, kw_only=True)
class StepIsMade:
    """The artifact is missing or stale: work begins."""

    step: str
    artifact: Artifact


@dataclass(frozen=True, kw_only=True)
class Warned:
    """A warning for the user."""

    step: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class StepEnded:
    """The step's artifact is complete."""

    step: str
    artifact: Artifact
    reused: bool
    manifest: Mapping[str, Any]
    other_code: Sequence[str] = ()
    """If reused: the modules that have changed since it was built."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A step's result was compared with the ground truth."""

    step: str
    artifact: Artifact
    """The artifact of the score."""
    manifest: Mapping[str, Any]
    other_code: Sequence[str] = ()
    """See StepEnded."""


@dataclass(frozen=True, kw_only=True)
class RunEnded:
    """All steps are complete."""

    artifacts: Mapping[str, Artifact]
    """By step."""
    scores: Mapping[str, Artifact]
    """By scored step."""
    manifests: Mapping[str, Mapping[str, Any]]
    """Those of artifacts by step, those of scores by `<step>_score`."""
    summary: Mapping[str, Mapping[str, float]]
    """Step -> metric -> value."""


@dataclass(frozen=True, kw_only=True)
class RunFailed:
    """The run ended before its last step."""

    interrupted: bool
    """Whether the user or a signal ended it, rather than an error."""


Event = RunBegan | StepBegan | StepWaits | StepIsMade | Warned | StepEnded | Scored | RunEnded | RunFailed


class Observer:
    """Receives the events of a pipeline. Subclasses override what they need."""

    def notify(self, event: Event) -> None:
        """Called for each event, in order."""

    def callbacks(self, step: str) -> Sequence[Any]:
        """Ray Train callbacks for a training run that is about to start; they are sent to its controller."""
        return ()

    def probe(self, step: str, settings: Any, artifacts: Mapping[str, Artifact]) -> Any:
        """A function that evaluates the network after each epoch of a training run that is about to start, or None.

        Args:
            step: the training step.
            settings: the step's settings.
            artifacts: those of earlier steps, by step.
        """
        return None
