"""IRN: images and refined seeds → network weights; with these and maps → pseudo-masks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from amn_ray.core.artifacts import Artifact, common_ids
from amn_ray.core.errors import RequestError
from amn_ray.core.settings import affecting_result, build
from amn_ray.data.pixels import Pixels
from amn_ray.nn.config import has_one_stride, stride_of
from amn_ray.platform.mapping import MAPPING_METRICS, map_table
from amn_ray.stages.irn.config import IrnConfig, WalkConfig
from amn_ray.stages.irn.example import IrnExample
from amn_ray.stages.irn.infer import COLUMNS, MakePseudoMask
from amn_ray.stages.methods import Method
from amn_ray.stages.stage import Context, Result, Stage
from amn_ray.training.job import TRAINING_METRICS


def identity(config: IrnConfig) -> Mapping[str, Any]:
    """The settings that affect the result.

    Raises:
        RequestError: the levels of the backbone have one stride only.
    """
    if has_one_stride(config.backbone.name):
        raise RequestError(
            f"boundaries=irn: finds boundaries in features of several sizes, and all levels of {config.backbone.name} "
            f"have stride {stride_of(config.backbone.name)}; set irn.backbone.name and irn.backbone.weights, as to "
            "resnet50 and pretrained, or boundaries=none"
        )
    return affecting_result(config)


def train_network(config: IrnConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Train IRN on the seeds; the features of `backbone` stay frozen."""
    # Imported here: a pipeline whose artifacts all exist does not need PyTorch.
    from amn_ray.training.driver import train

    images, seeds = inputs["images"], inputs["refined"]
    manifest = images.manifest()
    return train(
        _train_worker,
        config,
        output,
        context.cluster,
        sources=[(images, ("image",)), (seeds, ("mask",))],
        example=IrnExample(config, Pixels.of(manifest)),
        num_classes=len(manifest["classes"]),
        backbone=inputs["backbone"],
        epochs=config.epochs,
        callbacks=context.callbacks,
        probe=context.probe,
    )


def walk(config: WalkConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Spread the maps of all images up to the boundaries.

    The manifest gets IRN's mean displacement over these images, which users of its displacements subtract; the walk
    does not need it.
    """
    images = inputs["images"]
    settings = {
        "config": config,
        "network": build(IrnConfig, inputs["irn"].manifest()["config"]),
        "pixels": Pixels.of(images.manifest()),
        "weights": inputs["irn"],
        "maps": inputs["maps"],
    }
    ids = common_ids(images, inputs["maps"])
    result = map_table(context.cluster, images, COLUMNS, MakePseudoMask, settings, output, on="networks", ids=ids)
    return result | {"displacement_mean": context.cluster.run_remote(_displacement_mean, output)}


def _displacement_mean(output: Artifact) -> list[float]:
    """(dy, dx) in pixels of stride 4, as the mappers measured it."""
    means = list(output.fresh_table().column("displacement").values())
    return np.asarray(np.mean(means, 0), np.float32).tolist()


def _train_worker(settings: dict) -> None:
    from amn_ray.stages.irn.train import train_worker  # on the worker: torchvision costs the driver seconds

    train_worker(settings)


IRN = Stage(
    name="irn",
    version=2,
    config=IrnConfig,
    makes="weights",
    needs=("images", "refined", "backbone"),
    metrics=TRAINING_METRICS,
    run=train_network,
    identity=identity,
)
WALK = Stage(
    name="walk",
    version=1,
    config=WalkConfig,
    makes="masks",
    needs=("images", "maps", "irn"),
    metrics=MAPPING_METRICS,
    run=walk,
)
METHOD = Method(
    group="boundaries",
    name="irn",
    stages={"irn": IRN, "pseudo_masks": WALK},
    settings=Path(__file__).with_name("irn.yaml"),
)
