"""Choices and their settings: which value wins, and how mistakes in a method's own YAML are told."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore

from amn_ray.core.artifacts import Artifact
from amn_ray.core.errors import RequestError
from amn_ray.recipe import composition
from amn_ray.recipe.composition import register_methods
from amn_ray.recipe.config import Choices
from amn_ray.stages import methods
from amn_ray.stages.groups import MapsConfig, PseudoMasksConfig
from amn_ray.stages.irn.config import WalkConfig
from amn_ray.stages.methods import Method, method, register
from amn_ray.stages.stage import Context, Result, Stage
from tests.composed import composed, configured


@dataclass(kw_only=True)
class MineConfig(MapsConfig):
    """Settings of a way to make maps; the numbers say who set a value last."""

    a: int = 1
    b: int = 1
    c: int = 1
    d: int = 1
    e: int = 1


def run(config: MineConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    raise NotImplementedError


MINE = Stage(name="mine", version=1, config=MineConfig, makes="maps", needs=("images",), run=run)


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    composed()
    for registry in ("_METHODS", "_STAGES"):
        monkeypatch.setattr(methods, registry, dict(getattr(methods, registry)))
    monkeypatch.setattr(ConfigStore.instance(), "repo", copy.deepcopy(ConfigStore.instance().repo))


def mine(folder: Path, content: str) -> Method:
    """The method `maps=mine`, with this YAML."""
    path = folder / "mine.yaml"
    path.write_text(content)
    return Method(group="maps", name="mine", stages={"maps": MINE}, settings=path)


def test_a_choice_brings_its_settings_and_its_name() -> None:
    assert configured().choices == Choices()
    chosen = configured("activation=none", "boundaries=none")
    assert (chosen.choices.activation, chosen.choices.boundaries) == ("none", "none")
    assert type(configured().pseudo_masks) is WalkConfig
    assert type(chosen.pseudo_masks) is PseudoMasksConfig


def test_every_group_has_a_default_and_all_choices_compose() -> None:
    assert [item.name for item in fields(Choices)] == sorted(methods.GROUPS, key=[*vars(Choices())].index)
    for group in methods.GROUPS:
        assert len(methods.names(group)) >= 1
        for name in methods.names(group):
            assert getattr(configured(f"{group}={name}").choices, group) == name


def test_a_choice_that_is_not_there_is_refused_with_what_is() -> None:
    for ask in (lambda: method("maps", "cma"), lambda: composed("maps=cma")):
        with pytest.raises(RequestError, match=r"^maps=cma: must be one of .*cam.*, did you mean cam$"):
            ask()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        # method.md 2, 3 and 8: CAM's own.
        ("activation=none", {"maps.threshold": 0.15, "refined.conf_fg": 0.30, "refined.conf_bg": 0.05,
                             "pseudo_masks.power": 1.0, "pseudo_masks.background": 0.25}),
        # method.md 5, 6 and 8: where AMN's maps are used, AMN's.
        ("activation=amn", {"maps.threshold": 0.15, "refined.conf_fg": 0.30, "refined.conf_bg": 0.05,
                            "amn_maps.threshold": 0.25, "amn_refined.conf_fg": 0.45, "amn_refined.conf_bg": 0.15,
                            "pseudo_masks.power": 1.3, "pseudo_masks.background": 0.25}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("recipe", ["paper", "quick", "shapes"])
def test_thresholds_and_walk_are_those_of_the_maps_that_are_used(
    overrides: str, expected: dict[str, float], recipe: str
) -> None:
    found = configured(overrides, f"recipe={recipe}")
    assert {key: value_of(found, key) for key in expected} == expected
    coco = configured(overrides, f"recipe={recipe}", "dataset=coco14", "dataset.root=/data")
    assert {key: value_of(coco, key) for key in expected} == expected | {"pseudo_masks.background": 0.22}


def value_of(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = getattr(config, name)
    return config


def test_a_data_set_picks_the_recipe_that_fits_unless_one_is_named() -> None:
    assert configured().segmenter.iterations == 200
    assert configured("dataset=voc12", "dataset.root=/data").segmenter.iterations == 20_000
    assert configured("dataset=coco14", "dataset.root=/data").segmenter.iterations == 100_000
    assert configured("dataset=coco14", "dataset.root=/data", "recipe=quick").segmenter.iterations == 300


def test_a_later_source_wins_dataclass_method_recipe_pair_command_line(tmp_path: Path) -> None:
    register(
        mine(
            tmp_path,
            """
            maps: {b: 2, c: 2, d: 2, e: 2, scales: [2.0]}
            with:
              recipe=quick: {maps: {d: 4, e: 4}}
              recipe=paper: {maps: {scales: [4.0]}}
            """,
        )
    )
    recipe = composed("maps=mine", "recipe=shapes").maps
    assert (recipe.a, recipe.b, recipe.d) == (1, 2, 2)
    assert recipe.scales == [1.0], "the recipe's, not the method's"
    found = composed("maps=mine", "recipe=quick", "maps.e=5").maps
    assert (found.a, found.b, found.d, found.e) == (1, 2, 4, 5)
    assert found.scales == [1.0, 0.5]
    pair = composed("maps=mine", "recipe=paper").maps
    assert pair.scales == [4.0], "the pair's, not the recipe's"
    assert (pair.d, pair.e) == (2, 2), "of another pair"
    assert composed("maps=mine", "recipe=paper", "maps.scales=[5.0]").maps.scales == [5.0]


def test_a_pair_with_a_data_set_holds_also_where_the_recipe_is_that_data_sets(tmp_path: Path) -> None:
    register(mine(tmp_path, "with: {dataset=coco14: {maps: {a: 4}}, recipe=coco: {maps: {b: 4}}}"))
    found = composed("maps=mine", "dataset=coco14", "dataset.root=/data").maps
    assert (found.a, found.b) == (4, 4)
    other = composed("maps=mine").maps
    assert (other.a, other.b) == (1, 1)


def test_a_method_may_set_what_its_maps_want_of_later_steps(tmp_path: Path) -> None:
    register(mine(tmp_path, "{refined: {conf_fg: 0.6}, pseudo_masks: {beta: 3}}"))
    found = configured("maps=mine", "activation=none")
    assert found.refined.conf_fg == 0.6
    assert composed("maps=mine", "activation=none", "recipe=paper").pseudo_masks.beta == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("maps: {scale: [1.0]}", "scale"),
        ("maps: {a: many}", "many"),
        ("nonsense: {a: 1}", "nonsense"),
        ("maps: {a: 1", "line 1"),
        ("[maps]", "must be"),
        ("with: {quick: {maps: {a: 2}}}", "with: quick: must be recipe=NAME or dataset=NAME"),
        ("with: {cluster=gpu: {maps: {a: 2}}}", "with: cluster=gpu: must be recipe=NAME or dataset=NAME"),
        ("with: {recipe=quick: {maps: {scale: [1.0]}}}", "scale"),
        ("with: {recipe=quick: {maps: {a: many}}}", "many"),
    ],
)
def test_a_mistake_in_the_yaml_of_a_method_is_told_with_its_file(tmp_path: Path, content: str, words: str) -> None:
    register(mine(tmp_path, content))
    with pytest.raises(RequestError) as told:
        register_methods()
    assert str(told.value).startswith(f"{tmp_path}/mine.yaml: ")
    assert words in str(told.value)
    assert "\n" not in str(told.value)


def test_two_methods_of_one_name_are_refused(tmp_path: Path) -> None:
    first = mine(tmp_path, "")
    register(first)
    register(first)
    with pytest.raises(RequestError, match=r"^maps=mine: is declared twice"):
        register(mine(tmp_path, ""))


def test_the_yaml_of_a_method_that_is_not_there_is_named(tmp_path: Path) -> None:
    register(Method(group="maps", name="mine", stages={"maps": MINE}, settings=tmp_path / "none.yaml"))
    with pytest.raises(RequestError, match=rf"^{tmp_path}/none.yaml: cannot be read .*maps=mine"):
        register_methods()


def test_settings_of_a_method_are_those_of_its_group_and_more() -> None:
    register(Method(group="maps", name="mine", stages={"maps": replace(MINE, config=WalkConfig)}))
    with pytest.raises(RequestError, match=r"^maps=mine: WalkConfig: is not a subclass of .*MapsConfig"):
        register_methods()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"stages": {"irn": MINE}}, "maps=mine: makes irn, but may make maps_network, maps"),
        ({"stages": {"maps": replace(MINE, makes="masks")}}, "maps=mine: maps needs a stage that makes maps, .* masks"),
        (
            {"stages": {"maps": replace(MINE, needs=("images", "truth"))}},
            "maps=mine: .* needs truth, which only scores",
        ),
        ({"stages": {"maps": replace(MINE, optional=("truth",))}}, "maps=mine: .* needs truth, which only scores"),
        ({"group": "seeds"}, "mine: group=seeds is none of "),
        ({"name": "../mine"}, "maps=../mine: the name .* must be letters"),
    ],
)
def test_a_method_that_cannot_be_one_is_refused_when_it_is_written(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=f"^{told}"):
        Method(**{"group": "maps", "name": "mine", "stages": {"maps": MINE}, **wrong})


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("maps.threshold=2", r"^maps\.threshold=2\.0: must be in \[0, 1\]$"),
        ("refined.conf_bg=0.9", r"^refined\.conf_bg=0\.9: must not be above conf_fg=0\.3"),
        ("segmenter.backbone.name=vgg16", r"^segmenter\.backbone\.name=vgg16: must be one of resnet18"),
        ("seed=-1", r"^seed=-1: must not be negative$"),
    ],
)
def test_a_value_out_of_range_is_told_with_its_full_key(override: str, told: str) -> None:
    with pytest.raises(RequestError, match=told):
        composition.load(composed(override), written="store")
