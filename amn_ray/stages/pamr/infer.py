"""Running PAMR on Ray Data."""

from __future__ import annotations

import pyarrow as pa

from amn_ray.core.artifacts import Artifact
from amn_ray.data.images import MASK_SCHEMA, decode_image, mask_row
from amn_ray.data.maps import MAP_COLUMNS, pixel_maps
from amn_ray.data.pixels import Pixels
from amn_ray.stages.pamr.config import PamrConfig

COLUMNS = ("image",)


class MakeSeed:
    """Maps batches of the image table (joined with maps) to the masks table."""

    def __init__(self, config: PamrConfig, pixels: Pixels, maps: Artifact, threads: int) -> None:
        import torch  # on the actor: the driver only names this class and need not load it

        from amn_ray.nn.weights import pick_device

        torch.set_num_threads(threads)
        self.config = config
        self.pixels = pixels
        self.maps = maps.table()
        self.device = pick_device()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`image_id`, `image` -> rows of MASK_SCHEMA."""
        from amn_ray.nn.multiscale import PIXELS_PER_PASS, same_size_groups
        from amn_ray.stages.pamr.model import refined_seeds

        ids = batch.column("image_id").to_pylist()
        images = [decode_image(encoded, self.pixels) for encoded in batch.column("image").to_pylist()]
        stored = self.maps.take(ids, MAP_COLUMNS)
        rows: dict[int, dict] = {}
        for group in same_size_groups(images, PIXELS_PER_PASS[self.device.type]):
            seeds = refined_seeds(
                [images[i] for i in group],
                [pixel_maps(stored[i], *images[i].shape[:2]) for i in group],
                [stored[i]["keys"] for i in group],
                self.config,
                device=self.device,
            )
            for i, seed_HW in zip(group, seeds, strict=True):
                rows[i] = mask_row(ids[i], seed_HW)
        return pa.Table.from_pylist([rows[i] for i in range(len(ids))], schema=MASK_SCHEMA)
