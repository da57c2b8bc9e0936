"""The CAM stage: images → classifier weights and class activation maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray.train import UserCallback

from amn_ray.core.artifacts import Artifact
from amn_ray.data.pixels import Pixels
from amn_ray.platform.cluster import Cluster
from amn_ray.platform.mapping import map_table
from amn_ray.stages.cam.config import CamConfig
from amn_ray.stages.cam.example import CamExample
from amn_ray.stages.cam.infer import COLUMNS, MakeCam

NAME = "cam"
VERSION = 2
TABLE = "maps"


def run(
    config: CamConfig,
    inputs: Mapping[str, Artifact],
    output: Artifact,
    cluster: Cluster,
    callbacks: Sequence[UserCallback] = (),
) -> dict[str, Any]:
    """Train the classifier and make the maps of all images.

    Inputs: `images`, and `backbone` where training does not start from random weights.
    """
    # Imported here: a pipeline that finds everything in the store never needs PyTorch.
    from amn_ray.training.driver import train

    images = inputs["images"]
    manifest = images.manifest()
    num_classes, pixels = len(manifest["classes"]), Pixels.of(manifest)
    history = train(
        _train_worker,
        config,
        output,
        cluster,
        sources=[(images, "rows", ("image", "labels"))],
        example=CamExample(config, num_classes, pixels),
        num_classes=num_classes,
        backbone=inputs.get("backbone"),
        callbacks=callbacks,
    )
    share = cluster.map_share()
    settings = {"config": config, "num_classes": num_classes, "pixels": pixels, "weights": output}
    speed = map_table(
        cluster,
        (images, "rows"),
        COLUMNS,
        MakeCam,
        settings | {"threads": share.threads},
        (output, TABLE),
        share=share,
    )
    metrics = {"loss": history[-1]["loss"], "images_per_second": speed}
    return {"rows": manifest["rows"], "history": history, "metrics": metrics}


def _train_worker(settings: dict) -> None:
    from amn_ray.stages.cam.train import train_worker  # on the worker: torchvision costs the driver seconds

    train_worker(settings)
