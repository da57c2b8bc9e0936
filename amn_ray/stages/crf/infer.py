"""Running the CRF on a pool of CPU actors (released code: step/cam_to_ir_label.py and its copy for AMN)."""

from __future__ import annotations

import pyarrow as pa

from amn_ray.artifacts import Artifact
from amn_ray.data.images import MASK_SCHEMA, decode_image, encode_mask
from amn_ray.nn.maps import from_row, full_size
from amn_ray.stages.crf.config import CrfConfig
from amn_ray.stages.crf.model import refined_seed

COLUMNS = ("image",)


class MakeSeed:
    """Maps batches of the image table (joined with maps) to the masks table."""

    def __init__(self, config: CrfConfig, maps: Artifact) -> None:
        self.config = config
        self.maps = maps.table("maps")

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`image_id`, `image` -> rows of MASK_SCHEMA."""
        ids = batch.column("image_id").to_pylist()
        seeds = []
        for encoded, row in zip(
            batch.column("image").to_pylist(), self.maps.take(ids, ["keys", "maps", "h", "w"]), strict=True
        ):
            image_HWC = decode_image(encoded)
            maps_KHW = full_size(from_row(row), *image_HWC.shape[:2])
            seeds.append(encode_mask(refined_seed(image_HWC, maps_KHW, row["keys"], self.config)))
        return pa.table({"image_id": ids, "mask": seeds}, schema=MASK_SCHEMA)
