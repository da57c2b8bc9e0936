"""AMN: images and refined seeds → network weights; with these → activation maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amn_ray.core.artifacts import Artifact, common_ids
from amn_ray.core.settings import affecting_result, build
from amn_ray.data.pixels import Pixels
from amn_ray.nn.config import stride_of
from amn_ray.platform.mapping import MAPPING_METRICS
from amn_ray.stages.amn.config import AmnConfig, AmnMapsConfig
from amn_ray.stages.amn.example import AmnExample
from amn_ray.stages.amn.infer import MakeAmn
from amn_ray.stages.maps import map_images
from amn_ray.stages.methods import Method
from amn_ray.stages.stage import Context, Result, Stage
from amn_ray.training.job import TRAINING_METRICS


def identity(config: AmnConfig) -> Mapping[str, Any]:
    """The settings that affect the result; the optimiser only where it is not the published one."""
    settings = affecting_result(config)
    if config.optimizer == AmnConfig.optimizer:
        del settings["optimizer"]
    return settings


def train_network(config: AmnConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Train AMN on the seeds. Without `backbone` training starts from random weights."""
    # Imported here: a pipeline whose artifacts all exist does not need PyTorch.
    from amn_ray.training.driver import train

    images, seeds = inputs["images"], inputs["refined"]
    manifest = images.manifest()
    assert config.backbone is not None
    num_classes = len(manifest["classes"])
    return train(
        _train_worker,
        config,
        output,
        context.cluster,
        sources=[(images, ("image", "labels")), (seeds, ("mask",))],
        example=AmnExample(config, num_classes, Pixels.of(manifest), stride_of(config.backbone.name)),
        num_classes=num_classes,
        backbone=inputs.get("backbone"),
        epochs=config.epochs,
        callbacks=context.callbacks,
        probe=context.probe,
    )


def make_maps(config: AmnMapsConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Make the maps of all images; the seeds modulate them where they are used."""
    images, seeds = inputs["images"], inputs["refined"]
    network = build(AmnConfig, inputs["amn"].manifest()["config"])
    settings = {"config": config, "network": network, "weights": inputs["amn"], "seeds": seeds}
    return map_images(MakeAmn, settings, images, output, context, ids=common_ids(images, seeds))


def _train_worker(settings: dict) -> None:
    from amn_ray.stages.amn.train import train_worker  # on the worker: torchvision costs the driver seconds

    train_worker(settings)


AMN = Stage(
    name="amn",
    version=3,
    config=AmnConfig,
    makes="weights",
    needs=("images", "refined"),
    optional=("backbone",),
    metrics=TRAINING_METRICS,
    run=train_network,
    identity=identity,
)
AMN_MAPS = Stage(
    name="amn_maps",
    version=1,
    config=AmnMapsConfig,
    makes="maps",
    needs=("images", "refined", "amn"),
    metrics=MAPPING_METRICS,
    run=make_maps,
)
METHOD = Method(
    group="activation",
    name="amn",
    title="AMN",
    stages={"amn": AMN, "amn_maps": AMN_MAPS},
    settings=Path(__file__).with_name("amn.yaml"),
)
