"""Making SEAM's maps on Ray Data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from amn_ray.core.artifacts import MODEL, Artifact
from amn_ray.data.pixels import Pixels
from amn_ray.stages.maps import MapsMaker
from amn_ray.stages.seam.config import SeamMapsConfig, SeamNetworkConfig


class MakeSeam(MapsMaker):
    """Loads the network once."""

    def __init__(
        self,
        config: SeamMapsConfig,
        network: SeamNetworkConfig,
        num_classes: int,
        pixels: Pixels,
        weights: Artifact,
        threads: int,
    ) -> None:
        super().__init__(pixels, threads)
        from amn_ray.nn.weights import load_module
        from amn_ray.stages.seam.model import SeamNet

        self.config = config
        self.model = load_module(SeamNet(network, num_classes), weights.read(MODEL)).to(self.device)

    def maps(self, images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> Sequence[np.ndarray]:
        """See MapsMaker."""
        from amn_ray.stages.seam.model import seam_maps

        return seam_maps(
            self.model,
            images,
            [row["labels"] for row in rows],
            scales=self.config.scales,
            precision=self.config.precision,
            device=self.device,
        )
