"""The CRF stage: images and maps → refined seeds. Used after CAM and, with other thresholds, after AMN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amn_ray.core.artifacts import Artifact
from amn_ray.data.pixels import Pixels
from amn_ray.platform.cluster import Cluster
from amn_ray.platform.mapping import map_table
from amn_ray.stages.crf.config import CrfConfig, KernelConfig
from amn_ray.stages.crf.infer import COLUMNS, MakePrediction, MakeSeed

NAME = "crf"
VERSION = 2
TABLE = "masks"


def run(config: KernelConfig, inputs: Mapping[str, Artifact], output: Artifact, cluster: Cluster) -> dict[str, Any]:
    """Refine the maps (given a CrfConfig) or a network's predictions of all images.

    Inputs: `images`, and either `maps` or `logits`.
    """
    images = inputs["images"]
    pixels = Pixels.of(images.manifest())
    mapper, settings = (
        (MakeSeed, {"config": config, "pixels": pixels, "maps": inputs["maps"]})
        if isinstance(config, CrfConfig)
        else (MakePrediction, {"config": config, "pixels": pixels, "logits": inputs["logits"]})
    )
    speed = map_table(cluster, (images, "rows"), COLUMNS, mapper, settings, (output, TABLE), share=cluster.cpu_share())
    return {"rows": images.manifest()["rows"], "metrics": {"images_per_second": speed}}
