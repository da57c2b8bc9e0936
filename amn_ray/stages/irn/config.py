"""Settings of IRN and of its random walk; the defaults are those of docs/method.md (VOC)."""

from __future__ import annotations

from dataclasses import dataclass, field

from amn_ray.core.checks import check_choice, check_fraction, check_not_negative, check_positive, check_range
from amn_ray.core.settings import shared
from amn_ray.nn.config import BackboneConfig, OwnBackboneConfig
from amn_ray.nn.precision import PRECISIONS
from amn_ray.stages.groups import BoundariesConfig, PseudoMasksConfig


@dataclass(kw_only=True)
class IrnConfig(BoundariesConfig):
    """Training of the edge and displacement branches."""

    backbone: BackboneConfig = shared(OwnBackboneConfig)
    """name: null is the run's; a plain vision transformer, whose levels have one stride, needs another one here."""
    scale: list[float] = field(default_factory=lambda: [0.5, 1.5])
    """Training images are resized by a factor drawn from this range."""
    radius: int = 10
    """Pairs of pixels closer than this, at stride 4, are compared in training."""
    lr_edge: float = 0.1
    lr_displacement: float = 1.0
    momentum: float = 0.0
    """The released code passes the weight decay in its place (1e-4, as good as 0)."""
    weight_decay: float = 1e-4
    power: float = 0.9
    """Polynomial decay of the learning rates to 0, step by step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "lr_edge", "lr_displacement", "power")
        check_not_negative(self, "weight_decay")
        check_fraction(self, "momentum")
        check_range(self, "scale")
        if self.radius < 2:
            raise ValueError(f"radius={self.radius}: must be at least 2 (pixels of stride 4)")


@dataclass(kw_only=True)
class WalkConfig(PseudoMasksConfig):
    """The random walk that spreads maps up to the learned boundaries."""

    precision: str | None = shared()
    radius: int = 5
    """Pairs of pixels closer than this, at stride 4, exchange activation."""
    beta: float = 10
    """The exponent of affinities; larger values strengthen boundaries."""
    doublings: int = 8
    """The walk takes 2^doublings steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "beta")
        check_choice(self, "precision", PRECISIONS)
        if self.radius < 2:
            raise ValueError(f"radius={self.radius}: must be at least 2 (pixels of stride 4)")
        if not 0 <= self.doublings <= 12:
            raise ValueError(f"doublings={self.doublings}: must be in [0, 12]")
