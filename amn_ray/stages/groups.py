"""Settings common to all methods of a group. Recipes set these fields; methods may add their own.

A method's YAML (cam/cam.yaml, amn/amn.yaml, …) overrides the defaults: τ, conf_fg, conf_bg, power, background.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from amn_ray.core.checks import check_fraction, check_positive, check_scales
from amn_ray.core.settings import by_input, for_evaluation
from amn_ray.training.config import TrainingConfig

ALL, EVALUATED = "all", "evaluated"
"""Choices of images to make maps of."""


def check_images(config: MapsConfig | MapsNetworkConfig) -> None:
    """Reject a choice of images that is none."""
    if config.images not in (ALL, EVALUATED) and not (config.images.isdecimal() and int(config.images) > 0):
        raise ValueError(f"images={config.images}: must be {ALL}, {EVALUATED} or a positive number")


@dataclass(kw_only=True)
class MapsNetworkConfig:
    """Training of a network that a maps method has of its own."""

    images: str = by_input(ALL)
    """From which images it learns: all, evaluated (those that are scored), or a number of the evaluated ones."""

    def __post_init__(self) -> None:
        check_images(self)

    @property
    def deviations(self) -> list[str]:
        """What is shorter or longer than published, in words that become a part of the method's name."""
        return [f"learned from {self.images} images"] * self.images.isdecimal()


@dataclass(kw_only=True)
class MapsConfig:
    """Maps."""

    scales: list[float] = field(default_factory=lambda: [1.0, 0.5, 1.5, 2.0])
    """Factors of the image's size."""
    threshold: float = for_evaluation(0.15)
    """τ at which the maps are evaluated."""
    images: str = by_input(ALL)
    """Of which images: all, evaluated (those that are scored), or a number of the evaluated ones. Where it is not all,
    the pipeline ends at the seeds made of these maps."""

    def __post_init__(self) -> None:
        check_images(self)
        check_scales(self)
        check_fraction(self, "threshold")

    @property
    def deviations(self) -> list[str]:
        """See MapsNetworkConfig; scores of some of the evaluated images are no scores of the method, either."""
        count = len(self.scales)
        scales = [f"{count} scale{'s' * (count > 1)}"] * (sorted(self.scales) != sorted(type(self)().scales))
        return scales + [f"{self.images} images"] * self.images.isdecimal()


@dataclass(kw_only=True)
class RefinementConfig:
    """From maps to refined seeds, at two thresholds."""

    conf_fg: float = 0.30
    """τ of the run that determines the foreground."""
    conf_bg: float = 0.05
    """τ of the run that determines, together with the other one, the background."""

    def __post_init__(self) -> None:
        check_fraction(self, "conf_fg", "conf_bg")
        if self.conf_bg > self.conf_fg:
            raise ValueError(
                f"conf_bg={self.conf_bg}: must not be above conf_fg={self.conf_fg}, or sure background would reach "
                "into sure foreground"
            )


@dataclass(kw_only=True)
class ActivationConfig(TrainingConfig):
    """Training of the network that manipulates the activation of maps."""

    epochs: int = 5
    batch_size: int = 16
    crop: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "epochs")


@dataclass(kw_only=True)
class BoundariesConfig(TrainingConfig):
    """Training of the network that finds boundaries."""

    epochs: int = 3
    batch_size: int = 32
    crop: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "epochs")


@dataclass(kw_only=True)
class PseudoMasksConfig:
    """From maps to masks to train on."""

    power: float = 1.0
    """The exponent of the maps before they are spread."""
    background: float = 0.25
    """The score of the background."""

    def __post_init__(self) -> None:
        check_positive(self, "power")
        check_fraction(self, "background")


@dataclass(kw_only=True)
class SegmenterConfig(TrainingConfig):
    """Training of the segmentation network."""

    iterations: int = 20_000
    """Optimizer steps."""
    batch_size: int = 10
    crop: int = 321

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "iterations")


@dataclass(kw_only=True)
class PredictionsConfig:
    """Predictions of the segmentation network."""

    scales: list[float] = field(default_factory=lambda: [1.0, 0.75, 0.5])
    """Factors of the image's size at which the network sees it."""

    def __post_init__(self) -> None:
        check_scales(self)


@dataclass(kw_only=True)
class PredictionRefinementConfig:
    """From predictions to refined ones."""
