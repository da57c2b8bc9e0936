"""Networks of segmentation-models-pytorch: images and pseudo-masks → weights; with these, images → predictions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amn_ray.core.artifacts import Artifact
from amn_ray.core.settings import affecting_result
from amn_ray.data.pixels import Pixels
from amn_ray.platform.mapping import MAPPING_METRICS
from amn_ray.stages import segmentation
from amn_ray.stages.methods import Method
from amn_ray.stages.smp.config import ADAMW, SGD, SmpConfig, SmpPredictionsConfig
from amn_ray.stages.smp.example import MaskedCrop
from amn_ray.stages.smp.infer import open_network
from amn_ray.stages.stage import Context, Result, Stage
from amn_ray.training.initial_weights import content_of, held_in
from amn_ray.training.job import TRAINING_METRICS


def identity(config: SmpConfig) -> Mapping[str, Any]:
    """The settings that affect the result, without those of the other optimiser; of weights the content.

    Raises:
        RequestError: there is no such file.
    """
    settings = affecting_result(config)
    settings.pop(SGD if config.optimizer == ADAMW else ADAMW)
    weights = None if config.weights is None else content_of(config.weights, "segmenter.weights")
    return {**settings, "weights": weights}


def train_network(config: SmpConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Train on the pseudo-masks."""
    example = MaskedCrop(config.scale, config.crop, Pixels.of(inputs["images"].manifest()))
    with held_in(output, config.weights, lambda: _encoder(config), "segmenter.weights", "segmenter.encoder") as start:
        return segmentation.train_on_masks(_train_worker, config, inputs, output, context, example=example, start=start)


def predict_images(
    config: SmpPredictionsConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context
) -> Result:
    """Predict all images."""
    return segmentation.predict_images(open_network, config, inputs, output, context)


def title(settings: Mapping[str, Any]) -> str:
    """The architecture with its encoder."""
    return f"{settings.get('segmenter.arch', '?')} {settings.get('segmenter.encoder', '?')}"


def _encoder(config: SmpConfig) -> Any:
    from amn_ray.stages.smp.model import SmpNet

    return SmpNet(config.arch, config.encoder, 1).backbone


def _train_worker(settings: dict) -> None:
    from amn_ray.stages.smp.train import train_worker  # on the worker: torchvision costs the driver seconds

    train_worker(settings)


SMP = Stage(
    name="smp",
    version=1,
    config=SmpConfig,
    makes="weights",
    needs=("images", "pseudo_masks"),
    metrics=TRAINING_METRICS,
    run=train_network,
    identity=identity,
)
SMP_PREDICTIONS = Stage(
    name="smp_predictions",
    version=1,
    config=SmpPredictionsConfig,
    makes="masks",
    needs=("images", "segmenter"),
    metrics=MAPPING_METRICS,
    run=predict_images,
)
METHOD = Method(
    group="segmenter",
    name="smp",
    title=title,
    stages={"segmenter": SMP, "predictions": SMP_PREDICTIONS},
    settings=Path(__file__).with_name("smp.yaml"),
    packages=("segmentation-models-pytorch", "timm"),
    open_network=open_network,
)
