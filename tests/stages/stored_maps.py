"""An artifact of maps, as a stage that reads it finds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from amn_ray.core.artifacts import TABLE, Artifact, Store
from amn_ray.data.maps import SCHEMA, to_row


def write_maps(folder: Path, maps: Mapping[str, tuple[Sequence[int], np.ndarray]]) -> Artifact:
    """`maps` is image_id -> (keys, maps (K, h, w))."""
    artifact = Store.open(str(folder)).artifact("maps", 1, {}, {})
    Path(artifact.at(TABLE)).mkdir(parents=True)
    rows = [to_row(image_id, list(keys), maps_Khw) for image_id, (keys, maps_Khw) in maps.items()]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), Path(artifact.at(TABLE)) / "0.parquet")
    return artifact
