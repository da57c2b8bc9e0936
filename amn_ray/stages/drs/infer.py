"""Making DRS's maps on Ray Data: the results, and what the second network learns from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from amn_ray.core.artifacts import MODEL, Artifact
from amn_ray.data.images import decode_image
from amn_ray.data.pixels import Pixels
from amn_ray.stages.drs.config import SQUARE, DrsMapsConfig, DrsNetworkConfig
from amn_ray.stages.maps import MapsMaker, OnNetworks

if TYPE_CHECKING:
    from amn_ray.stages.drs.model import DrsNet

TARGETS = pa.schema({"image_id": pa.string(), "keys": pa.list_(pa.int16()), "maps": pa.binary()})
"""`maps`: uint8 [K, side, side], in 255ths, of the image squeezed to a square."""
HIGHEST = 254


class MakeDrs(MapsMaker):
    """Loads the network once."""

    def __init__(
        self,
        config: DrsMapsConfig,
        network: DrsNetworkConfig,
        num_classes: int,
        pixels: Pixels,
        weights: Artifact,
        threads: int,
    ) -> None:
        super().__init__(pixels, threads)
        from amn_ray.nn.weights import load_module
        from amn_ray.stages.drs.model import DrsNet, SecondNet

        self.config = config
        self.on_squares = network.on_vgg
        model = SecondNet(num_classes) if network.second_network else DrsNet(network, num_classes)
        self.model: Any = load_module(model, weights.read(MODEL)).to(self.device)

    def maps(self, images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> Sequence[np.ndarray]:
        """See MapsMaker."""
        from amn_ray.nn.class_activation import cam_maps
        from amn_ray.stages.drs.model import square_maps

        keys = [row["labels"] for row in rows]
        if self.on_squares:
            return square_maps(
                self.model,
                images,
                keys,
                squares=self.config.squares,
                precision=self.config.precision,
                device=self.device,
            )
        return cam_maps(
            self.model, images, keys, scales=self.config.scales, precision=self.config.precision, device=self.device
        )


class MakeTargets(OnNetworks):
    """Maps batches of the image table to rows of TARGETS, with the first network."""

    def __init__(
        self, config: DrsNetworkConfig, num_classes: int, pixels: Pixels, weights: Artifact, threads: int
    ) -> None:
        super().__init__(pixels, threads)
        from amn_ray.nn.weights import load_module
        from amn_ray.stages.drs.model import DrsNet

        self.config = config
        self.model: DrsNet = load_module(DrsNet(config, num_classes), weights.read(MODEL)).to(self.device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`image_id`, `image`, `labels` -> rows of TARGETS."""
        from amn_ray.stages.drs.model import square_maps

        rows = batch.to_pylist()
        made = square_maps(
            self.model,
            [decode_image(row["image"], self.pixels) for row in rows],
            [row["labels"] for row in rows],
            squares=DrsMapsConfig().squares,
            precision=self.config.precision,
            device=self.device,
            at=SQUARE,
        )
        targets = [
            {
                "image_id": row["image_id"],
                "keys": row["labels"],
                "maps": np.minimum(np.floor(maps_Khw * 255), HIGHEST).astype(np.uint8).tobytes(),
            }
            for row, maps_Khw in zip(rows, made, strict=True)
        ]
        return pa.Table.from_pylist(targets, schema=TARGETS)
