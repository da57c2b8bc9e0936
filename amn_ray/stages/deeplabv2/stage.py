"""DeepLabv2: images and pseudo-masks → network weights; with these, images → predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from amn_ray.core.artifacts import Artifact
from amn_ray.core.errors import RequestError
from amn_ray.core.settings import build
from amn_ray.data.pixels import Pixels
from amn_ray.data.source import IGNORE
from amn_ray.platform.mapping import MAPPING_METRICS, map_table
from amn_ray.stages.deeplabv2.config import DeepLabConfig, DeepLabPredictionsConfig
from amn_ray.stages.deeplabv2.example import DeepLabExample
from amn_ray.stages.deeplabv2.infer import COLUMNS, Predict, open_network
from amn_ray.stages.methods import Method
from amn_ray.stages.stage import Context, Result, Stage
from amn_ray.training.job import TRAINING_METRICS


def train_network(config: DeepLabConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Train on the pseudo-masks. Without `backbone` training starts from random weights.

    Raises:
        RequestError: the pseudo-masks contain no label at all, or an image has no pseudo-mask.
    """
    # Imported here: a pipeline whose artifacts all exist does not need PyTorch.
    from amn_ray.training.driver import train

    images, masks = inputs["images"], inputs["pseudo_masks"]
    manifest = images.manifest()
    classes = manifest["classes"]
    missing = context.cluster.run_remote(missing_classes, images, masks, classes)
    if missing:
        context.warn(f"no pseudo-mask contains {', '.join(missing)}; the network cannot learn it")
    result = train(
        _train_worker,
        config,
        output,
        context.cluster,
        sources=[(images, ("image",)), (masks, ("mask",))],
        example=DeepLabExample(config, Pixels.of(manifest)),
        num_classes=len(classes),
        backbone=inputs.get("backbone"),
        num_steps=config.iterations,
        callbacks=context.callbacks,
        probe=context.probe,
    )
    return result | {"missing_classes": missing}


def predict_images(
    config: DeepLabPredictionsConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context
) -> Result:
    """Predict all images."""
    images = inputs["images"]
    manifest = images.manifest()
    settings = {
        "config": config,
        "network": build(DeepLabConfig, inputs["segmenter"].manifest()["config"]),
        "num_classes": len(manifest["classes"]),
        "pixels": Pixels.of(manifest),
        "weights": inputs["segmenter"],
    }
    return map_table(context.cluster, images, COLUMNS, Predict, settings, output, on="networks")


def missing_classes(images: Artifact, masks: Artifact, classes: Sequence[str]) -> list[str]:
    """The classes without a pixel in any pseudo-mask: they cannot be learned, and their IoU will be 0."""
    ids = images.table().ids()
    if lacking := [image_id for image_id in ids if image_id not in masks.table()]:
        raise RequestError(
            f"{masks.stage}/{masks.fingerprint}: {len(lacking)} of the {len(ids)} training images have no pseudo-mask, "
            f"such as {lacking[0]}; add them, or take these images out of the data set"
        )
    present = set().union(*masks.table().column("present").values()) - {IGNORE}
    if not present:
        raise RequestError(
            f"{masks.stage}/{masks.fingerprint}: its pseudo-masks are undefined ({IGNORE}) everywhere, so there is "
            "nothing to train on; look at its figures, and lower refined.conf_fg or raise refined.conf_bg (of "
            "amn_refined with activation=amn)"
        )
    return [name for label, name in enumerate(["background", *classes]) if label not in present]


def _train_worker(settings: dict) -> None:
    from amn_ray.stages.deeplabv2.train import train_worker  # on the worker: torchvision costs the driver seconds

    train_worker(settings)


DEEPLAB = Stage(
    name="deeplabv2",
    version=3,
    config=DeepLabConfig,
    makes="weights",
    needs=("images", "pseudo_masks"),
    optional=("backbone",),
    metrics=TRAINING_METRICS,
    run=train_network,
)
DEEPLAB_PREDICTIONS = Stage(
    name="deeplabv2_predictions",
    version=1,
    config=DeepLabPredictionsConfig,
    makes="masks",
    needs=("images", "segmenter"),
    metrics=MAPPING_METRICS,
    run=predict_images,
)
METHOD = Method(
    group="segmenter",
    name="deeplabv2",
    stages={"segmenter": DEEPLAB, "predictions": DEEPLAB_PREDICTIONS},
    settings=Path(__file__).with_name("deeplabv2.yaml"),
    open_network=open_network,
)
