"""Making AMN's maps on Ray Data (method 5; released code: step/make_amn_cam.py)."""

from __future__ import annotations

import pyarrow as pa

from amn_ray.core.artifacts import MODEL, Artifact
from amn_ray.data.images import decode_image
from amn_ray.data.maps import SCHEMA, to_row
from amn_ray.data.pixels import Pixels
from amn_ray.stages.amn.config import AmnConfig, AmnMapsConfig

COLUMNS = ("image", "labels")


class MakeAmn:
    """Loads the network once, maps batches of the image table (joined with the CAM seeds) to the maps table."""

    def __init__(
        self,
        config: AmnMapsConfig,
        network: AmnConfig,
        num_classes: int,
        pixels: Pixels,
        weights: Artifact,
        seeds: Artifact,
        threads: int,
    ) -> None:
        import torch  # on the actor: the driver only names this class and need not load it

        from amn_ray.nn.weights import load_module, pick_device
        from amn_ray.stages.amn.model import AmnNet

        torch.set_num_threads(threads)
        self.config = config
        self.pixels = pixels
        self.num_classes = num_classes
        self.seeds = seeds.table()
        self.device = pick_device()
        self.model = load_module(AmnNet(network, num_classes), weights.read(MODEL)).to(self.device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`image_id`, `image`, `labels` -> rows of data.maps.SCHEMA."""
        from amn_ray.nn.multiscale import same_size_groups
        from amn_ray.stages.amn.model import amn_maps

        rows = batch.to_pylist()
        images = [decode_image(row["image"], self.pixels) for row in rows]
        seeds = [row["mask"] for row in self.seeds.take([row["image_id"] for row in rows], ["mask"])]
        maps: dict[int, dict] = {}
        for group in same_size_groups(images):
            results = amn_maps(
                self.model,
                [images[i] for i in group],
                [rows[i]["labels"] for i in group],
                num_classes=self.num_classes,
                config=self.config,
                device=self.device,
            )
            for i, maps_Khw in zip(group, results, strict=True):
                maps[i] = to_row(rows[i]["image_id"], rows[i]["labels"], maps_Khw, seeds[i])
        return pa.Table.from_pylist([maps[i] for i in range(len(rows))], schema=SCHEMA)
