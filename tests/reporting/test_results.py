"""The figures of a run that ended, drawn from artifacts that were filled by hand."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amn_ray.core.artifacts import TABLE, Artifact, Store
from amn_ray.core.events import RunBegan, RunEnded, RunFailed
from amn_ray.data.images import MASK_SCHEMA, mask_row
from amn_ray.data.maps import SCHEMA as MAPS
from amn_ray.data.maps import to_row
from amn_ray.reporting import figures
from amn_ray.reporting.figures import Picture
from amn_ray.reporting.results import FIGURES, Figures
from tests.conftest import encode, noise

SIZE = (8, 12)
LABELS = ["background", "nut", "bolt"]


class Ended:
    """A run whose steps can be added one by one."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.artifacts: dict[str, Artifact] = {}
        self.scores: dict[str, Artifact] = {}
        self.manifests: dict[str, dict[str, Any]] = {}

    def event(self) -> RunEnded:
        return RunEnded(artifacts=self.artifacts, scores=self.scores, manifests=self.manifests, summary={})

    def made(self, step: str, rows: list[dict], schema: pa.Schema | None, config: object, **result: object) -> None:
        artifact = self.store.artifact(step, 1, {}, {})
        Path(artifact.at(TABLE)).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), artifact.at(f"{TABLE}/0.parquet"))
        artifact.commit(config=config, inputs={}, code={}, seconds=1, result=result)
        self.artifacts[step] = artifact

    def data(self, split: str, ending: str, ids: Sequence[str]) -> None:
        """Images and their ground truth."""
        rows = [{"image_id": image_id, "image": encode(noise(*SIZE, seed=n))} for n, image_id in enumerate(ids)]
        self.made(f"images{ending}", rows, None, {"split": split}, classes=LABELS[1:])
        self.masks(f"truth{ending}", ids, value=1)

    def masks(self, step: str, ids: Sequence[str], value: int) -> None:
        rows = [mask_row(image_id, np.full(SIZE, value, np.uint8)) for image_id in ids]
        self.made(step, rows, MASK_SCHEMA, {})

    def maps(self, step: str, ids: Sequence[str]) -> None:
        """Of class 2, which is there in the left half."""
        left = np.zeros((1, 2, 3), np.float32)
        left[..., 0] = 1
        self.made(step, [to_row(image_id, [2], left) for image_id in ids], MAPS, {})

    def score(self, step: str, ending: str, examples: Sequence[str], **more: object) -> None:
        inputs = {part: self.artifacts[f"{part}{ending}"].fingerprint for part in ("images", "truth")}
        self.scores[step] = self.store.artifact("score", 1, step, {})
        self.manifests[f"{step}_score"] = {
            "inputs": inputs, "examples": list(examples), "labels": LABELS, "iou": [0.5, 0.25, None],
            "confusion": np.eye(3, dtype=int).tolist(), "config": {"threshold": 0.5}, **more,
        }  # fmt: skip


CURVE: dict[str, object] = {
    "curve": {"tau": [0.0, 0.5, 1.0], "miou": [0.1, 0.3, 0.2]},
    "best_taus": {"tau": [0.5], "images": [2]},
}


@pytest.fixture
def ended(tmp_path: Path) -> Ended:
    return Ended(Store.open(str(tmp_path / "store")))


@pytest.fixture
def panels(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[dict[str, Picture]]]:
    """The rows of each panel that is drawn from now on, by its file's name."""
    drawn: dict[str, list[dict[str, Picture]]] = {}
    draw = figures.example_panel

    def note(rows: list[dict[str, Picture]], path: Path) -> Path:
        drawn[path.name] = rows
        return draw(rows, path)

    monkeypatch.setattr(figures, "example_panel", note)
    return drawn


def files_of(run: Ended) -> set[str]:
    folder = run.store.folder("runs", "one")
    observer = Figures(folder)
    observer.notify(RunBegan(settings={}))
    assert not folder.exists()
    observer.notify(run.event())
    return {entry.base_name for entry in folder.folder(FIGURES).entries()}


def test_panels_show_the_steps_of_one_split_in_the_order_of_the_run(
    ended: Ended, panels: dict[str, list[dict[str, Picture]]]
) -> None:
    ended.data("train", "", "ab")
    ended.data("val", "_val", "c")
    ended.maps("maps", "ab")
    ended.score("maps", "", "ab", **CURVE)
    ended.masks("refined", "ab", value=2)
    ended.score("refined", "", "ab")
    ended.masks("predictions", "c", value=1)
    ended.score("predictions", "_val", "c")
    assert files_of(ended) == {
        "miou_by_threshold.png", "best_threshold.png", "miou_by_threshold_maps.csv", "class_iou.png", "class_iou.csv",
        "confusion.png", "examples.png", "predictions.png",
    }  # fmt: skip
    assert [list(row) for row in panels["examples.png"]] == [
        ["image", "ground truth", "maps", "maps at τ = 0.5", "refined"]
    ] * 2
    assert [list(row) for row in panels["predictions.png"]] == [["image", "ground truth", "predictions"]]
    row = panels["examples.png"][1]
    assert row["maps at τ = 0.5"].mask is not None
    assert set(np.unique(row["maps at τ = 0.5"].mask)) == {0, 2}, "cut, and with the label of its class"
    assert (row["maps at τ = 0.5"].mask[:, 0] == 2).all()
    np.testing.assert_array_equal(row["refined"].mask, np.full(SIZE, 2))
    np.testing.assert_array_equal(row["image"].image, noise(*SIZE, seed=1))
    content = ended.store.folder("runs", "one", FIGURES).read("class_iou.csv").decode()
    rows = list(csv.reader(content.splitlines()))
    assert rows[0] == ["class", "maps", "refined", "predictions"]
    assert rows[1:] == [["background", *["0.500000"] * 3], ["nut", *["0.250000"] * 3], ["bolt", "", "", ""]]


def test_predictions_are_no_examples_where_only_the_validation_images_have_ground_truth(
    ended: Ended, panels: dict[str, list[dict[str, Picture]]]
) -> None:
    ended.data("val", "_val", "c")
    ended.masks("predictions", "c", value=1)
    ended.score("predictions", "_val", "c")
    assert files_of(ended) == {"class_iou.png", "class_iou.csv", "confusion.png", "predictions.png"}
    assert panels.keys() == {"predictions.png"}


def test_predictions_of_training_images_stand_beside_their_other_steps(
    ended: Ended, panels: dict[str, list[dict[str, Picture]]]
) -> None:
    """A data set without validation images."""
    ended.data("train", "", "a")
    for step in ("refined", "predictions"):
        ended.masks(step, "a", value=1)
        ended.score(step, "", "a")
    files_of(ended)
    assert panels.keys() == {"examples.png"}
    assert list(panels["examples.png"][0]) == ["image", "ground truth", "refined", "predictions"]


def test_nothing_is_drawn_of_a_run_without_scores_or_of_one_that_failed(ended: Ended) -> None:
    ended.scores["classifier"] = ended.store.artifact("score", 1, {}, {})
    ended.manifests["classifier_score"] = {"metrics": {"average_precision": 0.5}}
    assert files_of(ended) == set()
    folder = ended.store.folder("runs", "failed")
    Figures(folder).notify(RunFailed(interrupted=False))
    assert not folder.exists()
