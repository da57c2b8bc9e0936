"""The typed configuration of a pipeline, and how Hydra's YAML becomes it.

Every key is a field of a dataclass that stands beside the code it configures; an unknown key, a wrong type or a value
out of range is refused before anything starts.
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

STEPS = (
    "images", "truth", "classifier", "maps_network", "maps", "refined", "amn", "amn_maps", "amn_refined", "irn",
    "pseudo_masks", "segmenter", "predictions", "predictions_refined",
)  # fmt: skip
"""What a pipeline can make, in this order; which of them it makes depends on the choices."""


@dataclass(kw_only=True)
class Choices:
    """Which method makes what. Each is set by its group (`maps=cam`), which brings the method's settings, too."""

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
    """Modules that bring methods, data sets, backbones or metrics of their own; see docs/extending.md."""
    store: str = "outputs"
    """Directory or URL of all artifacts."""
    until: str | None = None
    """The last step; null: all that the choices allow."""
    plan: bool = False
    """Print which steps there are and which would be made, and make nothing."""
    run: str | None = None
    """Begin with what was typed for this run of the store; what is typed besides it counts more."""
    rebuild: list[str] = field(default_factory=list)
    """Steps that are made anew, once by this command, with all that follows from them."""
    seed: int = 0
    """Of everything random in training."""
    precision: str = "auto"
    """auto (bf16 where the hardware computes it, else fp32), bf16 or fp32, in all networks."""
    choices: Choices = field(default_factory=Choices)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """Of all networks but the segmentation network."""
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
