"""Predicting on Ray Data (method 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from amn_ray.core.artifacts import MODEL, Artifact
from amn_ray.core.settings import build
from amn_ray.data.images import MASK_SCHEMA, decode_image, mask_row
from amn_ray.data.maps import SCHEMA as MAPS
from amn_ray.data.maps import full_size, to_row
from amn_ray.data.pixels import Pixels
from amn_ray.stages.deeplabv2.config import DeepLabConfig, DeepLabPredictionsConfig

COLUMNS = ("image",)
SCHEMA = pa.unify_schemas([MASK_SCHEMA, MAPS])
"""A masks table with the logits (float16, stride 8, `keys` = all labels 0…N) that dense CRF starts from."""


class Network:
    """The trained network, as `open_network` returns it; see stages.methods.SegmentationNetwork."""

    def __init__(
        self, network: DeepLabConfig, predictions: DeepLabPredictionsConfig, num_classes: int, weights: bytes
    ) -> None:
        from amn_ray.nn.weights import load_module, pick_device
        from amn_ray.stages.deeplabv2.model import DeepLabNet

        self.precision = predictions.precision
        self.device = pick_device()
        model = DeepLabNet(network.backbone, num_classes, predictions.scales)
        self.model = load_module(model, weights).to(self.device)

    def logits(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See SegmentationNetwork; at stride 8."""
        from amn_ray.stages.deeplabv2.model import predict

        return predict(self.model, images, device=self.device, precision=self.precision)


def open_network(
    network: Mapping[str, Any], predictions: Mapping[str, Any], num_classes: int, weights: bytes
) -> Network:
    """See stages.methods.OpenNetwork."""
    return Network(build(DeepLabConfig, network), build(DeepLabPredictionsConfig, predictions), num_classes, weights)


class Predict:
    """Loads the network once, maps batches of the image table to masks and logits."""

    def __init__(
        self,
        config: DeepLabPredictionsConfig,
        network: DeepLabConfig,
        num_classes: int,
        pixels: Pixels,
        weights: Artifact,
        threads: int,
    ) -> None:
        import torch  # on the actor: the driver only names this class and need not load it

        torch.set_num_threads(threads)
        self.pixels = pixels
        self.labels = list(range(num_classes + 1))
        self.network = Network(network, config, num_classes, weights.read(MODEL))

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`image_id`, `image` -> rows of SCHEMA."""
        from amn_ray.nn.multiscale import same_size_groups

        ids = batch.column("image_id").to_pylist()
        images = [decode_image(encoded, self.pixels) for encoded in batch.column("image").to_pylist()]
        rows: dict[int, dict] = {}
        for group in same_size_groups(images):
            results = self.network.logits([images[i] for i in group])
            for i, logits_Chw in zip(group, results, strict=True):
                mask = full_size(logits_Chw, *images[i].shape[:2]).argmax(0).astype(np.uint8)
                rows[i] = mask_row(ids[i], mask) | to_row(ids[i], self.labels, logits_Chw)
        return pa.Table.from_pylist([rows[i] for i in range(len(ids))], schema=SCHEMA)
