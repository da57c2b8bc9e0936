"""Making the maps on Ray Data."""

from __future__ import annotations

from amn_ray.core.artifacts import MODEL, Artifact
from amn_ray.core.settings import build
from amn_ray.data.pixels import Pixels
from amn_ray.stages.maps import CamMaker
from lse_seeds.lse.config import LseHeadConfig, LseMapsConfig


class MakeLseMaps(CamMaker):
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
