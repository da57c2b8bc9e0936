"""Making CAMs on Ray Data (method 2; released code: step/make_cam.py)."""

from __future__ import annotations

import pyarrow as pa

from amn_ray.core.artifacts import Artifact
from amn_ray.data.images import decode_image
from amn_ray.data.maps import SCHEMA, to_row
from amn_ray.data.pixels import Pixels
from amn_ray.stages.cam.config import CamConfig

COLUMNS = ("image", "labels")


class MakeCam:
    """Loads the classifier once, maps batches of the image table to the maps table."""

    def __init__(self, config: CamConfig, num_classes: int, pixels: Pixels, weights: Artifact, threads: int) -> None:
        import torch  # on the actor: the driver only names this class and need not load it

        from amn_ray.nn.classifier import load_classifier
        from amn_ray.nn.weights import pick_device

        torch.set_num_threads(threads)
        self.config = config
        self.pixels = pixels
        self.device = pick_device()
        self.model = load_classifier(weights, num_classes).to(self.device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`image_id`, `image`, `labels` -> rows of data.maps.SCHEMA."""
        from amn_ray.nn.class_activation import cam_maps
        from amn_ray.nn.multiscale import same_size_groups

        rows = batch.to_pylist()
        images = [decode_image(row["image"], self.pixels) for row in rows]
        maps: dict[int, dict] = {}
        for group in same_size_groups(images):
            results = cam_maps(
                self.model,
                [images[i] for i in group],
                [rows[i]["labels"] for i in group],
                scales=self.config.scales,
                precision=self.config.precision,
                device=self.device,
            )
            for i, maps_Khw in zip(group, results, strict=True):
                maps[i] = to_row(rows[i]["image_id"], rows[i]["labels"], maps_Khw)
        return pa.Table.from_pylist([maps[i] for i in range(len(rows))], schema=SCHEMA)
