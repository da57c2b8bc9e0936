"""The classifier: images → network weights."""

from __future__ import annotations

from collections.abc import Mapping

from amn_ray.core.artifacts import Artifact
from amn_ray.data.pixels import Pixels
from amn_ray.stages.classifier.config import ClassifierConfig
from amn_ray.stages.classifier.example import ClassifierExample
from amn_ray.stages.stage import Context, Result, Stage
from amn_ray.training.job import TRAINING_METRICS


def run(config: ClassifierConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Train on the labels of all images. Without `backbone` training starts from random weights."""
    # Imported here: a pipeline that finds everything in the store never needs PyTorch.
    from amn_ray.training.driver import train

    images = inputs["images"]
    manifest = images.manifest()
    num_classes = len(manifest["classes"])
    return train(
        _train_worker,
        config,
        output,
        context.cluster,
        sources=[(images, ("image", "labels"))],
        example=ClassifierExample(config, num_classes, Pixels.of(manifest)),
        num_classes=num_classes,
        backbone=inputs.get("backbone"),
        epochs=config.epochs,
        callbacks=context.callbacks,
        probe=context.probe,
    )


def _train_worker(settings: dict) -> None:
    from amn_ray.stages.classifier.train import train_worker  # on the worker: torchvision costs the driver seconds

    train_worker(settings)


CLASSIFIER = Stage(
    name="classifier",
    version=1,
    config=ClassifierConfig,
    makes="weights",
    needs=("images",),
    optional=("backbone",),
    metrics=TRAINING_METRICS,
    run=run,
)
