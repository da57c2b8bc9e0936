"""Which images count, on a real Ray."""

from __future__ import annotations

from collections.abc import Sequence
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
from amn_ray.stages.score.stage import score_names
from amn_ray.stages.stage import Context
from amn_ray.stages.truth.infer import SCHEMA as TRUTH

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


def images_and_truth(store: Store, *, others: Sequence[str] = (), **truth: np.ndarray | None) -> dict[str, Artifact]:
    """The inputs of every score; an image of None has no ground truth, `others` are not evaluated."""
    masks = [
        mask_row(name, mask) | {"evaluated": name not in others} for name, mask in truth.items() if mask is not None
    ]
    return {
        "images": put(store, "images", [{"image_id": name} for name in truth]),
        "truth": put(store, "truth", masks, TRUTH),
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


def test_masks_of_images_that_are_not_evaluated_count_in_the_miou_of_all_only(cluster: Cluster, store: Store) -> None:
    blank = np.zeros_like(HALF)
    truth = {"a": HALF, "b": HALF, "c": HALF, "other": HALF}
    predicted = {"a": HALF, "b": HALF, "c": blank, "other": blank}
    masks = put(store, "walk", [mask_row(name, mask) for name, mask in predicted.items()], MASK_SCHEMA)
    inputs = images_and_truth(store, others=["other"], **truth) | {"masks": masks}
    found = stage.run(ScoreConfig(), inputs, store.artifact("score", 1, {}, {}), Context(cluster=cluster))["metrics"]
    # In halves of images: background is right in all, bolt in two.
    assert found["miou"] == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert found["all_miou"] == pytest.approx((4 / 6 + 2 / 4) / 2)
    right = np.zeros((1, 2, 2), np.float32)
    right[0, :, 1] = 1
    rows = [to_row(name, [2], right if name in ("a", "b") else 1 - right) for name in truth]
    inputs = inputs | {"maps": put(store, "cam", rows, SCHEMA)}
    del inputs["masks"]
    output = store.artifact("score", 2, {}, {})
    of_maps = stage.run(ScoreConfig(threshold=0.5), inputs, output, Context(cluster=cluster))
    assert of_maps["metrics"]["miou"] == pytest.approx((2 / 4 + 2 / 4) / 2)
    assert of_maps["metrics"]["all_miou"] == pytest.approx((2 / 6 + 2 / 6) / 2)
    assert of_maps["metrics"]["all_best_miou"] >= of_maps["metrics"]["all_miou"]
    assert "other" not in of_maps["examples"]
    assert set(of_maps["metrics"]) == set(score_names(of_maps=True, of_all=True))
