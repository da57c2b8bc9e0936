"""AdvCAM: images and the classifier → activation maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from amn_ray.core.artifacts import Artifact
from amn_ray.platform.mapping import MAPPING_METRICS
from amn_ray.stages.advcam.config import AdvCamConfig
from amn_ray.stages.advcam.infer import MakeAdvCam
from amn_ray.stages.maps import map_images
from amn_ray.stages.methods import Method
from amn_ray.stages.stage import Context, Result, Stage


def run(config: AdvCamConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Make the maps of all images."""
    settings = {"config": config, "weights": inputs["classifier"]}
    return map_images(MakeAdvCam, settings, inputs["images"], output, context, slow=True)


ADVCAM = Stage(
    name="advcam",
    version=1,
    config=AdvCamConfig,
    makes="maps",
    needs=("images", "classifier"),
    metrics=MAPPING_METRICS,
    run=run,
)
METHOD = Method(
    group="maps",
    name="advcam",
    title="AdvCAM",
    stages={"maps": ADVCAM},
    settings=Path(__file__).with_name("advcam.yaml"),
)
