"""Making CAMs on Ray Data (method 2; released code: step/make_cam.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from amn_ray.core.artifacts import Artifact
from amn_ray.data.pixels import Pixels
from amn_ray.stages.cam.config import CamConfig
from amn_ray.stages.maps import MapsMaker


class MakeCam(MapsMaker):
    """Loads the classifier once."""

    def __init__(self, config: CamConfig, num_classes: int, pixels: Pixels, weights: Artifact, threads: int) -> None:
        super().__init__(pixels, threads)
        from amn_ray.nn.classifier import load_classifier

        self.config = config
        self.model = load_classifier(weights, num_classes).to(self.device)

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
