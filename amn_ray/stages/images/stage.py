"""The images stage: a split of a data set -> the sharded image table.

Replaces nothing of the released code, which reads loose files in every step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import ray.data

from amn_ray.artifacts import Artifact, Table
from amn_ray.cluster import LIGHT_TASK_CPUS, Cluster
from amn_ray.errors import RequestError, RunError, told_by_workers
from amn_ray.stages.images.config import SplitRequest
from amn_ray.stages.images.infer import BadImage, Load, load_row

NAME = "images"
VERSION = 2
TABLE = "rows"


def identity(config: SplitRequest) -> dict[str, Any]:
    """What decides the table's content."""
    return config.identity()


def run(config: SplitRequest, inputs: Mapping[str, Artifact], output: Artifact, cluster: Cluster) -> dict[str, Any]:
    """Read, check and store every image of a split; see stages/__init__.py.

    Raises:
        RequestError: an image or mask is bad, and more are than `dataset.max_bad_fraction` allows.
        RunError: another pipeline wrote the same table.
    """
    records = config.listing.records
    # A shard is written whole or, after a crash, not at all: begin anew rather than mend.
    output.remove()
    cluster.connect()
    load = Load(config.source, records, skip_bad=config.config.max_bad_fraction > 0)
    positions = ray.data.range(len(records), override_num_blocks=math.ceil(len(records) / config.config.rows_per_shard))
    try:
        with told_by_workers():
            positions.map_batches(load, batch_size=None, num_cpus=0.5).write_parquet(
                output.at(TABLE),
                filesystem=output.fs,
                compression="zstd",
                row_group_size=16,  # training reads single rows
                ray_remote_args={"num_cpus": LIGHT_TASK_CPUS},
            )
        ids = Table(output.fs, output.at(TABLE)).all_ids()
        good = set(ids)
        bad = [record for record in records if record.image_id not in good]
        problems = []
        for record in bad:
            try:
                load_row(config.source, record)
            except BadImage as problem:
                problems.append(str(problem))
        if len(ids) > len(good) or len(problems) < len(bad):
            raise RunError(
                f"{output.at(TABLE)}: holds {len(ids)} rows ({len(good)} different) of {len(records)} images, so "
                "another pipeline wrote to it at the same time; run again when it has ended"
            )
        allowed = config.config.max_bad_fraction
        if len(bad) > allowed * len(records):
            raise RequestError(
                f"{len(bad)} of {len(records)} images are bad, dataset.max_bad_fraction={allowed} allows fewer; "
                f"the first: {problems[0]}"
            )
    except (RequestError, RunError):
        output.remove()
        raise
    return {
        "rows": len(good),
        "classes": config.source.classes,
        "bad_images": problems,
        "unknown_classes": dict(config.listing.unknown_classes),
        "unlabelled": sum(not record.labels for record in records),
        "metrics": {"images": len(good)},
    }
