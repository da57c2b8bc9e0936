"""The ground truth of a split: its masks, aligned with the images.

Replaces nothing of the released code, which reads loose files in every evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amn_ray.core.artifacts import Artifact
from amn_ray.core.errors import RequestError, RunError
from amn_ray.data.listing import Summary
from amn_ray.data.pixels import Pixels
from amn_ray.stages.reading import check_bad, read_table
from amn_ray.stages.stage import Context, Result, Stage
from amn_ray.stages.truth.infer import SCHEMA, ReadMask, review


def run(config: Summary, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Read, check and store the mask of every image that has one.

    Raises:
        RequestError: more masks are bad than `dataset.max_bad_fraction` allows, none is left, or most contradict the
            labels.
        RunError: another pipeline wrote the same table.
    """
    images = inputs["images"]
    manifest = images.manifest()
    classes = manifest["classes"]
    read_mask = ReadMask(images, Pixels.of(manifest), len(classes))
    try:
        found = read_table(
            config, output, context.cluster, read_mask, SCHEMA, total=config.masks, counted=config.evaluated
        )
        if not found.rows:
            raise RequestError(
                f"none of the {config.masks} masks can be used, as they or their images are bad; mend them, the "
                f"first of which is {[*found.problems, *found.spared, *manifest['bad_images']][0]}"
            )
        warnings = found.warnings(ReadMask.files) + context.cluster.run_remote(review, output, images, classes)
    except (RequestError, RunError):
        output.remove()
        raise
    return {"rows": found.rows, "bad_masks": found.problems, "warnings": warnings, "metrics": {"masks": found.rows}}


def check_reuse(config: Summary, manifest: Mapping[str, Any]) -> None:
    """Reject a table that was made with more bad masks allowed.

    Raises:
        RequestError: it lacks more masks than `dataset.max_bad_fraction` allows now.
    """
    check_bad(config.config, ReadMask.files, manifest["bad_masks"], config.evaluated)


TRUTH = Stage(
    name="truth",
    version=1,
    config=Summary,
    makes="masks",
    needs=("images",),
    metrics=("masks",),
    run=run,
    identity=Summary.truth_identity,
    check_reuse=check_reuse,
)
