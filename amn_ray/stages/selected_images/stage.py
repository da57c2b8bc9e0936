"""Some of the images: those that are evaluated, or N of them. Slow methods for maps need only see these.

The table holds the images themselves, so that methods read it as they read the table of all images.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from amn_ray.core.artifacts import Artifact, common_ids
from amn_ray.core.errors import RequestError
from amn_ray.platform.mapping import map_table
from amn_ray.stages.groups import EVALUATED
from amn_ray.stages.stage import Context, Result, Stage


@dataclass(kw_only=True)
class SelectedImagesConfig:
    """Which images."""

    images: str
    """evaluated, or the number of evaluated ones."""

    @property
    def at_most(self) -> int:
        """How many these are at most."""
        return sys.maxsize if self.images == EVALUATED else int(self.images)


class Copy:
    """Maps batches of the image table to themselves."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        """All columns, unchanged."""
        return batch


def run(config: SelectedImagesConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Copy the selected images.

    Raises:
        RequestError: no image is evaluated, or fewer than N.
    """
    images, truth = inputs["images"], inputs["truth"]
    ids = context.cluster.run_remote(select, config, images, truth)
    columns = [name for name in images.table().columns if name != "image_id"]
    mapped = map_table(context.cluster, images, columns, Copy, {}, output, on="tasks", ids=ids)
    manifest = images.manifest()
    return {
        "rows": mapped["rows"],
        "classes": manifest["classes"],
        "pixels": manifest["pixels"],
        "metrics": {"images": mapped["rows"]},
    }


def select(config: SelectedImagesConfig, images: Artifact, truth: Artifact) -> list[str]:
    """The ids of the selected images; of N, those with the smallest hashes, the same for every method and seed.

    Raises:
        RequestError: no image is evaluated, or fewer than N.
    """
    evaluated = truth.table().column("evaluated")
    ids = [image_id for image_id in common_ids(images, truth) if evaluated[image_id]]
    count = len(ids) if config.images == EVALUATED else int(config.images)
    if not ids or count > len(ids):
        raise RequestError(f"images={config.images}: {len(ids)} images are evaluated; set fewer, or evaluated, or all")
    return sorted(sorted(ids, key=lambda image_id: hashlib.sha256(image_id.encode()).digest())[:count])


SELECTED_IMAGES = Stage(
    name="selected_images",
    version=1,
    config=SelectedImagesConfig,
    makes="table",
    needs=("images", "truth"),
    metrics=("images",),
    run=run,
)
