"""A stage: a value that declares its inputs and its result, and the function that computes it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from amn_ray.core.artifacts import Artifact
from amn_ray.core.settings import affecting_result

if TYPE_CHECKING:
    from ray.train import UserCallback

    from amn_ray.platform.cluster import Cluster
    from amn_ray.training.job import Probe

C = TypeVar("C")
C_contra = TypeVar("C_contra", contravariant=True)
Makes = Literal["table", "weights", "maps", "masks"]
Result = dict[str, Any]
"""What a stage returns for the manifest: JSON. `metrics` is a dict of numbers; `warnings`, sentences for the user."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a stage gets besides its settings and inputs."""

    cluster: Cluster
    callbacks: Sequence[UserCallback] = ()
    """Ray Train callbacks that observe a training run."""
    probe: Probe | None = None
    """Evaluates the network after each epoch of its training."""
    warn: Callable[[str], None] = lambda sentence: None
    """Reports a warning to the user."""


class Run(Protocol[C_contra]):
    """Writes the artifact, except its manifest."""

    def __call__(
        self, config: C_contra, inputs: Mapping[str, Artifact], output: Artifact, context: Context
    ) -> Result: ...


def _accept(config: Any, manifest: Mapping[str, Any]) -> None:
    """Reuse any existing artifact."""


def _nothing(config: Any) -> Collection[str]:
    """All optional inputs are used."""
    return ()


@dataclass(frozen=True, kw_only=True)
class Stage(Generic[C]):
    """One kind of work. It reads only its inputs and writes only its output."""

    name: str
    """Also its folder in the store."""
    version: int
    """Increase it when the same settings give another result."""
    config: type[C]
    makes: Makes
    needs: tuple[str, ...]
    """The inputs without which it does not run, by their part in it: `images`, `maps`, …"""
    run: Run[C]
    optional: tuple[str, ...] = ()
    """Inputs that it uses if they exist."""
    unused: Callable[[C], Collection[str]] = field(default=_nothing)
    """The optional inputs that these settings do without."""
    metrics: tuple[str, ...] = ()
    """The metrics that it reports, besides its seconds."""
    identity: Callable[[C], Mapping[str, Any]] = field(default=affecting_result)
    """The settings that affect the result, as JSON."""
    check_reuse: Callable[[C, Mapping[str, Any]], None] = field(default=_accept)
    """(settings, manifest of an existing artifact) -> raises a RequestError if it must not be reused."""

    @property
    def code(self) -> str:
        """What makes its artifacts, as a root of core.code: the function `run`, or its module where it has no name."""
        module, name = self.run.__module__, getattr(self.run, "__qualname__", "")
        return f"{module}:{name}" if name.isidentifier() else module

    @property
    def trains(self) -> bool:
        """Whether it reports epochs."""
        return "loss" in self.metrics
