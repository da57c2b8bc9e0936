"""Thresholding on Ray Data."""

from __future__ import annotations

import pyarrow as pa

from amn_ray.core.artifacts import Artifact
from amn_ray.data.images import MASK_SCHEMA, mask_row
from amn_ray.data.maps import MAP_COLUMNS, pixel_maps
from amn_ray.stages.groups import RefinementConfig
from amn_ray.stages.no_refinement.model import thresholded_seed

COLUMNS = ("height", "width")


class MakeSeed:
    """Maps batches of the image table (joined with maps) to the masks table."""

    def __init__(self, config: RefinementConfig, maps: Artifact) -> None:
        self.config = config
        self.maps = maps.table()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`image_id`, `height`, `width` -> rows of MASK_SCHEMA."""
        images = batch.to_pylist()
        stored = self.maps.take([image["image_id"] for image in images], MAP_COLUMNS)
        seeds = []
        for image, row in zip(images, stored, strict=True):
            maps_KHW = pixel_maps(row, image["height"], image["width"])
            seeds.append(mask_row(image["image_id"], thresholded_seed(maps_KHW, row["keys"], self.config)))
        return pa.Table.from_pylist(seeds, schema=MASK_SCHEMA)
