"""Which images count, on a real Ray."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amn_ray.core.artifacts import TABLE, Artifact, Store
from amn_ray.data.images import MASK_SCHEMA, mask_row
from amn_ray.data.maps import SCHEMA, to_row
from amn_ray.platform.cluster import Cluster
from amn_ray.stages.score import stage
from amn_ray.stages.score.config import ScoreConfig
from amn_ray.stages.stage import Context

HALF = np.repeat([[0, 2]], 8, 0).repeat(4, 1).astype(np.uint8)
"""The right half is of class 2."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path))


def put(store: Store, stage_name: str, rows: list[dict], schema: pa.Schema | None = None) -> Artifact:
    made = store.artifact(stage_name, 1, {}, {})
    Path(made.at(TABLE)).mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), Path(made.at(TABLE)) / "0.parquet")
    made.commit(config={}, inputs={}, code={}, seconds=0, result={"rows": len(rows), "classes": ["nut", "bolt"]})
    return made


def images_and_truth(store: Store, **truth: np.ndarray | None) -> dict[str, Artifact]:
    """The inputs of every score; an image of None has no ground truth."""
    masks = [mask_row(name, mask) for name, mask in truth.items() if mask is not None]
    return {
        "images": put(store, "images", [{"image_id": name} for name in truth]),
        "truth": put(store, "truth", masks, MASK_SCHEMA),
    }


def test_images_without_defined_truth_or_without_class_are_no_obstacle(cluster: Cluster, store: Store) -> None:
    truth = {"all255": np.full_like(HALF, 255), "empty": np.zeros_like(HALF), "half": HALF, "none": None}
    right = np.zeros((1, 2, 2), np.float32)
    right[0, :, 1] = 1
    rows = [to_row(name, [] if name == "empty" else [2], right[: name != "empty"]) for name in truth]
    inputs = images_and_truth(store, **truth) | {"maps": put(store, "cam", rows, SCHEMA)}
    output = store.artifact("score", 1, {}, {})
    result = stage.run(ScoreConfig(threshold=0.5), inputs, output, Context(cluster=cluster))
    assert result["labels"] == ["background", "nut", "bolt"]
    assert result["iou"][1:] == [None, pytest.approx(1)]
    assert np.sum(result["confusion"]) == 2 * HALF.size
    taus = output.table().column("best_tau")
    assert taus.keys() == {"all255", "empty", "half"}, "none has no ground truth, and so no row"
    assert taus["half"] is not None
    assert [taus[name] for name in ("all255", "empty")] == [None] * 2


def test_a_class_that_is_never_predicted_has_an_iou_of_zero(cluster: Cluster, store: Store) -> None:
    truth = {"all255": np.full_like(HALF, 255), "half": HALF}
    masks = [mask_row(name, np.zeros_like(HALF)) for name in truth]
    inputs = images_and_truth(store, **truth) | {"masks": put(store, "walk", masks, MASK_SCHEMA)}
    result = stage.run(ScoreConfig(), inputs, store.artifact("score", 1, {}, {}), Context(cluster=cluster))
    assert result["iou"] == [0.5, None, 0.0]
    assert result["metrics"]["miou"] == pytest.approx(0.25)
