"""ReCAM: images and the classifier → the classifier trained further, and a second one; with these → activation maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from amn_ray.core.artifacts import Artifact
from amn_ray.core.settings import build
from amn_ray.data.labelled_crop import LabelledCrop
from amn_ray.data.pixels import Pixels
from amn_ray.platform.mapping import MAPPING_METRICS
from amn_ray.stages.maps import map_images
from amn_ray.stages.methods import Method
from amn_ray.stages.recam.config import RecamMapsConfig, RecamNetworkConfig
from amn_ray.stages.recam.infer import MakeRecam
from amn_ray.stages.stage import Context, Result, Stage
from amn_ray.training.job import TRAINING_METRICS


def train_network(
    config: RecamNetworkConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context
) -> Result:
    """Train the classifier further."""
    # Imported here: a pipeline whose artifacts all exist does not need PyTorch.
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
        example=LabelledCrop(config.long_side, config.crop, num_classes, Pixels.of(manifest)),
        num_classes=num_classes,
        backbone=inputs["classifier"],
        epochs=config.epochs,
        callbacks=context.callbacks,
        probe=context.probe,
    )


def make_maps(config: RecamMapsConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Make the maps of all images."""
    weights = inputs["maps_network"]
    network = build(RecamNetworkConfig, weights.manifest()["config"])
    return map_images(
        MakeRecam, {"config": config, "network": network, "weights": weights}, inputs["images"], output, context
    )


def _train_worker(settings: dict) -> None:
    from amn_ray.stages.recam.train import train_worker  # on the worker: torchvision costs the driver seconds

    train_worker(settings)


RECAM_NETWORK = Stage(
    name="recam_network",
    version=1,
    config=RecamNetworkConfig,
    makes="weights",
    needs=("images", "classifier"),
    metrics=TRAINING_METRICS,
    run=train_network,
)
RECAM_MAPS = Stage(
    name="recam_maps",
    version=1,
    config=RecamMapsConfig,
    makes="maps",
    needs=("images", "maps_network"),
    metrics=MAPPING_METRICS,
    run=make_maps,
)
METHOD = Method(
    group="maps",
    name="recam",
    title="ReCAM",
    stages={"maps_network": RECAM_NETWORK, "maps": RECAM_MAPS},
    settings=Path(__file__).with_name("recam.yaml"),
)
