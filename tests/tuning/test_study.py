"""What a study means, and what it must not ask for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from amn_ray.core.errors import RequestError
from amn_ray.tuning import sweep
from amn_ray.tuning.study import StudyConfig, Trial, check_keys, corners, draws, grid, sample
from tests.conftest import encode

Job = Callable[..., tuple[int, str]]


def study(**settings: object) -> StudyConfig:
    return StudyConfig(name="test", metric="amn_maps/selection_miou", **settings)  # type: ignore[arg-type]


def test_a_grid_is_every_combination_with_the_seeds_of_one_setting_side_by_side() -> None:
    trials = grid(study(space={"amn.lc": [[], ["layer1"]], "amn.smoothing": [0.2, 0.4]}), seeds=[0, 1])
    assert [trial.label for trial in trials[:3]] == [
        "amn.lc=[] amn.smoothing=0.2 seed=0",
        "amn.lc=[] amn.smoothing=0.2 seed=1",
        "amn.lc=[] amn.smoothing=0.4 seed=0",
    ]
    assert len(trials) == len({trial.label for trial in trials}) == 8
    assert trials[-1].overrides(None) == ["amn.lc=[layer1]", "amn.smoothing=0.4", "seed=1"]


def test_cases_are_named_sets_of_settings() -> None:
    trials = grid(
        study(cases={"CAM": {"activation": "none"}, "full": {}}, space={"pseudo_masks.beta": [5, 10]}), seeds=[3]
    )
    assert [trial.label for trial in trials] == [
        "CAM pseudo_masks.beta=5 seed=3", "CAM pseudo_masks.beta=10 seed=3",
        "full pseudo_masks.beta=5 seed=3", "full pseudo_masks.beta=10 seed=3",
    ]  # fmt: skip
    assert trials[0].overrides(None) == ["activation=none", "pseudo_masks.beta=5", "seed=3"]


def test_the_seeds_of_one_step_leave_all_before_it_as_it_is() -> None:
    (trial,) = grid(study(cases={"full": {}}, seeds_of="segmenter"), seeds=[3])
    assert trial.overrides("segmenter") == ["segmenter.seed=3"]
    with pytest.raises(RequestError, match=r"^study: segmenter\.seed cannot be searched; set seeds="):
        check_keys(study(space={"segmenter.seed": [1, 2]}, seeds_of="segmenter"), [], [])


def test_values_are_written_as_hydra_reads_them() -> None:
    settings = {"a": None, "b": True, "c": 1e-5, "d": "x y'z", "e": [1.0, "u"], "f": {"g": 0.5}, "h": "with/slash"}
    written = Trial("", settings, seed=0).overrides(None)[:-1]
    assert written == ["a=null", "b=true", "c=1e-05", r"d='x y\'z'", "e=[1,u]", "f={g:0.5}", "h=with/slash"]


TEXTS = [
    "Bob's", 'a "quoted" one', "a,b", "US$ and $x$", "a|b", "#1", "猫", "x" * 200, "s3://b/k?a=b&c", "[a]", "{a:b}",
    "(a)", "a=b", "a\\", "\\'", "\\\\'a'", "null", "True", "nan", "12", "012", "1e5", "-", "", " a ", "a: b",
    "C:\\new", "é", "%",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_reaches_a_trial_as_it_is(text: str) -> None:
    written = Trial("", {"a": text, "b": [text, [text]]}, seed=0).overrides(None)[:-1]
    read = [override.value() for override in OverridesParser.create().parse_overrides(written)]
    plain = [str(value) if isinstance(value, str) else value for value in (read[0], read[1][0], read[1][1][0])]
    assert plain == [text] * 3


def test_trials_of_cases_with_any_name_are_told_apart() -> None:
    names = [*TEXTS, "x" * 201]
    trials = grid(study(cases={name: {"a": number} for number, name in enumerate(names)}), seeds=[0, 1])
    assert len({trial.label for trial in trials}) == 2 * len(names)
    assert [trial.settings["a"] for trial in trials[::2]] == list(range(len(names)))


def test_samples_are_rounded_to_four_digits_and_lists_are_sampled_by_position() -> None:
    asked = study(
        search="random", num_trials=2, space={"amn.lr_head": {"log_uniform": [1e-5, 1e-1]}, "amn.lc": [[], ["layer4"]]}
    )
    trial = sample(asked, {"amn.lr_head": 0.000123456, "amn.lc": 1}, seed=7)
    assert trial.settings == {"amn.lr_head": 0.0001235, "amn.lc": ["layer4"]}
    assert trial.seed == 7


def test_random_draws_stay_in_their_ranges_and_are_the_same_for_a_seed() -> None:
    space = {"a": {"log_uniform": [1e-4, 1e-1]}, "b": ["x", "y"], "c": {"integers": [2, 4]}, "d": {"uniform": [-1, 1]}}
    asked = study(search="random", num_trials=200, space=space)
    trials = draws(asked, seed=5)
    assert [trial.label for trial in trials] == [trial.label for trial in draws(asked, seed=5)]
    assert {trial.settings["b"] for trial in trials} == {"x", "y"}
    assert {trial.settings["c"] for trial in trials} == {2, 3, 4}
    logs = [trial.settings["a"] for trial in trials]
    assert 1e-4 <= min(logs) < 3e-4
    assert 3e-2 < max(logs) <= 1e-1
    assert 0.3 < sum(value < 10**-2.5 for value in logs) / len(logs) < 0.7, (
        "half of a log-uniform lies below its middle"
    )


def test_the_corners_of_a_sampled_space_hold_both_ends_of_every_range() -> None:
    asked = study(
        search="optuna", num_trials=2, space={"a": {"uniform": [0, 1]}, "b": [1, 2, 3], "c": {"integers": [4, 9]}}
    )
    found = [trial.settings for trial in corners(asked, 0)]
    assert found == [{"a": 0, "b": 1, "c": 4}, {"a": 1, "b": 2, "c": 9}, {"a": 1, "b": 3, "c": 9}]


BASE = {"name": "mine", "metric": "refined/selection_miou"}
WALK = "pseudo_masks/selection_miou"
AMN = {"name": "mine", "metric": "amn_maps/selection_miou", "search": "optuna", "num_trials": 2}


@pytest.mark.parametrize(
    ("settings", "overrides", "told"),
    [
        ({**BASE, "space": {"refined.conf_fq": [0.1]}}, [], ["refined.conf_fq", "did you mean refined.conf_fg"]),
        ({**BASE, "space": {"refined.conf_fg": []}}, [], ["refined.conf_fg has no values"]),
        ({**BASE, "space": {"refined.conf_fg": [0.3, 0.3]}}, [], ["twice"]),
        ({**BASE, "space": {"refined.conf_fg": [0.02]}}, [], ["refined.conf_fg=0.02 seed=0", "must not be above"]),
        ({**BASE, "space": {"refined.conf_fg": {"uniform": [0.1, 0.2]}}}, [], ["a grid cannot enumerate"]),
        ({**BASE, "space": {"seed": [1, 2]}}, [], ["seed cannot be searched", "seeds="]),
        ({**BASE, "space": {"amn.lc": [[]]}}, ["amn.lc=[layer1]"], ["amn.lc", "given on the command line"]),
        ({**BASE, "cases": {"a": {"seed": 1}}}, [], ["seed cannot be searched"]),
        ({**BASE, "cases": {"a": {"amn.lc": []}}, "space": {"amn.lc": [[]]}}, [], ["which space searches"]),
        ({**BASE, "metric": "refined/selection_mio"}, [], ["/selection_mio:", "did you mean refined/selection_miou"]),
        ({**BASE, "columns": ["refined/what"]}, [], ["study.columns=refined/what"]),
        ({**BASE, "metric": WALK}, ["until=refined"], [WALK, "no step reports it"]),
        ({**BASE}, ["classifier.batch_size=4000"], ["classifier.batch_size=4000"]),
        ({**BASE, "num_trials": 3}, [], ["num_trials"]),
        ({**BASE, "search": "bayes"}, [], ["bayes", "optuna"]),
        ({**BASE, "asha": {}}, [], ["study.asha", "metric=amn_maps/selection_miou"]),
        ({**AMN, "space": {"amn.dropout": [0.1]}, "asha": {"grace": 0}}, [], ["study.asha.grace=0"]),
        ({**AMN, "space": {"amn.dropout": [0.1]}, "asha": {"grace": 9}}, [], ["study.asha.grace=9", "amn.epochs=6"]),
        ({**BASE, "metric": "refined/miou"}, [], ["refined/miou", "set refined/selection_miou"]),
        ({**BASE, "name": "../up"}, [], ["study.name=../up"]),
        ({**BASE, "space": {"cluster.cpus": [1, 2]}}, [], ["cluster.cpus cannot be searched"]),
        ({**AMN, "space": {}}, [], ["nothing to search"]),
        ({**AMN, "num_trials": None, "space": {"amn.dropout": [0.1]}}, [], ["number of trials"]),
        ({**AMN, "space": {"amn.dropout": {"uniform": [0.5, 0.1]}}}, [], ["low below high"]),
        ({**AMN, "space": {"amn.dropout": {"uniform": [0.5, 2]}}}, [], ["amn.dropout=2"]),
        ({**AMN, "space": {"amn.lr_head": {"log_uniform": [0, 1]}}}, [], ["greater than 0"]),
        ({**AMN, "space": {"amn.lr_head": {"normal": [0, 1]}}}, [], ["log_uniform"]),
        ({**AMN, "space": {"recipe": ["quick", "paper"]}}, [], ["recipe is a group"]),
        ({**AMN, "space": {"amn.epochs": [1, 2]}, "asha": {}}, [], ["same epochs", "amn.epochs=1"]),
        ({**AMN, "space": {"amn.dropout": [0.1, 0.2]}}, ["seeds=[0,1]"], ["seeds=[0, 1]", "study=repeats"]),
        ({**BASE, "space": {"refined.conf_fg": [0.3]}}, ["seeds=[]"], ["seeds=[]"]),
        ({**BASE, "space": {"refined.conf_fg": [0.3]}}, ["seed=3"], ["seeds=["]),
    ],
)  # fmt: skip
def test_a_study_that_cannot_be_run_is_refused_in_one_sentence(
    job: Job, tmp_path: Path, settings: dict, overrides: list[str], told: list[str]
) -> None:
    folder = tmp_path / "mine" / "study"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# @package _global_\n" + yaml.safe_dump({"study": settings}))
    store = tmp_path / "store"
    code, error = job("sweep", f"--config-dir={folder.parent}", "study=mine", f"store={store}", *overrides)
    assert code == 2, error
    assert len(error.strip().splitlines()) == 1
    for part in told:
        assert part in error
    assert not store.exists(), "refused before anything was made"


def test_an_unknown_study_is_told_with_those_that_are_there(job: Job) -> None:
    code, error = job("sweep", "study=lc_place")
    assert code == 2
    assert "lc_place" in error
    assert "lc_placement" in error


def test_a_sweep_without_a_study_says_that_one_must_be_chosen(job: Job) -> None:
    code, error = job("sweep")
    assert code == 2
    assert "study" in error


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[sweep.Plan]:
    """Of the studies that are started from now on, none of which is run."""
    found: list[sweep.Plan] = []
    monkeypatch.setattr(sweep, "sweep", lambda *arguments: found.append(sweep.make_plan(*arguments)))
    return found


def test_a_study_on_corrected_masks_is_another_one_but_a_copied_data_set_is_the_same(
    job: Job, folder: Path, tmp_path: Path, plans: list[sweep.Plan]
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    corrected = tmp_path / "corrected"
    shutil.copytree(folder, corrected)
    with Image.open(corrected / "masks/p.png") as image:
        mask = np.array(image)
    mask[0, 0] = 1
    (corrected / "masks/p.png").write_bytes(encode(mask))
    for root in (folder, tmp_path / "copy", corrected):
        settings = [f"dataset.root={root}", "study=seed_thresholds", "classifier.batch_size=2", f"store={tmp_path}/s"]
        assert job("sweep", "dataset=folder", *settings) == (0, "")
    assert plans[0].folder.name == plans[1].folder.name != plans[2].folder.name


@pytest.mark.parametrize("metric", ["refined/selection_miou", "final_refined/selection_miou"])
def test_a_study_without_ground_truth_is_refused_before_it_starts(
    job: Job, folder: Path, tmp_path: Path, metric: str
) -> None:
    shutil.rmtree(folder / "masks")
    settings = ["study=seed_thresholds", f"study.metric={metric}", "study.columns=[]", "classifier.batch_size=2"]
    code, error = job("sweep", "dataset=folder", f"dataset.root={folder}", f"store={tmp_path}/store", *settings)
    assert code == 2
    assert f"study.metric={metric}: the images of" in error
    assert "have no ground truth" in error


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "conf/study").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_study_of_ours_composes_and_asks_only_for_what_is_reported(
    job: Job, plans: list[sweep.Plan], path: Path
) -> None:
    code, error = job("sweep", f"study={path.stem}")
    assert (code, error) == (0, "")
    assert plans[0].trials or plans[0].study.num_trials
    assert f"study={path.stem}" in path.read_text(), "its header says how to start it"
