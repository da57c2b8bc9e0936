"""Checks that a stage made what it declares: stages of plug-ins are third-party code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from amn_ray.core.artifacts import MODEL, TABLE, Artifact
from amn_ray.core.errors import RunError
from amn_ray.data.images import MASK_SCHEMA
from amn_ray.data.maps import SCHEMA as MAPS_SCHEMA
from amn_ray.stages.stage import Makes, Stage
from amn_ray.training.job import BACKBONE

COLUMNS: Mapping[Makes, Sequence[str]] = {
    "table": ("image_id",),
    "maps": MAPS_SCHEMA.names,
    "masks": MASK_SCHEMA.names,
}
"""Required columns of the table that a stage makes."""


def check_made(step: str, stage: Stage[Any], output: Artifact, result: Any) -> None:
    """Reject what a stage returned or wrote if it is not what the stage declares; wrong output is removed.

    Raises:
        RunError: one sentence.
    """
    where = f"{step}: the stage {stage.name}"
    if not isinstance(result, dict) or not isinstance(result.get("metrics"), dict):
        raise RunError(f"{where} returned {result!r:.80}, expected a dict with a dict of numbers as `metrics`")
    try:
        json.dumps(result)
    except (TypeError, ValueError) as error:
        raise RunError(
            f"{where} returned a result that is not JSON ({error}); return plain Python numbers and lists"
        ) from error
    if (missing := _missing(stage.makes, output)) is not None:
        output.remove()
        raise RunError(f"{where} makes {stage.makes}, but wrote {missing}; see docs/extending.md")


def _missing(makes: Makes, output: Artifact) -> str | None:
    """What an artifact of this kind lacks, in words."""
    if makes == "weights":
        return None if output.exists(MODEL) or output.exists(BACKBONE) else f"no {MODEL}"
    if not output.fresh_table().files:
        return f"no table (Parquet files in its folder {TABLE})"
    missing = [name for name in COLUMNS[makes] if name not in output.fresh_table().columns]
    return f"a table without {', '.join(missing)}" if missing else None
