"""CAM: images and the classifier → class activation maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from amn_ray.core.artifacts import Artifact
from amn_ray.platform.mapping import MAPPING_METRICS
from amn_ray.stages.cam.config import CamConfig
from amn_ray.stages.cam.infer import MakeCam
from amn_ray.stages.maps import map_images
from amn_ray.stages.methods import Method
from amn_ray.stages.stage import Context, Result, Stage


def run(config: CamConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Make the maps of all images."""
    settings = {"config": config, "weights": inputs["classifier"]}
    return map_images(MakeCam, settings, inputs["images"], output, context)


CAM = Stage(
    name="cam",
    version=1,
    config=CamConfig,
    makes="maps",
    needs=("images", "classifier"),
    metrics=MAPPING_METRICS,
    run=run,
)
METHOD = Method(
    group="maps", name="cam", title="CAM", stages={"maps": CAM}, settings=Path(__file__).with_name("cam.yaml")
)
