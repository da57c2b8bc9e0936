"""The CAM stage: images → classifier weights and class activation maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray.train import UserCallback

from amn_ray.artifacts import Artifact
from amn_ray.cluster import Cluster
from amn_ray.mapping import map_table
from amn_ray.stages.cam.config import CamConfig
from amn_ray.stages.cam.example import CamExample
from amn_ray.stages.cam.infer import COLUMNS, MakeCam
from amn_ray.training.feed import Feed
from amn_ray.training.job import Job

NAME = "cam"
VERSION = 1
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
    from amn_ray.training.driver import fit

    images = inputs["images"]
    num_classes = len(images.manifest()["classes"])
    feed = Feed(
        sources=[(images, "rows", ("image", "labels"))],
        example=CamExample(config, num_classes),
        seed=config.seed,
        epochs=config.epochs,
        batch_size=config.batch_size,
    )
    job = Job(
        config=config,
        num_classes=num_classes,
        output=output,
        backbone=inputs.get("backbone"),
        feed=feed,
        share=cluster.train_share(),
    )
    history = fit(_train_worker, job, callbacks)
    share = cluster.map_share()
    settings = {"config": config, "num_classes": num_classes, "weights": output, "threads": share.threads}
    speed = map_table(cluster, (images, "rows"), COLUMNS, MakeCam, settings, (output, TABLE), share=share)
    metrics = {"loss": history[-1]["loss"], "images_per_second": speed}
    return {"rows": len(feed.ids), "history": history, "metrics": metrics}


def _train_worker(settings: dict) -> None:
    from amn_ray.stages.cam.train import train_worker  # on the worker: torchvision costs the driver seconds

    train_worker(settings)
