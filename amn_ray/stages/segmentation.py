"""What all segmentation networks share: the training on masks, and predictions with the trained network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from amn_ray.core.artifacts import MODEL, Artifact
from amn_ray.core.errors import RequestError
from amn_ray.data.images import MASK_SCHEMA, decode_image, mask_row
from amn_ray.data.maps import SCHEMA as MAPS
from amn_ray.data.maps import at_most_stored, full_size, to_row
from amn_ray.data.pixels import Pixels
from amn_ray.data.source import IGNORE
from amn_ray.platform.mapping import map_table
from amn_ray.stages.groups import PredictionsConfig, SegmenterConfig
from amn_ray.stages.methods import OpenNetwork
from amn_ray.stages.stage import Context, Result

COLUMNS = ("image",)
SCHEMA = pa.unify_schemas([MASK_SCHEMA, MAPS])
"""A masks table with the logits that dense CRF starts from: float16, stride 4 or coarser, `keys` = all labels 0…N."""


def train_on_masks(
    worker: Callable[[dict], None],
    config: SegmenterConfig,
    inputs: Mapping[str, Artifact],
    output: Artifact,
    context: Context,
    *,
    example: Any,
    start: Artifact | None,
) -> Result:
    """Train on the pseudo-masks.

    Args:
        worker: see training.driver.train.
        config: the settings of the training.
        inputs: `images` and `pseudo_masks`.
        output: where the weights are written.
        context: of the stage.
        example: (row of images and masks, generator) -> a training example.
        start: holds the initial weights; None starts from random ones.

    Raises:
        RequestError: the pseudo-masks contain no label at all, or an image has no pseudo-mask.
    """
    # Imported here: a pipeline whose artifacts all exist does not need PyTorch.
    from amn_ray.training.driver import train

    images, masks = inputs["images"], inputs["pseudo_masks"]
    classes = images.manifest()["classes"]
    missing = context.cluster.run_remote(missing_classes, images, masks, classes)
    if missing:
        context.warn(f"no pseudo-mask contains {', '.join(missing)}; the network cannot learn it")
    result = train(
        worker,
        config,
        output,
        context.cluster,
        sources=[(images, ("image",)), (masks, ("mask",))],
        example=example,
        num_classes=len(classes),
        backbone=start,
        num_steps=config.iterations,
        callbacks=context.callbacks,
        probe=context.probe,
    )
    return result | {"missing_classes": missing}


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


def predict_images(
    open_network: OpenNetwork,
    config: PredictionsConfig,
    inputs: Mapping[str, Artifact],
    output: Artifact,
    context: Context,
) -> Result:
    """Predict all images."""
    images = inputs["images"]
    manifest = images.manifest()
    settings = {
        "open_network": open_network,
        "network": inputs["segmenter"].manifest()["config"],
        "predictions": dataclasses.asdict(config),
        "num_classes": len(manifest["classes"]),
        "pixels": Pixels.of(manifest),
        "weights": inputs["segmenter"],
    }
    return map_table(context.cluster, images, COLUMNS, Predict, settings, output, on="networks")


class Predict:
    """Loads the network once, maps batches of the image table to masks and logits."""

    def __init__(
        self,
        open_network: OpenNetwork,
        network: Mapping[str, Any],
        predictions: Mapping[str, Any],
        num_classes: int,
        pixels: Pixels,
        weights: Artifact,
        threads: int,
    ) -> None:
        import torch  # on the actor: the driver only names this class and need not load it

        torch.set_num_threads(threads)
        self.pixels = pixels
        self.labels = list(range(num_classes + 1))
        self.network = open_network(network, predictions, num_classes, weights.read(MODEL))

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`image_id`, `image` -> rows of SCHEMA."""
        from amn_ray.nn.multiscale import same_size_groups

        ids = batch.column("image_id").to_pylist()
        images = [decode_image(encoded, self.pixels) for encoded in batch.column("image").to_pylist()]
        rows: dict[int, dict] = {}
        for group in same_size_groups(images):
            results = self.network.logits([images[i] for i in group])
            for i, logits_Chw in zip(group, results, strict=True):
                size = images[i].shape[:2]
                mask = full_size(logits_Chw, *size).argmax(0).astype(np.uint8)
                rows[i] = mask_row(ids[i], mask) | to_row(ids[i], self.labels, at_most_stored(logits_Chw, *size))
        return pa.Table.from_pylist([rows[i] for i in range(len(ids))], schema=SCHEMA)
