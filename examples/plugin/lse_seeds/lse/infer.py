"""Making the maps on Ray Data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from amn_ray.core.artifacts import MODEL, Artifact
from amn_ray.core.settings import build
from amn_ray.data.pixels import Pixels
from amn_ray.stages.maps import MapsMaker
from lse_seeds.lse.config import LseHeadConfig, LseMapsConfig


class MakeLseMaps(MapsMaker):
    """Loads the network once."""

    def __init__(
        self, config: LseMapsConfig, num_classes: int, pixels: Pixels, weights: Artifact, threads: int
    ) -> None:
        super().__init__(pixels, threads)
        from amn_ray.nn.weights import load_module  # on the actor: the driver only names this class
        from lse_seeds.lse.train import network

        self.config = config
        head = build(LseHeadConfig, weights.manifest()["config"])
        self.model = load_module(network(head, num_classes), weights.read(MODEL)).to(self.device)

    def maps(self, images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> Sequence[np.ndarray]:
        """See MapsMaker."""
        from amn_ray.nn.class_activation import cam_maps  # of any classifier: scales, flips, each class by its maximum

        return cam_maps(
            self.model,
            images,
            [row["labels"] for row in rows],
            scales=self.config.scales,
            precision=self.config.precision,
            device=self.device,
        )
