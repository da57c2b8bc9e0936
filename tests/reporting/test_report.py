"""The page about runs: the right numbers beside the paper's, nothing invented where nothing ran."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from amn_ray.core.artifacts import Artifact, Store
from amn_ray.data.images import encode_mask
from amn_ray.data.maps import SCHEMA as MAPS
from amn_ray.data.maps import to_row
from amn_ray.evaluation.confusion import confusion_matrix, mean_iou
from amn_ray.evaluation.selection import report_ids
from amn_ray.platform.tracking import Tracker
from amn_ray.platform.tracking_config import TrackingConfig
from amn_ray.recipe import records as runs
from amn_ray.stages.crf.config import KernelConfig
from amn_ray.stages.score import stage as score
from amn_ray.stages.score.config import ScoreConfig

Job = Callable[..., tuple[int, str]]
IMAGES = 20
SIZE = (12, 16)
BASE = {
    "dataset.name": "parts", "branch": "amn", "amn.lc": ["layer4"], "irn.walk.power": 1.3, "amn.lr_head": 1e-4,
    "seed": 0, "until": "irn", "store": "x", "tracking.uri": None, "cluster.cpus": None, "cam.seed": 0,
}  # fmt: skip


class Home:
    """A store, filled by hand with what pipelines would have made."""

    def __init__(self, folder: Path) -> None:
        self.store = Store.open(str(folder / "store"))
        self.out = folder / "report"
        self.tracker = Tracker(TrackingConfig(), self.store)

    def images(self, name: str) -> Artifact:
        artifact = self.store.artifact("images", 1, name, {})
        if not artifact.complete:
            rng = np.random.default_rng(0)
            rows = [
                {"image_id": f"{n:02}", "mask": encode_mask(rng.choice([0, 1, 2], SIZE).astype(np.uint8))}
                for n in range(IMAGES)
            ]
            self._put(artifact, "rows", rows)
            artifact.commit(config={}, inputs={}, seconds=1, result={"rows": IMAGES, "classes": ["nut", "bolt"]})
        return artifact

    def _put(self, artifact: Artifact, table: str, rows: list[dict], schema: pa.Schema | None = None) -> None:
        Path(artifact.at(table)).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), artifact.at(f"{table}/0.parquet"))

    def run(self, name: str, quality: dict[str, float], dataset: str = "parts", **changed: object) -> None:
        """A run whose steps are right in a share `quality` of the pixels (of the background and of both classes)."""
        images = self.images(dataset)
        settings = {
            **BASE,
            "dataset.name": dataset,
            **{key.replace("__", "."): value for key, value in changed.items()},
        }
        artifacts = {"images": images}
        for step, share in quality.items():
            made = self.store.artifact(step, 1, settings, {})
            result = self.scored(images, made, step, share, int(settings["seed"]))  # type: ignore[call-overload]
            made.commit(config={}, inputs={}, seconds=10, result={"rows": IMAGES, "gpus": 2})
            artifacts |= {step: made, f"{step}_score": result}
        folder = runs.folder(self.store).folder(name)
        with self.tracker.run(name, name, {}) as run:
            runs.record(folder, settings=settings, artifacts=artifacts, crf=KernelConfig(), mlflow_run=run.run_id)

    def scored(self, images: Artifact, made: Artifact, step: str, share: float, seed: int) -> Artifact:
        """What the score stage writes, of masks or of maps (the same mask as one-hot maps of height ½)."""
        from amn_ray.data.images import MASK_SCHEMA, decode_mask, mask_row
        from amn_ray.stages.score.infer import ScoreMaps, ScoreMasks

        rng = np.random.default_rng([seed, len(step)])
        rows = images.table("rows").read(["mask"])
        masks = {}
        for image_id, encoded in zip(*(rows.column(name).to_pylist() for name in ("image_id", "mask")), strict=True):
            truth = decode_mask(encoded)
            masks[image_id] = np.where(rng.random(SIZE) < share, truth, 0).astype(np.uint8)
        output = self.store.artifact("score", 1, None, {step: made})
        if step in ("cam", "amn"):
            maps = [
                to_row(name, [1, 2], np.stack([mask[::4, ::4] == 1, mask[::4, ::4] == 2]) * 0.5)
                for name, mask in masks.items()
            ]
            self._put(made, "maps", maps, MAPS)
            config = ScoreConfig(threshold=0.2)
            self._put(output, "images", ScoreMaps(made, score._grid(config))(rows).to_pylist(), score_schema())
            result = score._of_maps(output, config, score._grid(config), ["nut", "bolt"])
        else:
            self._put(made, "masks", [mask_row(name, mask) for name, mask in masks.items()], MASK_SCHEMA)
            self._put(output, "images", ScoreMasks(made, 2)(rows).to_pylist(), score_schema())
            result = score._of_masks(output, ["nut", "bolt"])
        output.commit(config={"threshold": 0.2}, inputs={}, seconds=1, result=result)
        return output

    def miou(self, step: str, run: str, only: list[str] | None = None) -> float:
        """By hand: one confusion matrix of the stored masks."""
        from amn_ray.data.images import decode_mask

        found = runs.named(self.store, [run])[0]
        truth = found.artifacts["images"].table("rows").column("mask")
        masks = found.artifacts[step].table("masks").column("mask")
        total = sum(
            confusion_matrix(decode_mask(truth[name]), decode_mask(masks[name]), 2) for name in only or sorted(truth)
        )
        return float(mean_iou(np.asarray(total)))


def score_schema() -> pa.Schema:
    from amn_ray.stages.score.infer import SCHEMA

    return SCHEMA


ALL = {"cam": 0.3, "seed": 0.4, "amn": 0.5, "amn_seed": 0.6, "irn": 0.8}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("report"))
    home.run("full0", ALL)
    home.run("full1", {**ALL, "irn": 0.7}, seed=1, cam__seed=1)
    home.run("pcl0", {**ALL, "amn": 0.4, "irn": 0.5}, amn__lc=[])
    home.run("cam0", {"cam": 0.3, "seed": 0.4, "irn": 0.45}, branch="cam", irn__walk__power=1.0)
    home.run("rate0", {"cam": 0.3, "amn": 0.2}, amn__lr_head=0.5, until="amn")
    home.run("other0", {"cam": 0.9, "amn": 0.95}, dataset="bolts")
    study = Path(home.store.path) / "studies" / "lc-1"
    study.mkdir(parents=True)
    trials = pd.DataFrame(
        {
            "trial": ["a seed=0", "b seed=0", "c seed=0"],
            "setting": ["a", "b", "c"],
            "state": ["finished", "failed", "finished"],
            "run": ["full0", None, "pcl0"],
            "error": [None, "broke", None],
        }
    )
    trials.to_parquet(study / "trials.parquet")
    settings = pd.DataFrame(
        {
            "setting": ["a", "c"],
            "seeds": [1, 1],
            "irn/selection_miou": [0.5, 0.25],
            "irn/selection_miou std": [np.nan, np.nan],
        }
    )
    settings.to_parquet(study / "settings.parquet")
    return home


def tables(markdown: str) -> dict[str, list[list[str]]]:
    """By title: the rows of cells, the header first."""
    found: dict[str, list[list[str]]] = {}
    title = ""
    for line in markdown.splitlines():
        if line.startswith("#"):
            title = line.lstrip("# ")
        elif line.startswith("|") and not line.startswith("|-"):
            found.setdefault(title, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return found


@pytest.fixture(scope="module")
def page(home: Home) -> tuple[dict[str, list[list[str]]], str]:
    """Of the runs of one data set: (tables of the Markdown, the HTML)."""
    from amn_ray.reporting.config import ReportConfig
    from amn_ray.reporting.report import report

    names = ["full0", "full1", "pcl0", "cam0", "rate0"]
    out = report(ReportConfig(store=home.store.path, runs=names, out=str(home.out)))
    return tables((out / "report.md").read_text()), (out / "report.html").read_text()


def test_table_1_holds_means_over_seeds_beside_the_published_numbers(
    home: Home, page: tuple[dict[str, list[list[str]]], str]
) -> None:
    rows = {row[0]: row[1:] for row in page[0]["Table 1: what PCL and LC add"]}
    first, second = 100 * home.miou("irn", "full0"), 100 * home.miou("irn", "full1")
    mean, std = (first + second) / 2, abs(first - second) / np.sqrt(2)
    assert rows["+PCL+LC"][3:5] == ["72.2", f"{mean:.1f} ± {std:.1f} (2)"]
    reporting = report_ids([f"{number:02}" for number in range(IMAGES)])
    for row, run, seed, published in (
        ("+PCL", "pcl0", "amn_seed", (62.1, 69.1)),
        ("CAM", "cam0", "seed", (54.3, 66.3)),
    ):
        expected: list[str] = []
        for step, value in zip((seed, "irn"), published, strict=True):
            expected += [str(value), *(f"{100 * home.miou(step, run, only):.1f}" for only in (None, reporting))]
        assert rows[row] == expected


def test_what_was_not_run_is_said_so(page: tuple[dict[str, list[list[str]]], str]) -> None:
    found, html = page
    placement = {
        row[0]: row[1:] for row in found["Table 2: label conditioning after these layers, maps without refinement"]
    }
    assert placement["layer1"] == ["48.2", "not run", "not run", "not run"]
    assert placement["layer4"][0] == "62.1"
    assert "not run" not in placement["layer4"], "the run with another learning rate has no part in it"
    assert found["Table 4: segmentation"][2][3:] == ["not run"] * 4
    assert {row[2] for row in found["Table 5: segmentation of COCO 2014 val"][1:]} == {"not run", "–"}
    assert "do not compare" in html


def test_paired_differences_are_of_the_images_that_report(
    home: Home, page: tuple[dict[str, list[list[str]]], str]
) -> None:
    rows = {row[0]: row[1:] for row in page[0]["Paired differences"]}
    found = rows["reference − amn.lc=[] (irn)"]
    ids = report_ids([f"{number:02}" for number in range(IMAGES)])
    by_hand = 100 * (home.miou("irn", "full0", ids) - home.miou("irn", "pcl0", ids))
    assert found[0] == f"{by_hand:+.1f}"
    low, high = (float(value) for value in re.findall(r"[+-][\d.]+", found[1]))
    assert low < by_hand < high
    assert found[2:] == ["yes", "16", "0", found[0]]
    assert rows["AMN − CAM (maps)"][-2] == "0, 1"


def test_costs_and_differing_settings_are_listed(page: tuple[dict[str, list[list[str]]], str]) -> None:
    found, _ = page
    cost = {row[0]: row[1:] for row in found["Cost in seconds, mean over seeds"]}
    assert cost["reference"][-2:] == ["51", f"{50 * 2 / 3600:.2f}"]
    different = found["Settings that differ"]
    assert different[0] == ["variant", "amn.lc", "amn.lr_head", "branch", "irn.walk.power"]
    assert ["amn.lr_head=0.5", "[layer4]", "0.5", "amn", "1.3"] in different


def test_the_page_needs_no_other_file(page: tuple[dict[str, list[list[str]]], str]) -> None:
    _, html = page
    sources = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert sum(source.startswith("data:image/png;base64,") for source in sources) >= 2
    assert all(source.startswith(("data:", "#")) for source in sources)


def test_data_sets_never_share_a_table(home: Home, job: Job, tmp_path: Path) -> None:
    assert job("report", f"store={home.store.path}", f"out={tmp_path}")[0] == 0
    text = (tmp_path / "report.md").read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Data set: bolts", "Data set: parts", "Study: lc-1"]
    of_bolts = text[text.index("## Data set: bolts") : text.index("## Data set: parts")]
    assert "full0" not in of_bolts
    assert "other0" in of_bolts


def test_a_study_is_reported_with_its_runs_and_its_failures(home: Home, job: Job, tmp_path: Path) -> None:
    assert job("report", f"store={home.store.path}", "runs=[lc-1]", f"out={tmp_path}")[0] == 0
    text = (tmp_path / "report.md").read_text()
    assert "2 finished, 1 failed (3 trials)." in text
    assert "Failed: b seed=0: broke" in text
    assert "| a | 1 | 50.0 |" in text
    assert "pcl0" in text
    assert "full1" not in text
    (compared,) = tables(text)["The best setting against the others"][1:]
    ids = report_ids([f"{number:02}" for number in range(IMAGES)])
    assert compared[:2] == ["a − c", f"{100 * (home.miou('irn', 'full0', ids) - home.miou('irn', 'pcl0', ids)):+.1f}"]


def test_a_run_deleted_from_mlflow_keeps_its_numbers(home: Home, job: Job, tmp_path: Path) -> None:
    home.run("gone0", {"cam": 0.3, "irn": 0.6}, amn__lr_head=0.7)
    found = runs.named(home.store, ["gone0"])[0]
    MlflowClient(home.tracker.uri).delete_run(found.mlflow_run)
    assert job("report", f"store={home.store.path}", "runs=[gone0,full0]", f"out={tmp_path}")[0] == 0
    text = (tmp_path / "report.md").read_text()
    assert "| gone0 | deleted from MLflow |" in text
    assert f"{100 * home.miou('irn', 'gone0'):.1f}" in text


def test_impossible_reports_are_refused(home: Home, job: Job, tmp_path: Path) -> None:
    code, error = job("report", f"store={home.store.path}", "runs=[nonesuch]", f"out={tmp_path}")
    assert code == 2
    assert "runs=nonesuch: neither a run" in error
    code, error = job("report", f"store={tmp_path / 'empty'}", f"out={tmp_path}")
    assert code == 2
    assert "holds no finished run" in error
    old = runs.folder(home.store).folder("old")
    old.write("run.json", json.dumps({"steps": {}, "crf": {}}).encode())
    try:
        code, error = job("report", f"store={home.store.path}", "runs=[old]", f"out={tmp_path}")
    finally:
        old.remove()
    assert code == 2
    assert "older version" in error


def test_scores_whose_ious_are_by_name_are_still_read() -> None:
    from amn_ray.reporting.report import _by_label

    now = {"labels": ["background", "nut"], "iou": [0.5, None]}
    assert _by_label({"iou": {"background": 0.5, "nut": None}}) == _by_label(now) == now
