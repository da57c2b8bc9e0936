"""DeepLabv2: images and pseudo-masks → network weights; with these, images → predictions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amn_ray.core.artifacts import Artifact
from amn_ray.core.errors import RequestError
from amn_ray.core.settings import affecting_result
from amn_ray.data.pixels import Pixels
from amn_ray.nn.config import has_own_strides
from amn_ray.platform.mapping import MAPPING_METRICS
from amn_ray.stages import segmentation
from amn_ray.stages.deeplabv2.config import DeepLabConfig, DeepLabPredictionsConfig
from amn_ray.stages.deeplabv2.example import OUTPUT_STRIDE, DeepLabExample
from amn_ray.stages.deeplabv2.infer import open_network
from amn_ray.stages.methods import Method
from amn_ray.stages.stage import Context, Result, Stage
from amn_ray.training.job import TRAINING_METRICS


def identity(config: DeepLabConfig) -> Mapping[str, Any]:
    """The settings that affect the result.

    Raises:
        RequestError: the backbone cannot have DeepLabv2's output stride.
    """
    name = config.backbone.name
    if has_own_strides(name):
        raise RequestError(
            f"segmenter.backbone.name={name}: DeepLabv2 needs features of stride {OUTPUT_STRIDE}, which transformers "
            "do not have; set segmenter=smp (segmenter.arch=segformer or upernet), or segmenter.backbone.name and "
            ".weights, as to resnet101 and pretrained"
        )
    return affecting_result(config)


def train_network(config: DeepLabConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Train on the pseudo-masks. Without `backbone` training starts from random weights."""
    example = DeepLabExample(config, Pixels.of(inputs["images"].manifest()))
    return segmentation.train_on_masks(
        _train_worker, config, inputs, output, context, example=example, start=inputs.get("backbone")
    )


def predict_images(
    config: DeepLabPredictionsConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context
) -> Result:
    """Predict all images."""
    return segmentation.predict_images(open_network, config, inputs, output, context)


def title(settings: Mapping[str, Any]) -> str:
    """DeepLabv2 with its backbone."""
    return f"DeepLabv2 {settings.get('segmenter.backbone.name', '?')}"


def _train_worker(settings: dict) -> None:
    from amn_ray.stages.deeplabv2.train import train_worker  # on the worker: torchvision costs the driver seconds

    train_worker(settings)


DEEPLAB = Stage(
    name="deeplabv2",
    version=3,
    config=DeepLabConfig,
    makes="weights",
    needs=("images", "pseudo_masks"),
    optional=("backbone",),
    metrics=TRAINING_METRICS,
    run=train_network,
    identity=identity,
)
DEEPLAB_PREDICTIONS = Stage(
    name="deeplabv2_predictions",
    version=1,
    config=DeepLabPredictionsConfig,
    makes="masks",
    needs=("images", "segmenter"),
    metrics=MAPPING_METRICS,
    run=predict_images,
)
METHOD = Method(
    group="segmenter",
    name="deeplabv2",
    title=title,
    stages={"segmenter": DEEPLAB, "predictions": DEEPLAB_PREDICTIONS},
    settings=Path(__file__).with_name("deeplabv2.yaml"),
    open_network=open_network,
)
