"""SEAM: images → a network whose maps agree in two views; with it → activation maps."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from amn_ray.core.artifacts import Artifact
from amn_ray.core.settings import build
from amn_ray.data.labelled_crop import LabelledCrop
from amn_ray.data.pixels import Pixels
from amn_ray.platform.mapping import MAPPING_METRICS
from amn_ray.stages.maps import map_images
from amn_ray.stages.methods import Method, on_backbone
from amn_ray.stages.seam.config import SeamMapsConfig, SeamNetworkConfig
from amn_ray.stages.seam.infer import MakeSeam
from amn_ray.stages.stage import Context, Result, Stage
from amn_ray.training.job import TRAINING_METRICS


def train_network(
    config: SeamNetworkConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context
) -> Result:
    """Train on the labels of all images. Without `backbone` training starts from random weights."""
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
        example=LabelledCrop(config.long_side, config.crop, num_classes, Pixels.of(manifest), jitter=True),
        num_classes=num_classes,
        backbone=inputs.get("backbone"),
        epochs=config.epochs,
        callbacks=context.callbacks,
        probe=context.probe,
    )


def make_maps(config: SeamMapsConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Make the maps of all images."""
    weights = inputs["maps_network"]
    network = build(SeamNetworkConfig, weights.manifest()["config"])
    return map_images(
        MakeSeam, {"config": config, "network": network, "weights": weights}, inputs["images"], output, context
    )


def _train_worker(settings: dict) -> None:
    from amn_ray.stages.seam.train import train_worker  # on the worker: torchvision costs the driver seconds

    train_worker(settings)


SEAM_NETWORK = Stage(
    name="seam_network",
    version=1,
    config=SeamNetworkConfig,
    makes="weights",
    needs=("images",),
    optional=("backbone",),
    metrics=TRAINING_METRICS,
    run=train_network,
)
SEAM_MAPS = Stage(
    name="seam_maps",
    version=1,
    config=SeamMapsConfig,
    makes="maps",
    needs=("images", "maps_network"),
    metrics=MAPPING_METRICS,
    run=make_maps,
)
METHOD = Method(
    group="maps",
    name="seam",
    title=partial(on_backbone, "SEAM"),
    stages={"maps_network": SEAM_NETWORK, "maps": SEAM_MAPS},
    settings=Path(__file__).with_name("seam.yaml"),
)
