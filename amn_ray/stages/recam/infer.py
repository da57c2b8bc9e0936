"""Making ReCAM's maps on Ray Data."""

from __future__ import annotations

from amn_ray.core.artifacts import MODEL, Artifact
from amn_ray.data.pixels import Pixels
from amn_ray.stages.maps import CamMaker
from amn_ray.stages.recam.config import RecamMapsConfig, RecamNetworkConfig


class MakeRecam(CamMaker):
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
