"""The AMN stage: images and refined seeds → network weights and activation maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray.train import UserCallback

from amn_ray.core.artifacts import Artifact
from amn_ray.data.pixels import Pixels
from amn_ray.platform.cluster import Cluster
from amn_ray.platform.mapping import map_table
from amn_ray.stages.amn.config import AmnConfig
from amn_ray.stages.amn.example import AmnExample
from amn_ray.stages.amn.infer import COLUMNS, MakeAmn
from amn_ray.training.job import Probe

NAME = "amn"
VERSION = 2
TABLE = "maps"


def run(
    config: AmnConfig,
    inputs: Mapping[str, Artifact],
    output: Artifact,
    cluster: Cluster,
    callbacks: Sequence[UserCallback] = (),
    probe: Probe | None = None,
) -> dict[str, Any]:
    """Train AMN on the seeds and make the maps of all images.

    Inputs: `images`, `seeds` (the CAM's), and `backbone` where training does not start from random weights. `probe`
    measures the network after each epoch.
    """
    # Imported here: a pipeline that finds everything in the store never needs PyTorch.
    from amn_ray.training.driver import train

    images, seeds = inputs["images"], inputs["seeds"]
    manifest = images.manifest()
    num_classes, pixels = len(manifest["classes"]), Pixels.of(manifest)
    history = train(
        _train_worker,
        config,
        output,
        cluster,
        sources=[(images, "rows", ("image", "labels")), (seeds, "masks", ("mask",))],
        example=AmnExample(config, num_classes, pixels),
        num_classes=num_classes,
        backbone=inputs.get("backbone"),
        callbacks=callbacks,
        probe=probe,
    )
    share = cluster.map_share()
    settings = {"config": config, "num_classes": num_classes, "pixels": pixels, "weights": output, "seeds": seeds}
    speed = map_table(
        cluster,
        (images, "rows"),
        COLUMNS,
        MakeAmn,
        settings | {"threads": share.threads},
        (output, TABLE),
        share=share,
    )
    metrics = {"loss": history[-1]["loss"], "images_per_second": speed}
    return {"rows": manifest["rows"], "history": history, "metrics": metrics}


def _train_worker(settings: dict) -> None:
    from amn_ray.stages.amn.train import train_worker  # on the worker: torchvision costs the driver seconds

    train_worker(settings)
