"""Making AdvCAM's maps on Ray Data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from amn_ray.core.artifacts import Artifact
from amn_ray.data.pixels import Pixels
from amn_ray.stages.advcam.config import AdvCamConfig
from amn_ray.stages.maps import MapsMaker


class MakeAdvCam(MapsMaker):
    """Loads the classifier once."""

    def __init__(self, config: AdvCamConfig, num_classes: int, pixels: Pixels, weights: Artifact, threads: int) -> None:
        super().__init__(pixels, threads)
        from amn_ray.nn.classifier import load_classifier

        self.config = config
        self.model = load_classifier(weights, num_classes).to(self.device)

    def maps(self, images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> Sequence[np.ndarray]:
        """See MapsMaker."""
        from amn_ray.stages.advcam.model import advcam_maps

        return advcam_maps(self.model, images, [row["labels"] for row in rows], self.config, self.device)
