"""Thresholds: the sizes of images, and maps → seeds."""

from __future__ import annotations

from collections.abc import Mapping

from amn_ray.core.artifacts import Artifact, common_ids
from amn_ray.platform.mapping import MAPPING_METRICS, map_table
from amn_ray.stages.groups import RefinementConfig
from amn_ray.stages.methods import Method
from amn_ray.stages.no_refinement.infer import COLUMNS, MakeSeed
from amn_ray.stages.stage import Context, Result, Stage


def run(config: RefinementConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Threshold the maps of all images."""
    settings = {"config": config, "maps": inputs["maps"]}
    images = inputs["images"]
    ids = common_ids(images, inputs["maps"])
    return map_table(context.cluster, images, COLUMNS, MakeSeed, settings, output, on="tasks", ids=ids)


THRESHOLDS = Stage(
    name="thresholds",
    version=1,
    config=RefinementConfig,
    makes="masks",
    needs=("images", "maps"),
    metrics=MAPPING_METRICS,
    run=run,
)
METHOD = Method(group="refinement", name="none", stages={"refined": THRESHOLDS, "amn_refined": THRESHOLDS})
