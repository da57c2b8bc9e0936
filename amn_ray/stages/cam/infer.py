"""Making CAMs on Ray Data (method 2; released code: step/make_cam.py)."""

from __future__ import annotations

from amn_ray.core.artifacts import Artifact
from amn_ray.data.pixels import Pixels
from amn_ray.stages.cam.config import CamConfig
from amn_ray.stages.maps import CamMaker


class MakeCam(CamMaker):
    """Loads the classifier once."""

    def __init__(self, config: CamConfig, num_classes: int, pixels: Pixels, weights: Artifact, threads: int) -> None:
        super().__init__(pixels, threads)
        from amn_ray.nn.classifier import load_classifier

        self.config = config
        self.model = load_classifier(weights, num_classes).to(self.device)
