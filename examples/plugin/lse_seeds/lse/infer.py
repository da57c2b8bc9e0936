"""Making the maps on Ray Data."""

from __future__ import annotations

import pyarrow as pa

from amn_ray.core.artifacts import MODEL, Artifact
from amn_ray.core.settings import build
from amn_ray.data.images import decode_image
from amn_ray.data.maps import SCHEMA, to_row
from amn_ray.data.pixels import Pixels
from lse_seeds.lse.config import LseHeadConfig, LseMapsConfig

COLUMNS = ("image", "labels")


class MakeLseMaps:
    """Loads the network once, maps batches of the image table to the maps table."""

    def __init__(
        self, config: LseMapsConfig, num_classes: int, pixels: Pixels, weights: Artifact, threads: int
    ) -> None:
        import torch  # on the actor: the driver, which only names this class, need not load it

        from amn_ray.nn.weights import load_module, pick_device
        from lse_seeds.lse.train import network

        torch.set_num_threads(threads)
        self.config = config
        self.pixels = pixels
        self.device = pick_device()
        head = build(LseHeadConfig, weights.manifest()["config"])
        self.model = load_module(network(head, num_classes), weights.read(MODEL)).to(self.device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`image_id`, `image`, `labels` -> rows of data.maps.SCHEMA."""
        from amn_ray.nn.class_activation import (
            cam_maps,
        )  # of any classifier: scales and flips, each class by its maximum
        from amn_ray.nn.multiscale import same_size_groups

        rows = batch.to_pylist()
        images = [decode_image(row["image"], self.pixels) for row in rows]
        maps: dict[int, dict] = {}
        for group in same_size_groups(images):
            made = cam_maps(
                self.model,
                [images[i] for i in group],
                [rows[i]["labels"] for i in group],
                scales=self.config.scales,
                precision=self.config.precision,
                device=self.device,
            )
            for i, maps_Khw in zip(group, made, strict=True):
                maps[i] = to_row(rows[i]["image_id"], rows[i]["labels"], maps_Khw)
        return pa.Table.from_pylist([maps[i] for i in range(len(rows))], schema=SCHEMA)
