"""What the DeepLab stage says of pseudo-masks that it cannot, or can only partly, learn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amn_ray.core.artifacts import Artifact, Store
from amn_ray.core.errors import RequestError
from amn_ray.data.images import MASK_SCHEMA, mask_row
from amn_ray.platform.cluster import Cluster
from amn_ray.stages.deeplab import stage
from amn_ray.stages.deeplab.config import DeepLabConfig


def pseudo_masks(store: Store, *values: int) -> Artifact:
    """A masks table with one image per value, filled with it."""
    made = store.artifact("irn", 1, list(values), {})
    folder = Path(made.at("masks"))
    folder.mkdir(parents=True)
    rows = [mask_row(f"image{i}", np.full((4, 6), value, np.uint8)) for i, value in enumerate(values)]
    pq.write_table(pa.Table.from_pylist(rows, schema=MASK_SCHEMA), folder / "0.parquet")
    made.commit(config={}, inputs={}, seconds=0, result={"rows": len(rows), "classes": ["nut", "bolt"]})
    return made


def test_masks_that_are_undefined_everywhere_are_refused_before_training(tmp_path: Path, cluster: Cluster) -> None:
    store = Store.open(str(tmp_path))
    masks = pseudo_masks(store, 255, 255)
    output = store.artifact("deeplab", 1, {}, {})
    with pytest.raises(RequestError, match=r"^irn/.* undefined \(255\) everywhere.*conf_fg"):
        stage.run(
            DeepLabConfig(),
            {"images": masks, "masks": masks, "evaluated": masks},
            output,
            cluster,
        )
    assert not Path(output.path).exists()


def test_a_class_that_no_mask_holds_is_missing(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    assert stage.missing_classes(pseudo_masks(store, 0, 2, 255), ["nut", "bolt"]) == ["nut"]
    assert stage.missing_classes(pseudo_masks(store, 0, 1, 2), ["nut", "bolt"]) == []
