"""The plug-in in examples/plugin, as a user starts it; and plug-ins that are wrong."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from hydra.core.config_store import ConfigStore
from scipy.stats import mode

from amn_ray.cli import overrides
from amn_ray.core import code, plugins
from amn_ray.core.artifacts import MODEL, TABLE, Artifact, Store
from amn_ray.core.code import code_of, other_code
from amn_ray.core.errors import RequestError, RunError
from amn_ray.core.events import Event, Observer, Warned
from amn_ray.data import registry
from amn_ray.data.listing import list_splits
from amn_ray.data.maps import SCHEMA, grid_maps, to_row
from amn_ray.data.pixels import DEFAULT
from amn_ray.evaluation import metrics
from amn_ray.inference.segmenter import Segmenter, Settings, _load_pyfunc, write_model
from amn_ray.nn.backbones.registry import BACKBONES
from amn_ray.platform import plugin_env
from amn_ray.platform.cluster import Cluster, ClusterConfig
from amn_ray.platform.hardware import Hardware
from amn_ray.recipe import records
from amn_ray.recipe.made import check_made
from amn_ray.recipe.plan import Plan, make_plan
from amn_ray.recipe.runner import Runner
from amn_ray.stages import methods
from amn_ray.stages.stage import Makes, Stage
from tests.composed import composed, configured
from tests.conftest import ROOT, noise
from tests.recipe.test_plan import BOTH
from tests.tiny import finish, start, write_folder

PLUGIN = ROOT / "examples" / "plugin"
NAME = "lse_seeds"
CHOSEN = (f"plugins=[{NAME}]", "maps=lse", "refinement=majority")
Job = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What a test imports and registers is gone after it."""
    composed()
    for owner, name in (
        (methods, "_METHODS"), (methods, "_STAGES"), (metrics, "_METRICS"), (registry, "_KINDS"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, dict(getattr(owner, name)))
    monkeypatch.setattr(ConfigStore.instance(), "repo", copy.deepcopy(ConfigStore.instance().repo))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    environment, known, backbones = dict(os.environ), set(sys.modules), dict(BACKBONES)
    yield
    for name in set(sys.modules) - known:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith((str(tmp_path), str(PLUGIN))):
            del sys.modules[name]
    os.environ.clear()
    os.environ.update(environment)
    BACKBONES.clear()
    BACKBONES.update(backbones)
    as_new()


def as_new() -> None:
    """As a new process finds the code."""
    importlib.invalidate_caches()
    overrides._kinds.cache_clear()
    overrides._shared_parts.cache_clear()
    code.code_of.cache_clear()
    code._parsed.cache_clear()


@pytest.fixture
def plugin() -> None:
    """It is loaded."""
    plugins.load([NAME], where=[str(PLUGIN)])
    as_new()


def planned(store: Store, *more: str) -> Plan:
    return make_plan(configured(*more), BOTH, store, Hardware(has_bf16=False))


# --- its choices and settings -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("plugin")
def test_its_methods_are_choices_like_ours(tmp_path: Path) -> None:
    plan = planned(Store.open(str(tmp_path / "store")), *CHOSEN)
    stages = {one.name: one.artifact.stage for one in plan}
    assert stages["maps_network"] == "lse_head"
    assert stages["maps"] == "lse_maps"
    assert stages["refined"] == stages["amn_refined"] == "majority"
    assert {"maps/frequency_weighted_iou", "predictions/frequency_weighted_iou"} <= plan.metric_names()
    (network,) = [one for one in plan if one.name == "maps_network"]
    assert (network.settings.seed, network.settings.backbone.name) == (0, "resnet18"), "the pipeline's own"


@pytest.mark.usefixtures("plugin")
def test_its_settings_come_from_dataclass_method_recipe_pair_and_command_line_in_this_order() -> None:
    paper = configured(*CHOSEN, "dataset=voc12", "dataset.root=/data")
    quick = configured(*CHOSEN, "recipe=quick")
    typed = configured(*CHOSEN, "recipe=quick", "maps_network.crop=96", "maps.threshold=0.6", "refined.window=3")
    shapes = configured(*CHOSEN)
    assert (paper.maps_network.crop, paper.maps_network.sharpness) == (448, 1.0), "of the dataclass"
    assert paper.maps.threshold == quick.maps.threshold, "of the method"
    assert paper.maps.threshold != configured().maps.threshold
    assert paper.refined.conf_fg != configured().refined.conf_fg, "of the method, for a step that another one makes"
    assert (paper.maps.scales, quick.maps.scales) == ([1.0, 0.5, 1.5, 2.0], [1.0, 0.5]), "of the recipe"
    assert (quick.maps_network.crop, shapes.maps_network.crop) == (288, 128), "of the pair"
    assert (paper.refined.window, shapes.refined.window, shapes.amn_refined.window) == (9, 5, 5)
    assert (typed.maps_network.crop, typed.maps.threshold, typed.refined.window) == (96, 0.6, 3)


# --- what it computes -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("plugin")
def test_pooling_lies_between_the_mean_and_the_maximum() -> None:
    from lse_seeds.lse.model import log_sum_exp_pool

    scores = torch.randn(2, 3, 8, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, largest = scores.mean((2, 3)), scores.amax((2, 3))
    pooled = log_sum_exp_pool(scores, 5.0)
    assert (mean < pooled).all()
    assert (pooled < largest).all()
    torch.testing.assert_close(log_sum_exp_pool(scores, 1e-6), mean, rtol=0, atol=1e-4)
    torch.testing.assert_close(log_sum_exp_pool(scores, 1e4), largest, rtol=0, atol=1e-3)
    by_hand = torch.log(torch.exp(5.0 * scores).mean((2, 3))) / 5.0
    torch.testing.assert_close(pooled, by_hand)


@pytest.mark.usefixtures("plugin")
def test_a_pixel_gets_the_label_of_most_pixels_around_it() -> None:
    from lse_seeds.majority.model import majority

    labels = np.random.default_rng(0).integers(0, 3, (11, 14))
    padded = np.pad(labels, 2, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5)).reshape(11, 14, 25)
    np.testing.assert_array_equal(majority(labels, 3, 5), mode(windows, axis=2).mode)
    np.testing.assert_array_equal(majority(labels, 3, 1), labels)


@pytest.mark.usefixtures("plugin")
def test_iou_is_weighted_by_the_pixels_of_the_ground_truth() -> None:
    from lse_seeds.metrics import frequency_weighted_iou

    confusion = np.array([[6, 2, 0], [1, 1, 0], [0, 0, 0]])
    assert frequency_weighted_iou(confusion) == pytest.approx(0.8 * 6 / 9 + 0.2 * 1 / 4)
    assert np.isnan(frequency_weighted_iou(np.zeros((3, 3), np.int64)))


def test_it_runs_on_a_cluster_that_knows_nothing_of_it_and_its_maps_are_others_than_cams(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, folder = write_folder(tmp_path / "images", masks=True), tmp_path / "store"
    monkeypatch.setenv("PYTHONPATH", str(PLUGIN))
    address = ray.get_runtime_context().gcs_address
    small = ["maps_network.epochs=2", "maps_network.batch_size=8", "maps_network.crop=64"]
    finish(start(images, folder, *CHOSEN, "until=refined", *small, address=address))
    finish(start(images, folder, "until=maps", address=address))
    store = Store.open(str(folder))
    run, cam = records.find(store, None, "refined"), records.find(store, None, "maps")
    assert run.artifacts["classifier"] == cam.artifacts["classifier"]
    tables = [one.artifacts["maps"].table() for one in (run, cam)]
    ids = tables[0].ids()
    assert ids == tables[1].ids()
    assert len(ids) == 24
    for row, other in zip(*(table.take(ids, SCHEMA.names) for table in tables), strict=True):
        maps, others = grid_maps(row), grid_maps(other)
        assert maps.shape == others.shape
        assert len(maps) == 0 or np.abs(maps - others).max() > 0.05
    summary = json.loads(run.folder.read(records.SUMMARY))
    for step in ("maps", "refined", "final_refined"):
        assert 0 < summary[step]["frequency_weighted_iou"] <= 1
    assert "frequency_weighted_iou" not in json.loads(cam.folder.read(records.SUMMARY))["maps"]
    assert {name.partition(".")[0] for name in run.artifacts["maps"].manifest()["code"]} == {"amn_ray", NAME}


# --- whose code it is -------------------------------------------------------------------------------------------------


SCORED = ("maps", "refined", "amn_maps", "amn_refined", "pseudo_masks")


@pytest.mark.parametrize(
    ("file", "old", "new", "steps", "scores"),
    [
        ("lse/model.py", "/ sharpness", "/ (2 * sharpness)", {"maps_network", "maps"}, set()),
        ("lse/example.py", "augment(image_HWC", "augment(1 * image_HWC", {"maps_network"}, set()),
        ("majority/model.py", "best_HW, votes_HW)", "votes_HW, best_HW)", {"refined", "amn_refined"}, set()),
        ("metrics.py", "np.nansum", "np.nanmean", set(), {*SCORED}),
        ("lse/model.py", "all pixels count alike", "they all count alike", set(), set()),
        ("lse/model.py", '"""1/r', '"""One: 1/r', set(), set()),
    ],
    ids=["the network", "what it is trained on", "the refinement", "the metric", "a comment", "a docstring"],
)
def test_an_edit_is_told_for_the_steps_that_use_it_and_no_other(
    tmp_path: Path, file: str, old: str, new: str, steps: set[str], scores: set[str]
) -> None:
    shutil.copytree(PLUGIN / NAME, tmp_path / NAME)
    plugins.load([NAME], where=[str(tmp_path)])
    as_new()
    plan = planned(Store.open(str(tmp_path / "store")), *CHOSEN, "until=pseudo_masks")
    parts = {one.name: one.modules for one in plan}
    parts |= {f"{one.name} score": one.score.modules for one in plan if one.score is not None}
    before = {name: dict(code_of(*modules)) for name, modules in parts.items()}
    path = tmp_path / NAME / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    as_new()
    changed = {name for name, modules in parts.items() if other_code(before[name], *modules)}
    assert changed == steps | {f"{name} score" for name in scores}


def test_an_edit_of_a_backbone_is_told_for_all_that_hold_it(tmp_path: Path) -> None:
    (tmp_path / "wide.py").write_text(
        "from amn_ray.nn.backbones.registry import register_backbone\n"
        "def build(config, output_stride):\n    return None\n"
        "register_backbone('wide', build)\n"
    )
    plugins.load(["wide"], where=[str(tmp_path)])
    as_new()
    plan = planned(Store.open(str(tmp_path / "store")), "backbone.name=wide", "until=pseudo_masks")
    assert {one.name for one in plan if "wide" in one.modules} == {
        "classifier", "maps", "amn", "amn_maps", "irn", "pseudo_masks",
    }  # fmt: skip


# --- its data set -----------------------------------------------------------------------------------------------------


STRIPES = """
from dataclasses import dataclass
from amn_ray.data.registry import register_dataset
from amn_ray.data.shapes import Shapes, ShapesConfig
@dataclass(kw_only=True)
class StripesConfig(ShapesConfig):
    angle: int = 0
class Stripes(Shapes):
    pass
register_dataset("stripes", StripesConfig, Stripes, recipe="quick")
"""


def test_its_data_set_is_a_choice_and_is_listed_by_another_process(tmp_path: Path) -> None:
    (tmp_path / "stripes.py").write_text(STRIPES)
    plugins.load(["stripes"], where=[str(tmp_path)])
    as_new()
    config = configured("plugins=[stripes]", "dataset=stripes", "dataset.num_train=5", "dataset.num_val=2")
    assert (config.dataset.name, config.dataset.angle) == ("stripes", 0)
    assert config.classifier.epochs == configured("recipe=quick").classifier.epochs, "its recipe"
    named = configured("plugins=[stripes]", "dataset=stripes", "recipe=shapes")
    assert named.classifier.epochs == configured("recipe=shapes").classifier.epochs
    train, val = list_splits(config.dataset).values()
    assert (train.rows, val.rows) == (5, 2)
    assert train.modules == ["stripes"]
    turned = list_splits(dataclasses.replace(config.dataset, angle=45))["train"]
    assert turned.identity() != train.identity(), "what it adds is part of the identity"


# --- what a plug-in may get wrong -------------------------------------------------------------------------------------


HEAD = """
from pathlib import Path
from amn_ray.stages.groups import MapsConfig, RefinementConfig
from amn_ray.stages.methods import Method, register
from amn_ray.stages.stage import Stage
def run(config, inputs, output, context):
    return {"metrics": {}}
def stage(name="mine", makes="maps", needs=("images",), config=MapsConfig):
    return Stage(name=name, version=1, config=config, makes=makes, needs=needs, run=run)
"""


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("import nowhere", "cannot be imported (ModuleNotFoundError: No module named 'nowhere')"),
        ("def f(:", "cannot be imported (SyntaxError: "),
        ("register(Method(group='maps', name='cam', stages={'maps': stage()}))", "maps=cam: is declared twice"),
        ("register(Method(group='maps', name='mine', stages={'maps': stage('crf')}))", "stage crf: is declared twice"),
        ("register(Method(group='maps', name='mine', stages={'maps': stage('score')}))", "stage score: is declared"),
        ("register(Method(group='maps', name='mine', stages={'maps': stage(makes='weights')}))",
         "maps=mine: maps needs a stage that makes maps, but mine makes weights"),
        ("register(Method(group='maps', name='mine', stages={'irn': stage()}))",
         "maps=mine: makes irn, but may make maps_network, maps"),
        ("register(Method(group='maps', name='mine', stages={'maps': stage(needs=('images', 'truth'))}))",
         "maps=mine: the stage mine needs truth, which only scores may see"),
        ("register(Method(group='maps', name='my maps', stages={'maps': stage()}))", "the name 'my maps' must be"),
        ("register(Method(group='map', name='mine'))", "mine: group=map is none of refinement, "),
        ("from amn_ray.evaluation.metrics import register as r; r('miou', len)", "metric miou: is declared twice"),
        ("from amn_ray.evaluation.metrics import register as r; r('best_miou', len)", "metric best_miou: is declared"),
        ("from amn_ray.nn.backbones.registry import register_backbone as r; r('resnet18', len)",
         "backbone.name=resnet18: is registered twice"),
        ("from amn_ray.data.registry import register_dataset as r\nfrom amn_ray.data.source import DatasetConfig\n"
         "r('voc12', DatasetConfig, len)", "dataset=voc12: is declared twice"),
    ],
)  # fmt: skip
def test_a_plug_in_that_is_wrong_is_refused_in_one_sentence(job: Job, tmp_path: Path, lines: str, told: str) -> None:
    (tmp_path / "mine.py").write_text(f"{HEAD}\n{lines}\n")
    exit_code, error = job("pipeline", "plan=true", "plugins=[mine]", f"store={tmp_path}/store")
    assert exit_code == 2
    assert error.startswith("error: plugins=mine: ")
    assert told in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("files", "choice", "told"),
    [
        ({"mine.yaml": "maps: {threshhold: 0.3}"}, "maps=mine", "mine.yaml: maps.threshhold: Key 'threshhold' not in"),
        ({"mine.yaml": "maps: {threshold: much}"}, "maps=mine", "mine.yaml: maps.threshold: Value 'much'"),
        ({"mine.yaml": "with: {recipe=shapes: {map: {threshold: 1}}}"}, "maps=mine", "mine.yaml: map: is not a step"),
        (
            {},
            "maps=mine",
            "mine.yaml: cannot be read (No such file or directory), but maps=mine has its settings there",
        ),
        ({"mine.yaml": ""}, "maps=mein", ", did you mean mine"),
        ({"mine.yaml": ""}, "maps.treshold=1", "unknown configuration key maps.treshold"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    job: Job, tmp_path: Path, files: dict[str, str], choice: str, told: str
) -> None:
    method = (
        "Method(group='maps', name='mine', stages={'maps': stage()}, settings=Path(__file__).with_name('mine.yaml'))"
    )
    (tmp_path / "mine.py").write_text(f"{HEAD}\nregister({method})\n")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    exit_code, error = job("pipeline", "plan=true", "plugins=[mine]", choice, f"store={tmp_path}/store")
    assert exit_code == 2
    assert told in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("stages", "choices", "told"),
    [
        ("{'maps': stage(config=RefinementConfig)}", ["maps=mine"],
         "maps=mine: RefinementConfig: is not a subclass of amn_ray.stages.groups.MapsConfig, as the settings of all"),
        ("{'maps': stage(needs=('images', 'maps_network'))}", ["maps=mine"],
         "maps needs maps_network, which these choices do not make before it (refinement=crf, "),
        ("{'maps': stage(needs=('images', 'irn'))}", ["maps=mine"],
         "maps needs irn, which these choices do not make before it (refinement=crf, "),
        ("{}", ["maps=mine"], "refined needs maps, which these choices do not make before it"),
    ],
)  # fmt: skip
def test_choices_that_do_not_fit_the_others_are_refused(
    job: Job, tmp_path: Path, stages: str, choices: list[str], told: str
) -> None:
    (tmp_path / "mine.py").write_text(f"{HEAD}\nregister(Method(group='maps', name='mine', stages={stages}))\n")
    exit_code, error = job("pipeline", "plan=true", "plugins=[mine]", f"store={tmp_path}/store", *choices)
    assert exit_code == 2
    assert told in error


def test_a_module_that_is_not_there_is_refused_with_where_it_was_looked_for(job: Job, tmp_path: Path) -> None:
    exit_code, error = job("pipeline", "plan=true", "plugins=[nowhere]", f"store={tmp_path}/store")
    assert exit_code == 2
    assert error.startswith(f"error: plugins=nowhere: there is no module nowhere in {tmp_path}, on PYTHONPATH or ")


def test_a_plug_in_that_only_a_file_names_is_refused(job: Job, tmp_path: Path) -> None:
    (tmp_path / "conf" / "study").mkdir(parents=True)
    (tmp_path / "conf" / "study" / "mine.yaml").write_text(
        "# @package _global_\nplugins: [mine]\nuntil: maps\nstudy:\n  name: mine\n"
        "  space: {maps.threshold: [0.1]}\n  metric: maps/selection_miou\n"
    )
    arguments = ["study=mine", "--config-dir", str(tmp_path / "conf"), f"store={tmp_path}/store"]
    exit_code, error = job("sweep", *arguments)
    assert exit_code == 2
    assert "plugins=mine: is set in a file" in error
    assert "AMN_RAY_PLUGINS=mine" in error


def test_a_plug_in_may_also_be_named_by_the_environment(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMN_RAY_PLUGINS", NAME)
    monkeypatch.syspath_prepend(str(PLUGIN))
    assert job("pipeline", "plan=true", "maps=lse", f"store={tmp_path}/store")[0] == 0


def test_an_installed_plug_in_is_loaded_without_being_named(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = tmp_path / "site" / "lse_seeds-0.1.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: lse-seeds\nVersion: 0.1\n")
    (described / "entry_points.txt").write_text("[amn_ray.plugins]\nlse_seeds = lse_seeds\n")
    shutil.copytree(PLUGIN / NAME, tmp_path / "site" / NAME)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    as_new()
    assert job("pipeline", "plan=true", "maps=lse", f"store={tmp_path}/store")[0] == 0
    assert plugins.modules() == [NAME]
    assert not plugins.named(), "nothing has to travel"
    (tmp_path / "site" / NAME / "metrics.py").write_text("1 / 0")
    for name in [name for name in sys.modules if name.partition(".")[0] == NAME]:
        del sys.modules[name]
    exit_code, error = job("pipeline", "plan=true", f"store={tmp_path}/store")
    assert exit_code == 2
    assert error.startswith("error: the installed plug-in lse_seeds: cannot be imported (ZeroDivisionError: ")


# --- where it must be importable --------------------------------------------------------------------------------------


def test_a_node_that_lacks_what_a_plug_in_needs_is_named() -> None:
    assert plugin_env.not_importable(["json", "amn_ray"]) is None
    told = plugin_env.not_importable(["json", "nowhere"])
    assert told == (
        "cannot import the plug-in nowhere (ModuleNotFoundError: No module named 'nowhere'); install there what it "
        "needs, or leave it out"
    )


def test_a_cluster_is_asked_whether_all_its_nodes_can_import_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMN_RAY_PLUGINS", "nowhere")
    assert plugins.modules() == ["nowhere"]
    told = plugin_env.not_importable(plugins.modules())
    assert f"node 10.0.0.2 (worker) {told}".startswith("node 10.0.0.2 (worker) cannot import the plug-in nowhere")


def test_named_modules_and_packages_travel_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "single.py").write_text("")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "inner.py").write_text("")
    (tmp_path / "spaced").mkdir()
    (tmp_path / "spaced" / "inner.py").write_text("")
    assert plugin_env.runtime_env(()) == {}
    plugins.load(["single", "pack.inner", "pack", "spaced.inner"], where=[str(tmp_path)])
    paths = [f"{tmp_path}/single.py", f"{tmp_path}/pack", f"{tmp_path}/spaced"]
    assert plugin_env.runtime_env(("env_vars",)) == {"py_modules": paths}
    assert plugin_env.runtime_env(("py_modules",)) == {}, "of a job that brings its own"
    assert plugin_env.environment() == {"AMN_RAY_PLUGINS": "single,pack.inner,pack,spaced.inner"}


def test_a_process_that_has_not_imported_a_plug_in_does_so_when_it_meets_its_names(tmp_path: Path) -> None:
    """As workers do, who get settings only."""
    (tmp_path / "narrow.py").write_text(
        "from amn_ray.nn.backbones.registry import register_backbone\n"
        "from amn_ray.data.registry import register_dataset\n"
        "from amn_ray.data.shapes import Shapes, ShapesConfig\n"
        "class Mine(ShapesConfig):\n    pass\n"
        "register_backbone('narrow', len)\n"
        "register_dataset('mine', Mine, Shapes)\n"
    )
    program = (
        "from amn_ray.nn.config import BackboneConfig; BackboneConfig(name='narrow');"
        "import sys; assert 'narrow' in sys.modules"
    )
    environment = os.environ | {"AMN_RAY_PLUGINS": "narrow", "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    assert os.spawnve(os.P_WAIT, sys.executable, [sys.executable, "-c", program], environment) == 0


# --- what a stage makes -----------------------------------------------------------------------------------------------


def made(folder: Path, **tables: list[dict[str, Any]]) -> Artifact:
    """An artifact that holds a table, weights, or nothing."""
    output = Store.open(str(folder)).artifact("mine", 1, {}, {})
    output.write("log.txt", b"")
    for rows in tables.values():
        Path(output.at(TABLE)).mkdir()
        pq.write_table(pa.Table.from_pylist(rows), f"{output.at(TABLE)}/0.parquet")
    return output


def stage_that(makes: Makes) -> Stage[Any]:
    return dataclasses.replace(methods.method("maps", "cam").stages["maps"], name="mine", makes=makes)


RIGHT = {"metrics": {"images_per_second": 1.0}}
MAPS = [to_row("a", [1], np.zeros((1, 2, 3), np.float32), b"")]


@pytest.mark.parametrize(
    ("makes", "table", "told"),
    [
        ("maps", None, "maps: the stage mine makes maps, but wrote no table (Parquet files in its folder rows)"),
        ("masks", None, "makes masks, but wrote no table"),
        ("weights", None, "makes weights, but wrote no model.safetensors"),
        ("weights", MAPS, "makes weights, but wrote no model.safetensors"),
        ("masks", MAPS, "makes masks, but wrote a table without mask, present; see docs/extending.md"),
        ("maps", [{"image_id": "a", "maps": b""}], "makes maps, but wrote a table without keys, h, w, refined"),
    ],
)
def test_a_stage_that_did_not_make_what_it_declares_is_refused_and_its_output_removed(
    tmp_path: Path, makes: Makes, table: list[dict[str, Any]] | None, told: str
) -> None:
    output = made(tmp_path, **({} if table is None else {"table": table}))
    with pytest.raises(RunError) as error:
        check_made("maps", stage_that(makes), output, RIGHT)
    assert told in str(error.value)
    assert not output.exists()


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (None, "maps: the stage mine returned None, expected a dict with a dict of numbers as `metrics`"),
        ({"rows": 3}, "returned {'rows': 3}, expected a dict"),
        ({"metrics": {"loss": np.float32(1)}}, "returned a result that is not JSON (Object of type float32"),
    ],
)  # fmt: skip
def test_a_stage_that_returns_something_else_is_refused_and_its_output_kept(
    tmp_path: Path, result: object, told: str
) -> None:
    output = made(tmp_path, table=MAPS)
    with pytest.raises(RunError) as error:
        check_made("maps", stage_that("maps"), output, result)
    assert told in str(error.value)
    assert output.exists(TABLE)


def test_a_stage_that_made_what_it_declares_passes(tmp_path: Path) -> None:
    check_made("maps", stage_that("maps"), made(tmp_path, table=MAPS), RIGHT)
    output = made(tmp_path / "weights")
    output.write(MODEL, b"")
    check_made("maps", stage_that("weights"), output, RIGHT)


def test_a_run_whose_stage_made_nothing_ends_with_one_sentence(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine.py").write_text(
        f"{HEAD}\nregister(Method(group='maps', name='mine', stages={{'maps': stage()}}))\n"
    )
    images = write_folder(tmp_path / "images", masks=True)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    address = ray.get_runtime_context().gcs_address
    process = start(images, tmp_path / "store", "plugins=[mine]", "maps=mine", "until=maps", address=address)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 1
    assert output.splitlines()[-1].startswith("error: maps: the stage mine makes maps, but wrote no table"), output
    assert not list((tmp_path / "store" / "mine").glob("*/manifest.json"))


def test_what_other_code_has_begun_is_told_when_the_work_goes_on(tmp_path: Path) -> None:
    told: list[Event] = []

    class Told(Observer):
        def notify(self, event: Event) -> None:
            told.append(event)

    store = Store.open(str(tmp_path / "store"))
    runner = Runner(planned(store), store, Cluster(ClusterConfig()), [Told()], tracking_uri="")
    output = store.artifact("lse_maps", 1, {}, {})
    for digest in ("first", "first", "second", "second"):
        runner._record_start("maps", output, {"lse_seeds.lse.model": digest, "amn_ray.data.maps": "same"})
    (warned,) = told
    assert isinstance(warned, Warned)
    assert warned.sentence == (f"resumes work of other code (lse_seeds.lse.model); remove {output.url} to start over")


# --- a segmentation network of a plug-in ------------------------------------------------------------------------------


SEGMENTER = '''
import numpy as np
from dataclasses import dataclass
from amn_ray.core.settings import shared
from amn_ray.stages.groups import PredictionsConfig, SegmenterConfig
from amn_ray.stages.methods import Method, register
from amn_ray.stages.stage import Stage
@dataclass(kw_only=True)
class MinePredictions(PredictionsConfig):
    precision: str | None = shared()
def run(config, inputs, output, context):
    raise NotImplementedError
class Opened:
    def __init__(self, *given):
        self.given = given
    def logits(self, images):
        """Dark pixels are label 1, bright ones 2, on a grid of half the size."""
        halves = [image[::2, ::2].mean(2).astype(np.float32) for image in images]
        return [np.stack([np.full_like(half, -1e9), 128 - half, half - 128]) for half in halves]
def open_network(network, predictions, num_classes, weights):
    return Opened(network, predictions, num_classes, weights)
register(Method(group="segmenter", name="mine", open_network=open_network, stages={
    "segmenter": Stage(name="mine", version=1, config=SegmenterConfig, makes="weights",
                       needs=("images", "pseudo_masks"), run=run),
    "predictions": Stage(name="mine_predictions", version=1, config=MinePredictions, makes="masks",
                         needs=("images", "segmenter"), run=run),
}))
'''


def test_its_segmentation_network_predicts_new_images_and_is_a_model_of_mlflow(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SEGMENTER)
    store = Store.open(str(tmp_path / "store"))
    images, weights = store.artifact("images", 1, {}, {}), store.artifact("mine", 1, {}, {})
    network = {"iterations": 5, "batch_size": 2, "precision": "fp32"}
    images.commit(config={}, inputs={}, code={}, seconds=0, result={"classes": ["dark", "bright"]})
    weights.commit(config=network, inputs={}, code={}, seconds=0, result={})
    settings = {
        "choices.prediction_refinement": "none", "predictions.scales": [1.0], "predictions.precision": None,
    }  # fmt: skip
    run = records.Run(
        store.folder("runs", "one"), {"images": images, "segmenter": weights}, {}, settings, mlflow_run=""
    )
    with pytest.raises(RequestError, match=r"trained mine, which cannot be loaded here; .* load the plug-in"):
        Settings.of(run)
    plugins.load(["mine"], where=[str(tmp_path)])
    found = Settings.of(run)
    assert found.opened_by == "mine:open_network"
    segmenter = Segmenter(found, b"weights")
    predictions = {"scales": [1.0], "precision": "fp32"}
    assert segmenter.network.given == (network, predictions, 2, b"weights")
    write_model(tmp_path / "model", found, b"weights")
    loaded = _load_pyfunc(str(tmp_path / "model"))
    assert loaded.segmenter.settings == found
    image = noise(20, 30)
    np.testing.assert_array_equal(loaded.segmenter.logits(image), segmenter.logits(image))
    assert segmenter.logits(image).shape == (3, 10, 15)


def test_a_model_whose_plug_in_is_not_here_is_refused() -> None:
    settings = Settings("nowhere.net:open_network", {}, {}, None, ["nut"], DEFAULT)
    with pytest.raises(RequestError, match=r"^nowhere\.net: cannot be imported .* install that plug-in here$"):
        Segmenter(settings, b"")
