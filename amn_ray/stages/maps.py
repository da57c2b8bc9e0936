"""What all methods share that make maps with a network: images in, rows of the maps table out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from amn_ray.core.artifacts import Artifact
from amn_ray.data.images import decode_image
from amn_ray.data.maps import SCHEMA, stored_size, to_row
from amn_ray.data.pixels import Pixels
from amn_ray.platform.mapping import map_table
from amn_ray.stages.stage import Context, Result

if TYPE_CHECKING:
    from amn_ray.nn.classifier import Classifier

COLUMNS = ("image", "labels")
SLOW = 4
"""Images that are made, written and counted together where each takes long."""


class OnNetworks:
    """What a mapper with a network begins with; a subclass loads the network to `device`."""

    def __init__(self, pixels: Pixels, threads: int) -> None:
        import torch  # on the actor: the driver only names the class and need not load it

        from amn_ray.nn.weights import pick_device

        torch.set_num_threads(threads)
        self.pixels = pixels
        self.device = pick_device()


class MapsMaker(OnNetworks, ABC):
    """A mapper from batches of the image table to the maps table; a subclass makes the maps."""

    @abstractmethod
    def maps(self, images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> Sequence[np.ndarray]:
        """The maps of images of one size.

        Args:
            images: RGB uint8 (H, W, 3).
            rows: their `image_id` and `labels`, none of which is empty.

        Returns:
            For each image float32 (K, ⌈H/4⌉, ⌈W/4⌉) in [0, 1].
        """

    def seeds(self, ids: Sequence[str]) -> Sequence[bytes | None]:
        """The seeds that modulate the maps of these images, as mask PNGs; None for maps that nothing modulates."""
        return [None] * len(ids)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`image_id`, `image`, `labels` -> rows of data.maps.SCHEMA."""
        from amn_ray.nn.multiscale import same_size_groups

        rows = batch.to_pylist()
        images = [decode_image(row["image"], self.pixels) for row in rows]
        labelled = [place for place, row in enumerate(rows) if row["labels"]]
        made: dict[int, np.ndarray] = {}
        for group in same_size_groups([images[place] for place in labelled]):
            places = [labelled[i] for i in group]
            made |= zip(places, self.maps([images[i] for i in places], [rows[i] for i in places]), strict=True)
        none = [np.zeros((0, *stored_size(*image.shape[:2])), np.float32) for image in images]
        seeds = self.seeds([row["image_id"] for row in rows])
        table = [
            to_row(row["image_id"], row["labels"], made.get(place, none[place]), seeds[place])
            for place, row in enumerate(rows)
        ]
        return pa.Table.from_pylist(table, schema=SCHEMA)


class ScalesOfCam(Protocol):
    """The settings that CAMs depend on."""

    scales: list[float]
    precision: str | None


class CamMaker(MapsMaker):
    """Makes the CAMs of a classifier (method 2)."""

    config: ScalesOfCam
    model: Classifier
    """In eval mode, on `device`."""

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


def map_images(
    mapper: type[MapsMaker],
    settings: Mapping[str, Any],
    images: Artifact,
    output: Artifact,
    context: Context,
    *,
    ids: Collection[str] | None = None,
    slow: bool = False,
) -> Result:
    """Make the maps of all images of a table, or of those with these ids.

    Args:
        mapper: is made with `settings`, `num_classes`, `pixels` and `threads`.
        settings: of this mapper.
        images: the image table.
        output: where the table of maps is written.
        context: of the stage.
        ids: see map_table.
        slow: whether an image takes long, so that each is written, and reported, as soon as it is made.
    """
    manifest = images.manifest()
    everything = {**settings, "num_classes": len(manifest["classes"]), "pixels": Pixels.of(manifest)}
    rows = SLOW if slow else None
    return map_table(
        context.cluster, images, COLUMNS, mapper, everything, output, on="networks", ids=ids, rows_per_block=rows
    )
