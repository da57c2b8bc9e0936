"""The typed configuration of a pipeline.

Every key is a field of a dataclass next to the code it configures; unknown keys, wrong types and values out of range
are rejected before anything starts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from amn_ray.core.checks import check_choice, check_not_negative
from amn_ray.data.source import DatasetConfig
from amn_ray.nn.config import BackboneConfig
from amn_ray.nn.precision import PRECISIONS
from amn_ray.platform.cluster import ClusterConfig
from amn_ray.platform.tracking_config import TrackingConfig
from amn_ray.stages.classifier.config import ClassifierConfig
from amn_ray.stages.groups import (
    ActivationConfig,
    BoundariesConfig,
    MapsConfig,
    MapsNetworkConfig,
    PredictionRefinementConfig,
    PredictionsConfig,
    PseudoMasksConfig,
    RefinementConfig,
    SegmenterConfig,
)
from amn_ray.training.config import check_decay

STEPS = (
    "images", "truth", "classifier", "maps_network", "maps", "refined", "amn", "amn_maps", "amn_refined", "irn",
    "pseudo_masks", "segmenter", "predictions", "predictions_refined",
)  # fmt: skip
"""All possible steps, in order; the choices decide which of them a pipeline has."""


@dataclass(kw_only=True)
class Choices:
    """The method of each group, set as `maps=cam`, which also loads the method's settings."""

    maps: str = "cam"
    refinement: str = "crf"
    activation: str = "amn"
    boundaries: str = "irn"
    segmenter: str = "deeplabv2"
    prediction_refinement: str = "crf"


@dataclass(kw_only=True)
class PipelineConfig:
    """Options of `jobs/pipeline.py`."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    plugins: list[str] = field(default_factory=list)
    """Modules with additional methods, data sets, backbones or metrics; see docs/extending.md."""
    store: str = "outputs"
    """Directory or URL of all artifacts."""
    until: str | None = None
    """The last step; null: all that the choices allow."""
    plan: bool = False
    """Print the steps and the state of their artifacts, and run nothing."""
    run: str | None = None
    """Repeat the overrides of this run of the store; other overrides given take precedence."""
    rebuild: list[str] = field(default_factory=list)
    """Steps to rebuild, once by this command, with all steps that depend on them."""
    seed: int = 0
    """The random seed of all training."""
    precision: str = "auto"
    """auto (bf16 where the hardware supports it, else fp32), bf16 or fp32, in all networks."""
    ema: float | None = None
    """The decay of averaged weights, in all training, such as 0.999; null: no averages."""
    choices: Choices = field(default_factory=Choices)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The backbone of all networks except the segmentation network."""
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    maps_network: MapsNetworkConfig = field(default_factory=MapsNetworkConfig)
    maps: MapsConfig = field(default_factory=MapsConfig)
    refined: RefinementConfig = field(default_factory=RefinementConfig)
    amn: ActivationConfig = field(default_factory=ActivationConfig)
    amn_maps: MapsConfig = field(default_factory=MapsConfig)
    amn_refined: RefinementConfig = field(default_factory=RefinementConfig)
    irn: BoundariesConfig = field(default_factory=BoundariesConfig)
    pseudo_masks: PseudoMasksConfig = field(default_factory=PseudoMasksConfig)
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    predictions: PredictionsConfig = field(default_factory=PredictionsConfig)
    predictions_refined: PredictionRefinementConfig = field(default_factory=PredictionRefinementConfig)

    def __post_init__(self) -> None:
        check_choice(self, "until", STEPS)
        check_choice(self, "precision", PRECISIONS)
        check_not_negative(self, "seed")
        check_decay(self)
