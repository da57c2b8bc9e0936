"""The images stage: a split of a data set -> the sharded image table.

Replaces nothing of the released code, which reads loose files in every step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amn_ray.core.artifacts import Artifact
from amn_ray.core.errors import RequestError, RunError, told_by_workers
from amn_ray.data.listing import Summary
from amn_ray.platform.cluster import LIGHT_TASK_CPUS, Cluster
from amn_ray.platform.mapping import numbers, told_progress
from amn_ray.platform.memory import told_if_killed
from amn_ray.stages.images.infer import RECORDS, TRIES, Load, list_records, problems_of, review

NAME = "images"
VERSION = 4
TABLE = "rows"
READER_CPUS = 0.5
"""What a task reserves that reads and checks a shard."""


def identity(config: Summary) -> dict[str, Any]:
    """What decides the table's content."""
    return config.identity()


def run(config: Summary, inputs: Mapping[str, Artifact], output: Artifact, cluster: Cluster) -> dict[str, Any]:
    """Read, check and store every image of a split; see stages/__init__.py.

    Raises:
        RequestError: an image or mask is bad, and more are than `dataset.max_bad_fraction` allows.
        RunError: another pipeline wrote the same table.
    """
    # A shard is written whole or, after a crash, not at all: begin anew rather than mend.
    output.remove()
    root = getattr(config.config, "root", None)
    if root is not None:
        cluster.check_everywhere(_lacks, root, working_only=True)
    source = cluster.elsewhere(list_records, config, output, ends=True)
    num_shards = math.ceil(config.rows / config.config.rows_per_shard)
    pixels = config.config.pixels
    load = Load(source, output, pixels, skip_bad=config.config.max_bad_fraction > 0)
    shards = numbers(num_shards, num_shards, None, READER_CPUS)
    try:
        with (
            told_if_killed(NAME, "dataset.rows_per_shard, or dataset.max_side"),
            told_by_workers(),
            told_progress(NAME, output.table(TABLE), config.rows),
        ):
            shards.map_batches(load, batch_size=None, num_cpus=READER_CPUS).write_parquet(
                output.at(TABLE),
                filesystem=output.fs,
                compression="zstd",
                row_group_size=16,  # training reads single rows
                ray_remote_args={"num_cpus": LIGHT_TASK_CPUS},
                concurrency=cluster.light_tasks(),
            )
        rows, problems = cluster.elsewhere(problems_of, source, output, TABLE, num_shards, pixels)
        _check_bad(config, problems)
        if not rows:
            raise RequestError(f"all of {config.rows} images are bad; the first: {problems[0]}")
        reviewed = cluster.elsewhere(review, output, TABLE, pixels, config.classes, config.split)
    except (RequestError, RunError):
        output.remove()
        raise
    for done in (RECORDS, TRIES):
        output.remove(done)
    return {
        "rows": rows,
        "classes": list(config.classes),
        "pixels": dataclasses.asdict(pixels),
        "bad_images": problems,
        "unknown_classes": dict(config.unknown_classes),
        "unlabelled": config.unlabelled,
        **reviewed,
        "metrics": {"images": rows},
    }


def check_reuse(config: Summary, manifest: Mapping[str, Any]) -> None:
    """Refuse a table that was made where more bad images were allowed.

    Raises:
        RequestError: it lacks more images than `dataset.max_bad_fraction` allows now.
    """
    _check_bad(config, manifest["bad_images"])


def _check_bad(config: Summary, problems: Sequence[str]) -> None:
    allowed = config.config.max_bad_fraction
    if len(problems) > allowed * config.rows:
        raise RequestError(
            f"{len(problems)} of {config.rows} images are bad, dataset.max_bad_fraction={allowed} allows fewer; "
            f"the first: {problems[0]}"
        )


def _lacks(root: str) -> str | None:
    return None if Path(root).exists() else f"has no dataset.root={root}; mount it at the same path on all nodes"
