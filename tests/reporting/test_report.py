"""The page about runs: the right numbers beside the paper's, nothing invented where nothing ran."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from amn_ray.core.artifacts import TABLE, Artifact, Store
from amn_ray.core.events import RunBegan, RunEnded
from amn_ray.data.images import MASK_SCHEMA, decode_mask, mask_row
from amn_ray.data.maps import SCHEMA as MAPS
from amn_ray.data.maps import to_row
from amn_ray.evaluation.confusion import confusion_matrix, mean_iou
from amn_ray.evaluation.metrics import metrics
from amn_ray.evaluation.selection import report_ids
from amn_ray.platform.tracking import Tracker
from amn_ray.platform.tracking_config import TrackingConfig
from amn_ray.recipe import records as runs
from amn_ray.recipe.records import Recorder
from amn_ray.reporting.config import ReportConfig
from amn_ray.reporting.report import report
from amn_ray.reporting.variants import in_order, variants_of
from amn_ray.stages.score import stage as score
from amn_ray.stages.score.infer import SCHEMA, ScoreMaps, ScoreMasks
from amn_ray.stages.truth.infer import SCHEMA as TRUTH

Job = Callable[..., tuple[int, str]]
IMAGES = 20
SIZE = (12, 16)
BASE = {
    "choices.maps": "cam", "choices.refinement": "crf", "choices.activation": "amn", "choices.boundaries": "irn",
    "choices.segmenter": "deeplabv2", "choices.prediction_refinement": "crf", "dataset.name": "parts",
    "amn.lc": ["layer4"], "amn.lr_head": 1e-4, "pseudo_masks.power": 1.3, "seed": 0, "until": "pseudo_masks",
    "store": "x", "rebuild": [], "tracking.uri": None, "cluster.cpus": None, "classifier.seed": None,
}  # fmt: skip
CLASSES = ["nut", "bolt"]


class Home:
    """A store, filled by hand with what pipelines would have made."""

    def __init__(self, folder: Path) -> None:
        self.store = Store.open(str(folder / "store"))
        self.out = folder / "report"
        self.tracker = Tracker(TrackingConfig(), self.store)

    def data(self, name: str, truth: int = 0) -> dict[str, Artifact]:
        """The tables of a data set; `truth` draws other masks of the same images."""
        images = self.store.artifact("images", 1, name, {})
        masks = self.store.artifact("truth", 1, truth, {"images": images})
        ids = [f"{number:02}" for number in range(IMAGES)]
        if not images.complete:
            self._put(images, [{"image_id": image_id} for image_id in ids])
            self._commit(images, seconds=1, rows=IMAGES, classes=CLASSES)
        if not masks.complete:
            rng = np.random.default_rng(truth)
            drawn = [rng.choice([0, 1, 2], SIZE).astype(np.uint8) for _ in ids]
            evaluated = [mask_row(name, mask) | {"evaluated": True} for name, mask in zip(ids, drawn, strict=True)]
            self._put(masks, evaluated, TRUTH)
            self._commit(masks, {"images": images}, seconds=0)
        return {"images": images, "truth": masks}

    def _put(self, artifact: Artifact, rows: list[dict], schema: pa.Schema | None = None) -> None:
        Path(artifact.at(TABLE)).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), artifact.at(f"{TABLE}/0.parquet"))

    def _commit(
        self,
        artifact: Artifact,
        inputs: Mapping[str, Artifact] | None = None,
        *,
        seconds: float = 1,
        config: object = None,
        **result: object,
    ) -> None:
        artifact.commit(config=config or {}, inputs=inputs or {}, code={}, seconds=seconds, result=result)

    def run(
        self,
        name: str,
        quality: dict[str, float | str],
        dataset: str = "parts",
        truth: int = 0,
        label_score: float | None = None,
        **changed: object,
    ) -> None:
        """A run whose steps are right in a share `quality` of the pixels (of the background and of both classes).

        A step whose quality is the name of another one is what that one has made.
        """
        settings = BASE | {"dataset.name": dataset}
        settings |= {key.replace("__", "."): value for key, value in changed.items()}
        artifacts, scores = self.data(dataset, truth), {}
        data = dict(artifacts)
        for step, share in quality.items():
            if isinstance(share, str):
                artifacts[step], scores[step] = artifacts[share], scores[share]
                continue
            made = self.store.artifact(step, 1, settings, {})
            scores[step] = self.scored(data, made, step, share, int(settings["seed"]))  # type: ignore[call-overload]
            artifacts[step] = made
        if label_score is not None:
            artifacts["classifier"] = self.store.artifact("classifier", 1, settings, {})
            scores["classifier"] = self.store.artifact("label_score", 1, settings, {})
            self._commit(artifacts["classifier"])
            self._commit(scores["classifier"], metrics={"mean_average_precision": label_score})
        with self.tracker.run(name, name, {}) as run:
            recorder = Recorder(runs.folder(self.store).folder(name), lambda: run.run_id)
            recorder.notify(RunBegan(settings=settings))
            recorder.notify(RunEnded(artifacts=artifacts, scores=scores, manifests={}, summary={}))

    def scored(self, data: Mapping[str, Artifact], made: Artifact, step: str, share: float, seed: int) -> Artifact:
        """What the score stage writes, of masks or of maps (the same mask as one-hot maps of height ½)."""
        rng = np.random.default_rng([seed, len(step)])
        rows = data["truth"].table().read(["mask", "evaluated"])
        masks = {}
        for image_id, encoded in zip(*(rows.column(name).to_pylist() for name in ("image_id", "mask")), strict=True):
            truth = decode_mask(encoded)
            masks[image_id] = np.where(rng.random(SIZE) < share, truth, 0).astype(np.uint8)
        makes = "maps" if step in ("maps", "amn_maps") else "masks"
        output = self.store.artifact("score", 1, None, {**data, makes: made})
        config = score.settings(0.2)
        if makes == "maps":
            maps = [
                to_row(name, [1, 2], np.stack([mask[::4, ::4] == 1, mask[::4, ::4] == 2]) * 0.5)
                for name, mask in masks.items()
            ]
            self._put(made, maps, MAPS)
            self._put(output, ScoreMaps(made, score._grid(config))(rows).to_pylist(), SCHEMA)
            result = score._of_maps(output, config, score._grid(config), CLASSES, metrics())
        else:
            self._put(made, [mask_row(name, mask) for name, mask in masks.items()], MASK_SCHEMA)
            self._put(output, ScoreMasks(made, len(CLASSES))(rows).to_pylist(), SCHEMA)
            result = score._of_masks(output, CLASSES, metrics())
        self._commit(made, {"images": data["images"]}, seconds=10, rows=IMAGES, gpus=2)
        self._commit(output, {**data, makes: made}, config={"threshold": 0.2}, **result)
        return output

    def miou(self, step: str, run: str, only: list[str] | None = None) -> float:
        """By hand: one confusion matrix of the stored masks."""
        found = runs.named(self.store, [run])[0]
        truth = found.artifacts["truth"].table().column("mask")
        masks = found.artifacts[step].table().column("mask")
        total = sum(
            confusion_matrix(decode_mask(truth[name]), decode_mask(masks[name]), 2) for name in only or sorted(truth)
        )
        return float(mean_iou(np.asarray(total)))

    def best_miou(self, step: str, run: str) -> float:
        """Of maps, as the score stage found it."""
        return float(runs.named(self.store, [run])[0].scores[step].manifest()["metrics"]["best_miou"])

    def page(self, *names: str, out: Path | None = None) -> tuple[dict[str, list[list[str]]], str]:
        """(the tables of the Markdown, the HTML) of a report about these runs and studies."""
        folder = report(ReportConfig(store=self.store.path, runs=list(names), out=str(out or self.out)))
        return tables((folder / "report.md").read_text()), (folder / "report.html").read_text()

    def study(self, name: str, members: dict[str, str | None], metric: str) -> Path:
        """A study's tables: by setting the run of its only trial; None where it failed."""
        folder = Path(self.store.path) / "studies" / name
        folder.mkdir(parents=True)
        trials = {
            "trial": [f"{setting} seed=0" for setting in members],
            "setting": list(members),
            "state": ["failed" if run is None else "finished" for run in members.values()],
            "run": list(members.values()),
            "error": ["broke" if run is None else None for run in members.values()],
        }
        pd.DataFrame(trials).to_parquet(folder / "trials.parquet")
        finished = [setting for setting, run in members.items() if run is not None]
        values = [0.5 / (1 + place) for place in range(len(finished))]
        settings = {"setting": finished, "seeds": 1, metric: values, f"{metric} std": np.nan}
        pd.DataFrame(settings).to_parquet(folder / "settings.parquet")
        return folder


ALL: dict[str, float | str] = {
    "maps": 0.3,
    "refined": 0.4,
    "amn_maps": 0.5,
    "amn_refined": 0.6,
    "pseudo_masks": 0.8,
}
WITHOUT_AMN: dict[str, Any] = {"choices__activation": "none", "pseudo_masks__power": 1.0}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("report"))
    home.run("full0", ALL)
    home.run("full1", {**ALL, "pseudo_masks": 0.7}, seed=1, classifier__seed=1)
    home.run("pcl0", {**ALL, "amn_maps": 0.4, "pseudo_masks": 0.5}, amn__lc=[])
    # A recipe has settings of AMN that are not there without it.
    home.run("cam0", {"maps": 0.3, "refined": 0.4, "pseudo_masks": 0.45}, **WITHOUT_AMN, amn__lr_head=5e-6)
    home.run("rate0", {"maps": 0.3, "amn_maps": 0.2}, amn__lr_head=0.5, until="amn_maps")
    home.run("other0", {"maps": 0.9, "amn_maps": 0.95}, dataset="bolts")
    home.study("lc-1", {"a": "full0", "b": None, "c": "pcl0"}, "pseudo_masks/selection_miou")
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
    return home.page("full0", "full1", "pcl0", "cam0", "rate0")


def test_table_1_holds_means_over_seeds_beside_the_published_numbers(
    home: Home, page: tuple[dict[str, list[list[str]]], str]
) -> None:
    rows = {row[0]: row[1:] for row in page[0]["Table 1: what PCL and LC add"]}
    first, second = 100 * home.miou("pseudo_masks", "full0"), 100 * home.miou("pseudo_masks", "full1")
    mean, std = (first + second) / 2, abs(first - second) / np.sqrt(2)
    assert rows["+PCL+LC"][3:5] == ["72.2", f"{mean:.1f} ± {std:.1f} (2)"]
    reporting = report_ids([f"{number:02}" for number in range(IMAGES)])
    for row, run, refined, published in (
        ("+PCL", "pcl0", "amn_refined", (62.1, 69.1)),
        ("CAM", "cam0", "refined", (54.3, 66.3)),
    ):
        expected: list[str] = []
        for step, value in zip((refined, "pseudo_masks"), published, strict=True):
            expected += [str(value), *(f"{100 * home.miou(step, run, only):.1f}" for only in (None, reporting))]
        assert rows[row] == expected


def test_table_3_has_every_method_that_has_run_beside_the_published_ones_by_its_full_name(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.run("full0", ALL)
    home.run("full1", {**ALL, "pseudo_masks": 0.7}, seed=1, classifier__seed=1)
    home.run("cam0", {"maps": 0.3, "refined": 0.4, "pseudo_masks": 0.45}, **WITHOUT_AMN)
    shortened = {"choices__maps": "advcam", "maps__steps": 5, "maps__scales": [1.0]}
    home.run("adv0", {"maps": 0.35, "refined": 0.5, "pseudo_masks": 0.6}, **WITHOUT_AMN, **shortened)
    found, html = home.page("full0", "full1", "cam0", "adv0")
    rows = {row[0]: row[1:] for row in found["Table 3: the methods' seeds and pseudo-masks"]}

    def score(step: str, run: str) -> str:
        return f"{100 * home.miou(step, run):.1f}"

    ours = rows["AdvCAM (5 steps, 1 scale)"]
    assert (ours[0], ours[3], ours[5]) == ("–", "–", "–"), "what was published is another method's"
    assert (ours[4], ours[6]) == (score("refined", "adv0"), score("pseudo_masks", "adv0"))
    assert ours[1] == f"{100 * home.best_miou('maps', 'adv0'):.1f}"
    assert rows["AdvCAM"] == ["55.6", "not run", "not run", "62.1", "not run", "69.9", "not run", "not run"]
    assert (rows["CAM"][5], rows["CAM"][6]) == ("66.3", score("pseudo_masks", "cam0"))
    assert rows["AMN"][6].endswith("(2)"), "two seeds"
    assert rows["CONTA"][5] == "67.9"
    assert "no code of MBMNet was found" in html


def test_other_peoples_masks_are_not_reported_as_those_of_a_method(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.run("masks0", {"pseudo_masks": 0.9}, choices__boundaries="given")
    home.run("seeds0", {"refined": 0.9}, **WITHOUT_AMN, choices__refinement="given")
    found, _ = home.page("masks0", "seeds0")
    rows = {row[0]: row[1:] for row in found["Table 3: the methods' seeds and pseudo-masks"]}
    assert {cell for name in ("AMN", "CAM") for cell in rows[name]} & {"90.0"} == set()
    assert rows["AMN"][6] == rows["CAM"][4] == "not run"


def test_methods_with_maps_of_other_images_are_compared_on_those_that_both_have(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.run("cam0", {"maps": 0.3, "refined": 0.4}, **WITHOUT_AMN)
    home.run("some0", {"maps": 0.35, "refined": 0.5}, **WITHOUT_AMN, choices__maps="rib")
    run = runs.named(home.store, ["some0"])[0]
    place = Path(run.scores["refined"].at(f"{TABLE}/0.parquet"))
    half = pq.read_table(place)[::2]
    place.unlink()
    pq.write_table(half, place)
    found, _ = home.page("cam0", "some0")
    rows = {row[0]: row[1:] for row in found["Paired differences"]}
    compared = rows["CAM − RIB (refined)"]
    ids = [f"{number:02}" for number in range(IMAGES)]
    assert compared[3] == str(len(set(report_ids(ids)) & set(report_ids(ids[::2]))))


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
    assert "not comparable" in html


def test_paired_differences_are_of_the_images_that_report(
    home: Home, page: tuple[dict[str, list[list[str]]], str]
) -> None:
    rows = {row[0]: row[1:] for row in page[0]["Paired differences"]}
    found = rows["reference − amn.lc=[] (pseudo_masks)"]
    ids = report_ids([f"{number:02}" for number in range(IMAGES)])
    by_hand = 100 * (home.miou("pseudo_masks", "full0", ids) - home.miou("pseudo_masks", "pcl0", ids))
    assert found[0] == f"{by_hand:+.1f}"
    low, high = (float(value) for value in re.findall(r"[+-][\d.]+", found[1]))
    assert low < by_hand < high
    assert found[2:] == ["yes", "16", "0", found[0]]
    assert rows["amn_maps − maps"][-2] == "0, 1"


def test_costs_and_differing_settings_are_listed(page: tuple[dict[str, list[list[str]]], str]) -> None:
    found, _ = page
    cost = {row[0]: row[1:] for row in found["Cost in seconds, mean over seeds"]}
    assert cost["reference"][-2:] == ["51", f"{50 * 2 / 3600:.2f}"]
    different = found["Settings that differ"]
    assert different[0] == ["variant", "amn.lc", "amn.lr_head", "choices.activation", "pseudo_masks.power"]
    assert ["amn.lr_head=0.5", "[layer4]", "0.5", "amn", "1.3"] in different
    assert ["choices.activation=none pseudo_masks.power=1.0", "–", "–", "none", "1.0"] in different


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
    by_hand = 100 * (home.miou("pseudo_masks", "full0", ids) - home.miou("pseudo_masks", "pcl0", ids))
    assert compared[:2] == ["a − c", f"{by_hand:+.1f}"]


def test_a_run_deleted_from_mlflow_keeps_its_numbers(home: Home, job: Job, tmp_path: Path) -> None:
    home.run("gone0", {"maps": 0.3, "pseudo_masks": 0.6}, amn__lr_head=0.7)
    found = runs.named(home.store, ["gone0"])[0]
    MlflowClient(home.tracker.uri).delete_run(found.mlflow_run)
    assert job("report", f"store={home.store.path}", "runs=[gone0,full0]", f"out={tmp_path}")[0] == 0
    text = (tmp_path / "report.md").read_text()
    assert "| gone0 | deleted from MLflow |" in text
    assert f"{100 * home.miou('pseudo_masks', 'gone0'):.1f}" in text


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


def test_runs_and_studies_of_another_version_are_passed_over_with_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path)
    home.run("now", {"maps": 0.3})
    runs.folder(home.store).folder("before").write("run.json", json.dumps({"steps": {}, "crf": {}}).encode())
    home.study("old-1", {"a": "before"}, "irn/selection_miou")
    home.study("new-1", {"a": "now"}, "maps/selection_miou")
    out = report(ReportConfig(store=home.store.path, out=str(home.out)))
    text = (out / "report.md").read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Data set: parts", "Study: new-1"]
    told = capsys.readouterr().out
    assert "1 runs in" in told
    assert "are of another version and were skipped" in told
    assert "study old-1 was skipped: 1 of its runs are of another version or were removed" in told
    assert "new-1" not in told


def test_runs_on_corrected_masks_never_share_a_table_with_those_on_the_old_ones(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.run("before", {"maps": 0.3, "refined": 0.4})
    home.run("after", {"maps": 0.3, "refined": 0.4}, truth=1, seed=1)
    report(ReportConfig(store=home.store.path, out=str(home.out)))
    text = (home.out / "report.md").read_text()
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    corrected, old = (home.data("parts", truth)["truth"].fingerprint for truth in (1, 0))
    assert titles == [f"Data set: parts (truth/{corrected})", f"Data set: parts (truth/{old})"]
    assert len(list((home.out / "figures").glob("*_miou_by_threshold.png"))) == 2


def test_what_another_step_has_made_costs_nothing_again(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.run("run", {**ALL, "pseudo_masks": "amn_refined"}, choices__boundaries="none")
    found, _ = home.page("run")
    header, cost = found["Cost in seconds, mean over seeds"]
    assert dict(zip(header, cost, strict=True)) == {
        "variant": "reference", "images": "1", "truth": "0", "maps": "10", "refined": "10", "amn_maps": "10",
        "amn_refined": "10", "pseudo_masks": "–", "sum": "41", "GPU-hours": f"{40 * 2 / 3600:.2f}",
    }  # fmt: skip
    header, scores = found["All variants"]
    of = dict(zip(header, scores, strict=True))
    assert of["pseudo_masks"] == of["amn_refined"] == f"{100 * home.miou('amn_refined', 'run'):.1f}"


def test_how_well_the_classifier_labels_is_the_mean_over_seeds(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for seed, precision in ((0, 0.5), (1, 0.7)):
        home.run(f"seed{seed}", ALL, label_score=precision, seed=seed)
    found, _ = home.page("seed0", "seed1")
    header, scores = found["All variants"]
    assert dict(zip(header, scores, strict=True))["classifier mAP"] == "60.0 ± 14.1 (2)"


def test_a_study_of_final_seeds_compares_those_of_amn_with_those_of_a_setting_without_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.run("with", ALL)
    home.run("without", {"maps": 0.3, "refined": 0.4}, **WITHOUT_AMN)
    home.study("ablation-1", {"AMN": "with", "CAM": "without"}, "final_refined/selection_miou")
    found, _ = home.page("ablation-1")
    ((name, points, *_),) = found["The best setting against the others"][1:]
    ids = report_ids([f"{number:02}" for number in range(IMAGES)])
    by_hand = 100 * (home.miou("amn_refined", "with", ids) - home.miou("refined", "without", ids))
    assert (name, points) == ("AMN − CAM", f"{by_hand:+.1f}")


def test_settings_of_steps_that_a_run_cannot_have_make_no_variant(tmp_path: Path) -> None:
    other = Home(tmp_path)
    steps: dict[str, float | str] = {"maps": 0.3, "refined": 0.4}
    other.run("one", steps, **WITHOUT_AMN)
    other.run("same", steps, **WITHOUT_AMN, seed=1, amn__lr_head=0.7)
    other.run("short", steps, **WITHOUT_AMN, seed=2, amn__lr_head=0.8, until="refined")
    other.run("copied", steps, **WITHOUT_AMN, seed=3, dataset__root="/elsewhere")
    (alone,) = variants_of(runs.named(other.store, ["one", "same", "short", "copied"]))
    assert [seeds.common for seeds in sorted(alone.runs)] == [0, 1, 2, 3]
    other.run("further", steps, **(WITHOUT_AMN | {"pseudo_masks__power": 2.0}))
    found = variants_of(runs.every(other.store))
    assert [variant.different for variant in found] == [{}, {"pseudo_masks.power": 2.0}]
    other.run("unknown", steps, choices__activation="of a plug-in", amn__lr_head=0.7)
    (unknown,) = variants_of(runs.named(other.store, ["unknown"]))
    assert unknown.settings["amn.lr_head"] == 0.7, "what a plug-in that is not loaded uses is not known"


def test_steps_of_several_runs_stand_in_the_order_in_which_they_are_made() -> None:
    full = ["images", "classifier", "maps", "refined", "amn", "amn_maps", "irn"]
    assert in_order([["images", "truth", "classifier", "maps_network", "maps"], full]) == [
        "images", "truth", "classifier", "maps_network", "maps", "refined", "amn", "amn_maps", "irn",
    ]  # fmt: skip
    assert in_order([]) == []
