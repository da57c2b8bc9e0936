"""Classifying images on Ray Data, to score the classifier."""

from __future__ import annotations

import pyarrow as pa

from amn_ray.core.artifacts import Artifact
from amn_ray.data.images import decode_image
from amn_ray.data.pixels import Pixels

COLUMNS = ("image", "labels")
SCHEMA = pa.schema({"image_id": pa.string(), "labels": pa.list_(pa.int16()), "logits": pa.list_(pa.float32())})
"""An image's labels 1…N, and the classifier's logits of the N classes."""


class ClassifyImages:
    """Loads the classifier once, maps batches of the image table to logits."""

    def __init__(
        self, precision: str | None, num_classes: int, pixels: Pixels, weights: Artifact, threads: int
    ) -> None:
        import torch  # on the actor: the driver only names this class and need not load it

        from amn_ray.nn.classifier import load_classifier
        from amn_ray.nn.weights import pick_device

        torch.set_num_threads(threads)
        self.precision = precision
        self.pixels = pixels
        self.device = pick_device()
        self.model = load_classifier(weights, num_classes).to(self.device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`image_id`, `image`, `labels` -> rows of SCHEMA; images at their own size."""
        from amn_ray.nn.multiscale import same_size_groups
        from amn_ray.stages.classifier.model import class_logits

        rows = batch.to_pylist()
        images = [decode_image(row["image"], self.pixels) for row in rows]
        logits: dict[int, list[float]] = {}
        for group in same_size_groups(images):
            results = class_logits(self.model, [images[i] for i in group], device=self.device, precision=self.precision)
            logits |= dict(zip(group, results.tolist(), strict=True))
        scored = [
            {"image_id": row["image_id"], "labels": row["labels"], "logits": logits[i]} for i, row in enumerate(rows)
        ]
        return pa.Table.from_pylist(scored, schema=SCHEMA)
