"""Making AMN's maps on Ray Data (method 5; released code: step/make_amn_cam.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from amn_ray.core.artifacts import MODEL, Artifact
from amn_ray.data.pixels import Pixels
from amn_ray.stages.amn.config import AmnConfig, AmnMapsConfig
from amn_ray.stages.maps import MapsMaker


class MakeAmn(MapsMaker):
    """Loads the network once; the seeds modulate its maps."""

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
        super().__init__(pixels, threads)
        from amn_ray.nn.weights import load_module
        from amn_ray.stages.amn.model import AmnNet

        self.config = config
        self.num_classes = num_classes
        self.seeds_table = seeds.table()
        self.model = load_module(AmnNet(network, num_classes), weights.read(MODEL)).to(self.device)

    def maps(self, images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> Sequence[np.ndarray]:
        """See MapsMaker."""
        from amn_ray.stages.amn.model import amn_maps

        labels = [row["labels"] for row in rows]
        return amn_maps(
            self.model, images, labels, num_classes=self.num_classes, config=self.config, device=self.device
        )

    def seeds(self, ids: Sequence[str]) -> Sequence[bytes | None]:
        """See MapsMaker."""
        return [row["mask"] for row in self.seeds_table.take(ids, ["mask"])]
