"""Making ReCAM's maps on Ray Data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from amn_ray.core.artifacts import MODEL, Artifact
from amn_ray.data.pixels import Pixels
from amn_ray.stages.maps import MapsMaker
from amn_ray.stages.recam.config import RecamMapsConfig, RecamNetworkConfig


class MakeRecam(MapsMaker):
    """Loads the network once."""

    def __init__(
        self,
        config: RecamMapsConfig,
        network: RecamNetworkConfig,
        num_classes: int,
        pixels: Pixels,
        weights: Artifact,
        threads: int,
    ) -> None:
        super().__init__(pixels, threads)
        from amn_ray.nn.weights import load_module
        from amn_ray.stages.recam.model import RecamNet

        assert network.backbone is not None
        self.config = config
        trained = load_module(RecamNet(network.backbone, num_classes), weights.read(MODEL))
        self.model = trained.as_classifier(network.backbone, product=config.product).to(self.device)

    def maps(self, images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> Sequence[np.ndarray]:
        """See MapsMaker."""
        from amn_ray.nn.class_activation import cam_maps

        return cam_maps(
            self.model,
            images,
            [row["labels"] for row in rows],
            scales=self.config.scales,
            precision=self.config.precision,
            device=self.device,
        )
