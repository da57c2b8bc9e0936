"""LPCAM on Ray Data: where each class is, the features to cluster, and the maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from amn_ray.core.artifacts import MODEL, Artifact
from amn_ray.data.images import decode_image
from amn_ray.data.pixels import Pixels
from amn_ray.stages.lpcam.config import LpcamMapsConfig, LpcamPrototypesConfig
from amn_ray.stages.lpcam.sample import CONTEXT, OWN
from amn_ray.stages.maps import MapsMaker, OnNetworks

REGIONS = pa.schema({"image_id": pa.string(), "keys": pa.list_(pa.int16()), "parts": pa.binary(), "size": pa.int32()})
"""`parts`: int8 [K, h·w], OWN, CONTEXT or 0 at each position of the grid at scale 1; `size`: h·w."""
FEATURES = pa.schema({"image_id": pa.string(), "positions": pa.list_(pa.int32()), "features": pa.binary()})
"""`features`: float32 [n, C] of these positions."""


class _OfImages(OnNetworks):
    """A mapper that loads the classifier once, and sees images in groups of one size."""

    def __init__(self, num_classes: int, pixels: Pixels, weights: Artifact, threads: int) -> None:
        super().__init__(pixels, threads)
        from amn_ray.nn.classifier import load_classifier

        self.model = load_classifier(weights, num_classes).to(self.device)

    def groups(self, batch: pa.Table) -> Iterator[tuple[list[str], list[np.ndarray]]]:
        """(ids, images) of one size."""
        from amn_ray.nn.multiscale import same_size_groups

        ids = batch.column("image_id").to_pylist()
        images = [decode_image(encoded, self.pixels) for encoded in batch.column("image").to_pylist()]
        for group in same_size_groups(images):
            yield [ids[i] for i in group], [images[i] for i in group]


class FindRegions(_OfImages):
    """Maps batches of the image table to where each of the chosen classes is: rows of REGIONS."""

    def __init__(self, config: LpcamPrototypesConfig, chosen: Mapping[str, Sequence[int]], **others: Any) -> None:
        super().__init__(**others)
        self.config = config
        self.chosen = chosen

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`image_id`, `image` -> rows of REGIONS."""
        from amn_ray.nn.class_activation import cam_sums

        rows = []
        for ids, images in self.groups(batch):
            keys = [self.chosen[image_id] for image_id in ids]
            sums = cam_sums(
                self.model,
                images,
                keys,
                scales=self.config.scales,
                precision=self.config.precision,
                device=self.device,
            )
            for image_id, labels, total in zip(ids, keys, sums, strict=True):
                maps_Khw = on_grid(total.normalised().cpu().numpy(), self.model.backbone.strides["layer4"])
                parts = np.where(maps_Khw > self.config.region, OWN, 0)
                parts = np.where(maps_Khw < self.config.region, CONTEXT, parts).astype(np.int8)
                size = parts[0].size
                rows.append({"image_id": image_id, "keys": labels, "parts": parts.tobytes(), "size": size})
        return pa.Table.from_pylist(rows, schema=REGIONS)


def on_grid(maps_KHW: np.ndarray, stride: int) -> np.ndarray:
    """Maps read on the feature grid at scale 1: row ⌊i·H/h⌋, column ⌊j·W/w⌋. (K, H, W) -> (K, h, w)."""
    height, width = maps_KHW.shape[1:]
    h, w = -(-height // stride), -(-width // stride)
    return maps_KHW[:, np.arange(h)[:, None] * height // h, np.arange(w) * width // w]


class CollectFeatures(_OfImages):
    """Maps batches of the image table to the features at the sampled positions: rows of FEATURES."""

    def __init__(self, positions: Mapping[str, Sequence[int]], **others: Any) -> None:
        super().__init__(**others)
        self.positions = positions

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`image_id`, `image` -> rows of FEATURES."""
        import torch

        from amn_ray.nn.multiscale import images_per_pass, scaled

        rows = []
        for ids, images in self.groups(batch):
            image_BCHW = scaled(images, 1, self.model.backbone, self.device)
            with torch.inference_mode():  # float32: norms of features enter the centres, and where the clustering ends
                parts = [self.model.features(part) for part in image_BCHW.split(images_per_pass(image_BCHW))]
            for image_id, features_Chw in zip(ids, torch.cat(parts), strict=True):
                positions = list(self.positions[image_id])
                features_nC = features_Chw.flatten(1).T[positions].contiguous().cpu().numpy()
                rows.append({"image_id": image_id, "positions": positions, "features": features_nC.tobytes()})
        return pa.Table.from_pylist(rows, schema=FEATURES)


class MakeLpcam(MapsMaker):
    """Loads the classifier and the prototypes once."""

    def __init__(
        self,
        config: LpcamMapsConfig,
        num_classes: int,
        pixels: Pixels,
        weights: Artifact,
        prototypes: Artifact,
        threads: int,
    ) -> None:
        super().__init__(pixels, threads)
        import safetensors.torch

        from amn_ray.nn.classifier import load_classifier

        self.config = config
        self.model = load_classifier(weights, num_classes).to(self.device)
        state = safetensors.torch.load(prototypes.read(MODEL))
        self.directions, self.known = state["directions"].to(self.device), state["known"]

    def maps(self, images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> Sequence[np.ndarray]:
        """See MapsMaker."""
        from amn_ray.stages.lpcam.model import lpcam_maps

        return lpcam_maps(
            self.model,
            self.directions,
            self.known,
            images,
            [row["labels"] for row in rows],
            scales=self.config.scales,
            precision=self.config.precision,
            device=self.device,
        )
