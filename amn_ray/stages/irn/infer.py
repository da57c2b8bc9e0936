"""The random walk on Ray Data: maps → pseudo-masks (method 8; released code: step/make_sem_seg_labels.py)."""

from __future__ import annotations

import pyarrow as pa

from amn_ray.core.artifacts import MODEL, Artifact
from amn_ray.data.images import MASK_SCHEMA, decode_image, mask_row
from amn_ray.data.maps import MAP_COLUMNS, grid_maps
from amn_ray.data.pixels import Pixels
from amn_ray.stages.irn.config import IrnConfig, WalkConfig

COLUMNS = ("image",)
SCHEMA = MASK_SCHEMA.append(pa.field("displacement", pa.list_(pa.float32())))
"""A masks table with each image's mean displacement (dy, dx)."""


class MakePseudoMask:
    """Loads the network once, maps batches of the image table (joined with maps) to the masks table."""

    def __init__(
        self,
        config: WalkConfig,
        network: IrnConfig,
        pixels: Pixels,
        weights: Artifact,
        maps: Artifact,
        threads: int,
    ) -> None:
        import torch  # on the actor: the driver only names this class and need not load it

        from amn_ray.nn.weights import load_module, pick_device
        from amn_ray.stages.irn.model import IrnNet

        torch.set_num_threads(threads)
        self.config = config
        self.pixels = pixels
        self.maps = maps.table()
        self.device = pick_device()
        self.model = load_module(IrnNet(network), weights.read(MODEL)).to(self.device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`image_id`, `image` -> rows of SCHEMA."""
        import torch

        from amn_ray.nn.multiscale import same_size_groups
        from amn_ray.stages.irn.model import edge_maps
        from amn_ray.stages.irn.walk import pseudo_mask

        ids = batch.column("image_id").to_pylist()
        images = [decode_image(encoded, self.pixels) for encoded in batch.column("image").to_pylist()]
        stored = self.maps.take(ids, MAP_COLUMNS)
        rows: dict[int, dict] = {}
        for group in same_size_groups(images):
            edges, means = edge_maps(
                self.model, [images[i] for i in group], device=self.device, precision=self.config.precision
            )
            for i, edge_hw, mean in zip(group, edges, means, strict=True):
                maps_Khw = torch.from_numpy(grid_maps(stored[i])).to(self.device)
                mask = pseudo_mask(maps_Khw, edge_hw, stored[i]["keys"], images[i].shape[:2], self.config)
                rows[i] = mask_row(ids[i], mask) | {"displacement": mean.tolist()}
        return pa.Table.from_pylist([rows[i] for i in range(len(ids))], schema=SCHEMA)
