"""The CRF stage: images and maps → refined seeds. Used after CAM and, with other thresholds, after AMN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amn_ray.artifacts import Artifact
from amn_ray.cluster import Cluster
from amn_ray.mapping import map_table
from amn_ray.stages.crf.config import CrfConfig
from amn_ray.stages.crf.infer import COLUMNS, MakeSeed

NAME = "crf"
VERSION = 1
TABLE = "masks"


def run(config: CrfConfig, inputs: Mapping[str, Artifact], output: Artifact, cluster: Cluster) -> dict[str, Any]:
    """Refine the maps of all images. Inputs: `images` and `maps`."""
    images = inputs["images"]
    speed = map_table(
        cluster,
        (images, "rows"),
        COLUMNS,
        MakeSeed,
        {"config": config, "maps": inputs["maps"]},
        (output, TABLE),
        share=cluster.cpu_share(),
    )
    return {"rows": images.manifest()["rows"], "metrics": {"images_per_second": speed}}
