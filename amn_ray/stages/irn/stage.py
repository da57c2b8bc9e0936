"""The IRN stage: images, maps and refined seeds → network weights and pseudo-masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy
from ray.train import UserCallback

from amn_ray.core.artifacts import Artifact
from amn_ray.data.pixels import Pixels
from amn_ray.platform.cluster import Cluster
from amn_ray.platform.mapping import map_table
from amn_ray.stages.irn.config import IrnConfig
from amn_ray.stages.irn.example import IrnExample
from amn_ray.stages.irn.infer import COLUMNS, MakePseudoMask
from amn_ray.training.job import MODEL

NAME = "irn"
VERSION = 1
TABLE = "masks"


def run(
    config: IrnConfig,
    inputs: Mapping[str, Artifact],
    output: Artifact,
    cluster: Cluster,
    callbacks: Sequence[UserCallback] = (),
) -> dict[str, Any]:
    """Train IRN on the seeds and spread the maps of all images up to the boundaries.

    Inputs: `images`, `maps` and `seeds` (of AMN, or of the CAM for the paper's baseline), and `backbone`, whose
    features stay frozen.
    """
    # Imported here: a pipeline that finds everything in the store never needs PyTorch.
    from amn_ray.training.driver import train

    images, maps, seeds = inputs["images"], inputs["maps"], inputs["seeds"]
    manifest = images.manifest()
    pixels = Pixels.of(manifest)
    history = train(
        _train_worker,
        config,
        output,
        cluster,
        sources=[(images, "rows", ("image",)), (seeds, "masks", ("mask",))],
        example=IrnExample(config, pixels),
        num_classes=len(manifest["classes"]),
        backbone=inputs["backbone"],
        callbacks=callbacks,
    )
    share = cluster.map_share()
    settings = {"config": config, "pixels": pixels, "weights": output, "maps": maps, "threads": share.threads}
    speed = map_table(cluster, (images, "rows"), COLUMNS, MakePseudoMask, settings, (output, TABLE), share=share)
    cluster.elsewhere(_store_displacement_mean, output)
    metrics = {"loss": history[-1]["loss"], "images_per_second": speed}
    return {"rows": manifest["rows"], "history": history, "metrics": metrics}


def _store_displacement_mean(output: Artifact) -> None:
    """Over all images, as the mappers measured it. The walk does not need it; users of the displacements do."""
    means = list(output.table(TABLE).column("displacement").values())
    state = safetensors.numpy.load(output.read(MODEL))
    state["displacement_mean"] = np.asarray(np.mean(means, 0), np.float32)
    output.write(MODEL, safetensors.numpy.save(state))


def _train_worker(settings: dict) -> None:
    from amn_ray.stages.irn.train import train_worker  # on the worker: torchvision costs the driver seconds

    train_worker(settings)
