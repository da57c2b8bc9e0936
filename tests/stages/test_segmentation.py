"""What is said of pseudo-masks that a segmentation network cannot, or can only partly, learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amn_ray.core.artifacts import TABLE, Artifact, Store
from amn_ray.core.errors import RequestError
from amn_ray.data.images import MASK_SCHEMA, mask_row
from amn_ray.platform.cluster import Cluster
from amn_ray.stages import segmentation
from amn_ray.stages.deeplabv2 import stage
from amn_ray.stages.deeplabv2.config import DeepLabConfig
from amn_ray.stages.stage import Context
from amn_ray.training import driver


def pseudo_masks(store: Store, *values: int) -> Artifact:
    """A masks table with one image per value, filled with it."""
    made = store.artifact("walk", 1, list(values), {})
    folder = Path(made.at(TABLE))
    folder.mkdir(parents=True)
    rows = [mask_row(f"image{i}", np.full((4, 6), value, np.uint8)) for i, value in enumerate(values)]
    pq.write_table(pa.Table.from_pylist(rows, schema=MASK_SCHEMA), folder / "0.parquet")
    made.commit(config={}, inputs={}, code={}, seconds=0, result={"rows": len(rows), "classes": ["nut", "bolt"]})
    return made


def test_masks_that_are_undefined_everywhere_are_refused_before_training(tmp_path: Path, cluster: Cluster) -> None:
    store = Store.open(str(tmp_path))
    masks = pseudo_masks(store, 255, 255)
    output = store.artifact("deeplabv2", 1, {}, {})
    with pytest.raises(RequestError, match=r"^walk/.* undefined \(255\) everywhere.*conf_fg"):
        stage.train_network(DeepLabConfig(), {"images": masks, "pseudo_masks": masks}, output, Context(cluster=cluster))
    assert not Path(output.path).exists()


def test_a_class_that_no_mask_holds_is_missing(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    some, every = pseudo_masks(store, 0, 2, 255), pseudo_masks(store, 0, 1, 2)
    assert segmentation.missing_classes(some, some, ["nut", "bolt"]) == ["nut"]
    assert segmentation.missing_classes(every, every, ["nut", "bolt"]) == []


def test_training_images_without_a_pseudo_mask_are_refused_with_their_number(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    images, masks = pseudo_masks(store, 0, 1, 2), pseudo_masks(store, 0, 1)
    with pytest.raises(RequestError, match="1 of the 3 training images have no pseudo-mask, such as image2"):
        segmentation.missing_classes(images, masks, ["nut", "bolt"])


@pytest.mark.parametrize(
    ("values", "missing"), [((0, 2, 255), ["nut"]), ((2,), ["background", "nut"]), ((0, 1, 2), [])]
)
def test_missing_classes_are_told_before_training_and_are_in_the_result(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, values: tuple[int, ...], missing: list[str]
) -> None:
    told: list[str] = []
    told_before: list[str] = []

    def train(*args: Any, **settings: Any) -> dict[str, Any]:
        told_before.extend(told)
        return {"metrics": {"loss": 1.0}}

    monkeypatch.setattr(driver, "train", train)
    store = Store.open(str(tmp_path))
    masks = pseudo_masks(store, *values)
    context = Context(cluster=cluster, warn=told.append)
    output = store.artifact("deeplabv2", 1, {}, {})
    result = stage.train_network(DeepLabConfig(), {"images": masks, "pseudo_masks": masks}, output, context)
    assert result == {"metrics": {"loss": 1.0}, "missing_classes": missing}
    sentence = f"no pseudo-mask contains {', '.join(missing)}; the network cannot learn it"
    assert told_before == ([sentence] if missing else [])
