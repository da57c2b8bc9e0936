"""Running the CRF on a pool of CPU actors (released code: step/cam_to_ir_label.py and its copy for AMN)."""

from __future__ import annotations

import pyarrow as pa

from amn_ray.core.artifacts import Artifact
from amn_ray.data.images import MASK_SCHEMA, decode_image, mask_row
from amn_ray.data.maps import MAP_COLUMNS, pixel_maps
from amn_ray.data.pixels import Pixels
from amn_ray.stages.crf.config import CrfConfig, PredictionCrfConfig
from amn_ray.stages.crf.model import refined_prediction, refined_seed

COLUMNS = ("image",)


class MakeSeed:
    """Maps batches of the image table (joined with maps) to the masks table."""

    def __init__(self, config: CrfConfig, pixels: Pixels, maps: Artifact) -> None:
        self.config = config
        self.pixels = pixels
        self.maps = maps.table()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`image_id`, `image` -> rows of MASK_SCHEMA."""
        ids = batch.column("image_id").to_pylist()
        seeds = []
        stored = self.maps.take(ids, MAP_COLUMNS)
        for image_id, encoded, row in zip(ids, batch.column("image").to_pylist(), stored, strict=True):
            image_HWC = decode_image(encoded, self.pixels)
            maps_KHW = pixel_maps(row, *image_HWC.shape[:2])
            seeds.append(mask_row(image_id, refined_seed(image_HWC, maps_KHW, row["keys"], self.config)))
        return pa.Table.from_pylist(seeds, schema=MASK_SCHEMA)


class RefinePrediction:
    """Maps batches of the image table (joined with a network's predictions and their logits) to the masks table."""

    def __init__(self, config: PredictionCrfConfig, pixels: Pixels, predictions: Artifact) -> None:
        self.config = config
        self.pixels = pixels
        self.predictions = predictions.table()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`image_id`, `image` -> rows of MASK_SCHEMA."""
        ids = batch.column("image_id").to_pylist()
        masks = []
        stored = self.predictions.take(ids, MAP_COLUMNS)
        for image_id, encoded, row in zip(ids, batch.column("image").to_pylist(), stored, strict=True):
            image_HWC = decode_image(encoded, self.pixels)
            logits_CHW = pixel_maps(row, *image_HWC.shape[:2])
            masks.append(mask_row(image_id, refined_prediction(image_HWC, logits_CHW, self.config)))
        return pa.Table.from_pylist(masks, schema=MASK_SCHEMA)
