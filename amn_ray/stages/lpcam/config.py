"""Settings of LPCAM; τ, and the thresholds of the seeds made from its maps, are in lpcam.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field

from amn_ray.core.checks import check_choice, check_fraction, check_positive, check_scales
from amn_ray.core.settings import shared
from amn_ray.nn.precision import PRECISIONS
from amn_ray.stages.groups import MapsConfig, MapsNetworkConfig


@dataclass(kw_only=True)
class LpcamPrototypesConfig(MapsNetworkConfig):
    """Clustering of the classifier's features into prototypes of each class."""

    seed: int | None = shared()
    """Of the sample of images and features, and of where the clustering starts."""
    precision: str | None = shared()
    """Of the CAMs; the features that are clustered are always float32."""
    scales: list[float] = field(default_factory=lambda: [1.0, 0.5, 1.5, 2.0])
    """Of the CAMs, which tell the features of a class from the others of its images."""
    images_per_class: int | None = None
    """So many images are drawn for each class, with replacement; null: all of them."""
    sample: int = 2000
    """The largest number of features of each class, and of the others of its images, that are clustered."""
    region: float = 0.10
    """Features are of the class where its CAM is above this, and of its context where it is below."""
    clusters: int = 12
    own: float = 0.9
    """A centre is a prototype where the classifier gives the class a higher probability."""
    context: list[float] = field(default_factory=lambda: [0.05, 0.9])
    """A centre of the context counts where that probability is between these two; 0 is no lower bound."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "precision", PRECISIONS)
        check_scales(self)
        check_positive(self, "sample", "clusters")
        check_fraction(self, "region", "own")
        if self.images_per_class is not None:
            check_positive(self, "images_per_class")
        if len(self.context) != 2 or not 0 <= self.context[0] < self.context[1] <= 1:
            raise ValueError(f"context={self.context}: must be [lowest, highest] in [0, 1]")


@dataclass(kw_only=True)
class LpcamMapsConfig(MapsConfig):
    """Multi-scale maps."""

    precision: str | None = shared()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "precision", PRECISIONS)
