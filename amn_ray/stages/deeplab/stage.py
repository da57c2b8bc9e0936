"""The DeepLab stage: images and pseudo-masks → network weights, and predictions on another split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray.train import UserCallback

from amn_ray.core.artifacts import Artifact
from amn_ray.core.console import say
from amn_ray.core.errors import RequestError
from amn_ray.data.pixels import Pixels
from amn_ray.data.source import IGNORE
from amn_ray.platform.cluster import Cluster
from amn_ray.platform.mapping import map_table
from amn_ray.stages.deeplab.config import DeepLabConfig
from amn_ray.stages.deeplab.example import DeepLabExample
from amn_ray.stages.deeplab.infer import COLUMNS, Predict

NAME = "deeplab"
VERSION = 2
TABLE = "masks"


def run(
    config: DeepLabConfig,
    inputs: Mapping[str, Artifact],
    output: Artifact,
    cluster: Cluster,
    callbacks: Sequence[UserCallback] = (),
) -> dict[str, Any]:
    """Train on the pseudo-masks and predict the evaluated images.

    Inputs: `images` and `masks`, which are trained on; `evaluated`, the image table to predict; and `backbone`,
    whose weights training starts from.

    Raises:
        RequestError: the pseudo-masks hold no label at all.
    """
    # Imported here: a pipeline that finds everything in the store never needs PyTorch.
    from amn_ray.training.driver import train

    images, masks, evaluated = inputs["images"], inputs["masks"], inputs["evaluated"]
    manifest = images.manifest()
    classes, pixels = manifest["classes"], Pixels.of(manifest)
    missing = cluster.elsewhere(missing_classes, masks, classes)
    if missing:
        say(NAME, f"warning: no pseudo-mask holds {', '.join(missing)}; the network cannot learn it")
    history = train(
        _train_worker,
        config,
        output,
        cluster,
        sources=[(images, "rows", ("image",)), (masks, "masks", ("mask",))],
        example=DeepLabExample(config, pixels),
        num_classes=len(classes),
        backbone=inputs.get("backbone"),
        callbacks=callbacks,
        num_steps=config.iterations,
    )
    share = cluster.map_share()
    settings = {"config": config, "num_classes": len(classes), "pixels": pixels, "weights": output}
    speed = map_table(
        cluster,
        (evaluated, "rows"),
        COLUMNS,
        Predict,
        settings | {"threads": share.threads},
        (output, TABLE),
        share=share,
    )
    metrics = {"loss": history[-1]["loss"], "images_per_second": speed}
    rows = evaluated.manifest()["rows"]
    return {"rows": rows, "history": history, "missing_classes": missing, "metrics": metrics}


def missing_classes(masks: Artifact, classes: Sequence[str]) -> list[str]:
    """The classes without a pixel in any pseudo-mask: they cannot be learned, and their IoU will be 0."""
    present = set().union(*masks.table("masks").column("present").values()) - {IGNORE}
    if not present:
        raise RequestError(
            f"{masks.stage}/{masks.fingerprint}: its pseudo-masks are undefined ({IGNORE}) everywhere, so there is "
            "nothing to train on; look at its figures, and lower crf.*.conf_fg or raise crf.*.conf_bg"
        )
    return [name for label, name in enumerate(["background", *classes]) if label not in present]


def _train_worker(settings: dict) -> None:
    from amn_ray.stages.deeplab.train import train_worker  # on the worker: torchvision costs the driver seconds

    train_worker(settings)
