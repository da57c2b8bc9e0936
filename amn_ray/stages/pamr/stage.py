"""PAMR: images and maps → refined seeds."""

from __future__ import annotations

from collections.abc import Mapping

from amn_ray.core.artifacts import Artifact, common_ids
from amn_ray.data.pixels import Pixels
from amn_ray.platform.mapping import MAPPING_METRICS, map_table
from amn_ray.stages.methods import Method
from amn_ray.stages.pamr.config import PamrConfig
from amn_ray.stages.pamr.infer import COLUMNS, MakeSeed
from amn_ray.stages.stage import Context, Result, Stage


def run(config: PamrConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Refine the maps of all images."""
    images = inputs["images"]
    settings = {"config": config, "pixels": Pixels.of(images.manifest()), "maps": inputs["maps"]}
    # It has no weights, but runs on GPUs like a network.
    ids = common_ids(images, inputs["maps"])
    return map_table(context.cluster, images, COLUMNS, MakeSeed, settings, output, on="networks", ids=ids)


PAMR = Stage(
    name="pamr",
    version=1,
    config=PamrConfig,
    makes="masks",
    needs=("images", "maps"),
    metrics=MAPPING_METRICS,
    run=run,
)
METHOD = Method(group="refinement", name="pamr", stages={"refined": PAMR, "amn_refined": PAMR})
