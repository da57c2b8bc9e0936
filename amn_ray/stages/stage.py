"""What a stage is: a value that says what it makes of what, and the function that makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
"""What a stage returns, for the manifest: JSON. `metrics` is a dict of numbers; `warnings`, sentences for the user."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a stage works with, besides its settings and inputs."""

    cluster: Cluster
    callbacks: Sequence[UserCallback] = ()
    """Of Ray Train, for whoever follows a training."""
    probe: Probe | None = None
    """Measures the network after each epoch of its training."""
    warn: Callable[[str], None] = lambda sentence: None
    """Tells the user something that does not stop the stage."""


class Run(Protocol[C_contra]):
    """Makes the artifact: all but its manifest."""

    def __call__(
        self, config: C_contra, inputs: Mapping[str, Artifact], output: Artifact, context: Context
    ) -> Result: ...


def _accept(config: Any, manifest: Mapping[str, Any]) -> None:
    """Whatever is in the store may be used again."""


@dataclass(frozen=True, kw_only=True)
class Stage(Generic[C]):
    """One kind of work. It reads only its inputs and writes only its output."""

    name: str
    """Of its folder in the store."""
    version: int
    """To be raised by whoever changes what the same settings make."""
    config: type[C]
    makes: Makes
    needs: tuple[str, ...]
    """The inputs without which it does not run, by their part in it: `images`, `maps`, …"""
    run: Run[C]
    optional: tuple[str, ...] = ()
    """Inputs that it uses where there are any."""
    metrics: tuple[str, ...] = ()
    """What it reports besides its seconds."""
    identity: Callable[[C], Mapping[str, Any]] = field(default=affecting_result)
    """What of the settings decides the result, as JSON."""
    check_reuse: Callable[[C, Mapping[str, Any]], None] = field(default=_accept)
    """Refuses, by a RequestError, what is in the store: (settings, manifest)."""

    @property
    def trains(self) -> bool:
        """Whether it reports epochs."""
        return "loss" in self.metrics
