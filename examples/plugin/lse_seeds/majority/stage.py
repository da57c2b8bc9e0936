"""Images (their sizes) and maps → seeds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from amn_ray.core.artifacts import Artifact, common_ids
from amn_ray.platform.mapping import MAPPING_METRICS, map_table
from amn_ray.stages.methods import Method
from amn_ray.stages.stage import Context, Result, Stage
from lse_seeds.majority.config import MajorityConfig
from lse_seeds.majority.infer import COLUMNS, MakeSeed


def run(config: MajorityConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Make the seeds of all images."""
    settings = {"config": config, "maps": inputs["maps"]}
    images = inputs["images"]
    ids = common_ids(images, inputs["maps"])
    return map_table(context.cluster, images, COLUMNS, MakeSeed, settings, output, on="cpus", ids=ids)


MAJORITY = Stage(
    name="majority",
    version=1,
    config=MajorityConfig,
    makes="masks",
    needs=("images", "maps"),
    metrics=MAPPING_METRICS,
    run=run,
)
METHOD = Method(
    group="refinement",
    name="majority",
    stages={"refined": MAJORITY, "amn_refined": MAJORITY},
    settings=Path(__file__).with_name("majority.yaml"),
)
