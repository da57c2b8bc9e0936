"""RIB: images and the classifier → activation maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from amn_ray.core.artifacts import Artifact
from amn_ray.platform.mapping import MAPPING_METRICS
from amn_ray.stages.maps import map_images
from amn_ray.stages.methods import Method
from amn_ray.stages.rib.config import RibConfig
from amn_ray.stages.rib.infer import MakeRib, drawn
from amn_ray.stages.stage import Context, Result, Stage


def run(config: RibConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Make the maps of all images."""
    images, everything = inputs["images"], inputs["all_images"]
    warnings = context.cluster.run_remote(_too_few, config, images, everything)
    settings = {"config": config, "weights": inputs["classifier"], "all_images": everything}
    return {**map_images(MakeRib, settings, images, output, context, slow=True), "warnings": warnings}


def _too_few(config: RibConfig, images: Artifact, everything: Artifact) -> list[str]:
    """A sentence if images have fewer others to learn from than the method asks for."""
    labels = {image_id: frozenset(row) for image_id, row in everything.table().column("labels").items()}
    sizes: dict[frozenset[int], int] = {}
    for image_id in images.table().ids():
        own = labels[image_id]
        if own and own not in sizes:
            sizes[own] = sum(len(ids) for ids in drawn(labels, image_id, config))
    wanted = config.steps * config.batch_size
    if not sizes or min(sizes.values()) >= wanted:
        return []
    return [
        f"some images have only {min(sizes.values())} others that share no class with them, and RIB asks for {wanted} "
        f"({config.steps} steps of {config.batch_size}); these learn from fewer, or from themselves alone"
    ]


RIB = Stage(
    name="rib",
    version=1,
    config=RibConfig,
    makes="maps",
    needs=("images", "all_images", "classifier"),
    metrics=MAPPING_METRICS,
    run=run,
)
METHOD = Method(
    group="maps", name="rib", title="RIB", stages={"maps": RIB}, settings=Path(__file__).with_name("rib.yaml")
)
