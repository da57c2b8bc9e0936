"""Dense CRF: images and maps → refined seeds; images and predictions → refined predictions."""

from __future__ import annotations

from collections.abc import Mapping

from amn_ray.core.artifacts import Artifact, common_ids
from amn_ray.data.pixels import Pixels
from amn_ray.platform.mapping import MAPPING_METRICS, map_table
from amn_ray.stages.crf.config import CrfConfig, PredictionCrfConfig
from amn_ray.stages.crf.infer import COLUMNS, MakeSeed, RefinePrediction
from amn_ray.stages.methods import Method
from amn_ray.stages.stage import Context, Result, Stage


def refine_maps(config: CrfConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Refine the maps of all images."""
    images = inputs["images"]
    settings = {"config": config, "pixels": Pixels.of(images.manifest()), "maps": inputs["maps"]}
    ids = common_ids(images, inputs["maps"])
    return map_table(context.cluster, images, COLUMNS, MakeSeed, settings, output, on="cpus", ids=ids)


def refine_predictions(
    config: PredictionCrfConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context
) -> Result:
    """Refine the predictions of all images."""
    images = inputs["images"]
    settings = {"config": config, "pixels": Pixels.of(images.manifest()), "predictions": inputs["predictions"]}
    ids = common_ids(images, inputs["predictions"])
    return map_table(context.cluster, images, COLUMNS, RefinePrediction, settings, output, on="cpus", ids=ids)


CRF = Stage(
    name="crf",
    version=3,
    config=CrfConfig,
    makes="masks",
    needs=("images", "maps"),
    metrics=MAPPING_METRICS,
    run=refine_maps,
)
PREDICTION_CRF = Stage(
    name="prediction_crf",
    version=1,
    config=PredictionCrfConfig,
    makes="masks",
    needs=("images", "predictions"),
    metrics=MAPPING_METRICS,
    run=refine_predictions,
)
METHOD = Method(group="refinement", name="crf", stages={"refined": CRF, "amn_refined": CRF})
PREDICTION_METHOD = Method(group="prediction_refinement", name="crf", stages={"predictions_refined": PREDICTION_CRF})
