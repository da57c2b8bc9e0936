"""The classifier and images → a head; with it, images → activation maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from amn_ray.core.artifacts import Artifact
from amn_ray.data.pixels import Pixels
from amn_ray.platform.mapping import MAPPING_METRICS
from amn_ray.stages.maps import map_images
from amn_ray.stages.methods import Method
from amn_ray.stages.stage import Context, Result, Stage
from amn_ray.training.job import TRAINING_METRICS
from lse_seeds.lse.config import LseHeadConfig, LseMapsConfig
from lse_seeds.lse.example import LseExample
from lse_seeds.lse.infer import MakeLseMaps


def train_head(config: LseHeadConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Train the head on the labels of all images, behind the classifier's backbone."""
    from amn_ray.training.driver import train  # here: a pipeline that finds all in the store needs no PyTorch

    images = inputs["images"]
    manifest = images.manifest()
    num_classes = len(manifest["classes"])
    return train(
        _train_worker,
        config,
        output,
        context.cluster,
        sources=[(images, ("image", "labels"))],
        example=LseExample(config.crop, num_classes, Pixels.of(manifest)),
        num_classes=num_classes,
        backbone=inputs["classifier"],
        epochs=config.epochs,
        callbacks=context.callbacks,
        probe=context.probe,
    )


def _train_worker(settings: dict) -> None:
    from lse_seeds.lse.train import train_worker  # on the worker, as above

    train_worker(settings)


def make_maps(config: LseMapsConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Make the maps of all images."""
    settings = {"config": config, "weights": inputs["maps_network"]}
    return map_images(MakeLseMaps, settings, inputs["images"], output, context)


LSE_HEAD = Stage(
    name="lse_head",
    version=1,
    config=LseHeadConfig,
    makes="weights",
    needs=("images", "classifier"),
    metrics=TRAINING_METRICS,
    run=train_head,
)
LSE_MAPS = Stage(
    name="lse_maps",
    version=1,
    config=LseMapsConfig,
    makes="maps",
    needs=("images", "maps_network"),
    metrics=MAPPING_METRICS,
    run=make_maps,
)
METHOD = Method(
    group="maps",
    name="lse",
    stages={"maps_network": LSE_HEAD, "maps": LSE_MAPS},
    settings=Path(__file__).with_name("lse.yaml"),
)
