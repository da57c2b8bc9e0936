"""The images of a split: a data set -> the sharded image table.

Replaces nothing of the released code, which reads loose files in every step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from amn_ray.core.artifacts import Artifact
from amn_ray.core.errors import RequestError, RunError
from amn_ray.data.listing import Summary
from amn_ray.stages.images.infer import SCHEMA, ReadImage, review
from amn_ray.stages.reading import check_bad, read_table
from amn_ray.stages.stage import Context, Result, Stage


def run(config: Summary, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Read, check and store every image of a split.

    Raises:
        RequestError: more images are bad than `dataset.max_bad_fraction` allows, or together they would be black or
            white.
        RunError: another pipeline wrote the same table.
    """
    pixels = config.config.pixels
    try:
        found = read_table(
            config, output, context.cluster, ReadImage(pixels), SCHEMA, total=config.rows, counted=config.rows
        )
        reviewed = context.cluster.run_remote(review, output, pixels, config.classes, config.split)
    except (RequestError, RunError):
        output.remove()
        raise
    return {
        "rows": found.rows,
        "classes": list(config.classes),
        "pixels": dataclasses.asdict(pixels),
        "bad_images": found.problems,
        "unknown_classes": dict(config.unknown_classes),
        "unlabelled": config.unlabelled,
        "listed": list(config.warnings),
        "largest": reviewed["largest"],
        "warnings": found.warnings(ReadImage.files) + reviewed["warnings"],
        "metrics": {"images": found.rows},
    }


def check_reuse(config: Summary, manifest: Mapping[str, Any]) -> None:
    """Reject a table that was made with more bad images allowed.

    Raises:
        RequestError: it lacks more images than `dataset.max_bad_fraction` allows now.
    """
    check_bad(config.config, ReadImage.files, manifest["bad_images"], config.rows)


IMAGES = Stage(
    name="images",
    version=5,
    config=Summary,
    makes="table",
    needs=(),
    metrics=("images",),
    run=run,
    identity=Summary.identity,
    check_reuse=check_reuse,
)
