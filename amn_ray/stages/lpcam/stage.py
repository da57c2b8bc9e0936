"""LPCAM: images and the classifier → prototypes of each class; with these → activation maps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from amn_ray.core.artifacts import Artifact
from amn_ray.core.errors import RequestError
from amn_ray.data.pixels import Pixels
from amn_ray.platform.mapping import MAPPING_METRICS, map_table
from amn_ray.stages.lpcam.config import LpcamMapsConfig, LpcamPrototypesConfig
from amn_ray.stages.lpcam.infer import CollectFeatures, FindRegions, MakeLpcam
from amn_ray.stages.lpcam.sample import Sample, drawn_images, smallest
from amn_ray.stages.maps import map_images
from amn_ray.stages.methods import Method
from amn_ray.stages.stage import Context, Result, Stage


def find_prototypes(
    config: LpcamPrototypesConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context
) -> Result:
    """Cluster a sample of the classifier's features.

    First the CAMs of the images say where each class is, then the sampled features are collected, then clustered. The
    tables of the first two are parts of the output until the end, so that a restart goes on.
    """
    images, classifier, cluster = inputs["images"], inputs["classifier"], context.cluster
    manifest = images.manifest()
    common: dict[str, Any] = {
        "num_classes": len(manifest["classes"]),
        "pixels": Pixels.of(manifest),
        "weights": classifier,
    }
    chosen = cluster.run_remote(_chosen, config, images)
    if not chosen:
        raise RequestError("maps_network: none of the images has a label, so there is nothing to cluster")
    regions, features = output.part("regions"), output.part("features")
    settings = {"config": config, "chosen": chosen, **common}
    mapped = map_table(cluster, images, ["image"], FindRegions, settings, regions, on="networks", ids=chosen.keys())
    sample = cluster.run_remote(_sample, config, regions)
    positions: dict[str, set[int]] = defaultdict(set)
    for places in sample.values():
        for image_id, position in places:
            positions[image_id].add(position)
    settings = {"positions": {image_id: sorted(found) for image_id, found in positions.items()}, **common}
    map_table(cluster, images, ["image"], CollectFeatures, settings, features, on="networks", ids=positions.keys())
    counted = cluster.run_remote(_write, config, sample, features, classifier, output, ends=True)
    for done in (regions, features):
        done.remove()
    return {"rows": mapped["rows"], "metrics": {}, **counted}


def _chosen(config: LpcamPrototypesConfig, images: Artifact) -> dict[str, list[int]]:
    return drawn_images(images.table().column("labels"), config.seed or 0, config.images_per_class)


def _sample(config: LpcamPrototypesConfig, regions: Artifact) -> Sample:
    return smallest(config.seed or 0, _parts(regions), config.sample)


def _parts(regions: Artifact) -> Iterator[tuple[str, int, np.ndarray]]:
    for row in regions.fresh_table().read(["keys", "parts", "size"]).to_pylist():
        parts_KP = np.frombuffer(row["parts"], np.int8).reshape(len(row["keys"]), row["size"])
        for label, parts in zip(row["keys"], parts_KP, strict=True):
            yield row["image_id"], label, parts


def _write(
    config: LpcamPrototypesConfig, sample: Sample, features: Artifact, classifier: Artifact, output: Artifact
) -> dict[str, list[int]]:
    from amn_ray.stages.lpcam.prototypes import write_prototypes  # on the worker: PyTorch costs the driver seconds

    return write_prototypes(config, sample, features.fresh_table(), classifier, output)


def make_maps(config: LpcamMapsConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Make the maps of all images."""
    settings = {"config": config, "weights": inputs["classifier"], "prototypes": inputs["maps_network"]}
    return map_images(MakeLpcam, settings, inputs["images"], output, context)


PROTOTYPES = Stage(
    name="lpcam_prototypes",
    version=1,
    config=LpcamPrototypesConfig,
    makes="weights",
    needs=("images", "classifier"),
    run=find_prototypes,
)
LPCAM = Stage(
    name="lpcam",
    version=1,
    config=LpcamMapsConfig,
    makes="maps",
    needs=("images", "classifier", "maps_network"),
    metrics=MAPPING_METRICS,
    run=make_maps,
)
METHOD = Method(
    group="maps",
    name="lpcam",
    title="LPCAM",
    stages={"maps_network": PROTOTYPES, "maps": LPCAM},
    settings=Path(__file__).with_name("lpcam.yaml"),
)
