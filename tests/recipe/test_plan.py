"""Which steps a pipeline has, and what decides their artifacts: planned without Ray, and without making anything."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from amn_ray.core.artifacts import Store
from amn_ray.core.errors import RequestError
from amn_ray.data.listing import Summary
from amn_ray.data.shapes import ShapesConfig
from amn_ray.platform.cluster import Cluster
from amn_ray.platform.hardware import Hardware
from amn_ray.recipe.config import STEPS, Choices, PipelineConfig
from amn_ray.recipe.plan import Plan, State, make_plan
from amn_ray.recipe.steps import steps
from amn_ray.stages import methods
from amn_ray.stages.given.config import GivenMapsConfig, GivenPseudoMasksConfig, GivenSeedsConfig
from amn_ray.stages.smp.config import SmpConfig
from tests.composed import configured

SLOW, FAST = Hardware(has_bf16=False), Hardware(has_bf16=True)
TABLES = ["images", "truth", "images_val", "truth_val"]
JUDGED = ["images", "images_val", "classifier"]
"""The classifier is scored on the labels of val."""
EARLY = ["images", "truth", "images_val", "classifier"]
SEEDS = ["maps", "refined"]
AMN = ["amn", "amn_maps", "amn_refined"]
START = ["segmenter_backbone"]
LAST = ["segmenter", "predictions", "predictions_refined"]


def split(name: str, **changed: Any) -> Summary:
    """What is known of eight listed images."""
    known: dict[str, Any] = {
        "config": ShapesConfig(), "split": name, "classes": ["cat", "dog"], "rows": 8, "masks": 8, "evaluated": 8,
        "unlabelled": 0, "unknown_classes": {}, "warnings": (), "digest": f"images of {name}",
        "truth_digest": f"masks of {name}",
    }  # fmt: skip
    return Summary(**known | changed)


BOTH = {"train": split("train"), "val": split("val")}
BLIND = {name: split(name, masks=0, evaluated=0, truth_digest="none") for name in BOTH}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty one, where no Ray is started."""

    def refuse(self: Cluster) -> None:
        raise AssertionError("a plan needs no Ray")

    monkeypatch.setattr(Cluster, "connect", refuse)
    return Store.open(str(tmp_path / "store"))


def plan(
    store: Store,
    *overrides: str,
    splits: Mapping[str, Summary] = BOTH,
    hardware: Hardware = SLOW,
    config: PipelineConfig | None = None,
) -> Plan:
    return make_plan(configured(*overrides) if config is None else config, splits, store, hardware)


def names(made: Plan) -> list[str]:
    return [planned.name for planned in made]


def fingerprints(made: Plan) -> dict[str, str]:
    return {planned.name: planned.artifact.fingerprint for planned in made}


def scores(made: Plan) -> dict[str, str]:
    return {planned.name: planned.score.artifact.fingerprint for planned in made if planned.score is not None}


def different(one: Mapping[str, str], other: Mapping[str, str]) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name in one if one[name] != other[name]}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ("", [*TABLES, "classifier", *SEEDS, *AMN, "irn", "pseudo_masks", *LAST]),
        ("recipe=quick", [*TABLES, "backbone", "classifier", *SEEDS, *AMN, "irn", "pseudo_masks", *START, *LAST]),
        ("activation=none", [*TABLES, "classifier", *SEEDS, "irn", "pseudo_masks", *LAST]),
        ("refinement=none", [*TABLES, "classifier", *SEEDS, *AMN, "irn", "pseudo_masks", *LAST]),
        ("boundaries=none", [*TABLES, "classifier", *SEEDS, *AMN, "pseudo_masks", *LAST]),
        ("boundaries=none activation=none", [*TABLES, "classifier", *SEEDS, "pseudo_masks", *LAST]),
        # The classifier is where the segmentation network starts from, if there are no weights of others.
        ("boundaries=ground_truth", [*TABLES, "classifier", "pseudo_masks", *LAST]),
        ("boundaries=ground_truth recipe=quick", [*TABLES, "pseudo_masks", *START, *LAST]),
        ("prediction_refinement=none", [*TABLES, "classifier", *SEEDS, *AMN, "irn", "pseudo_masks", *LAST[:-1]]),
        ("until=images", TABLES),
        ("until=truth", TABLES),
        ("until=classifier", JUDGED),
        ("until=classifier recipe=quick", [*JUDGED[:-1], "backbone", "classifier"]),
        ("until=maps", [*EARLY, "maps"]),
        ("until=refined", [*EARLY, *SEEDS]),
        ("until=amn", [*EARLY, *SEEDS, "amn"]),
        ("until=amn_refined", [*EARLY, *SEEDS, *AMN]),
        ("until=irn", [*EARLY, *SEEDS, *AMN, "irn"]),
        ("until=pseudo_masks boundaries=ground_truth", ["images", "truth", "pseudo_masks"]),
        ("until=segmenter boundaries=ground_truth", [*EARLY, "pseudo_masks", "segmenter"]),
    ],
)  # fmt: skip
def test_a_plan_holds_what_its_last_step_needs_and_no_more(store: Store, overrides: str, expected: list[str]) -> None:
    assert names(plan(store, *overrides.split())) == expected


def test_images_without_ground_truth_are_not_scored(store: Store) -> None:
    assert names(plan(store, splits=BLIND)) == [name for name in names(plan(store)) if not name.startswith("truth")]
    assert scores(plan(store, splits=BLIND)).keys() == {"classifier"}, "labels are no ground truth"
    scored = {"classifier", "maps", "refined", "amn_maps", "amn_refined", "pseudo_masks"}
    assert scores(plan(store)).keys() == scored | {"predictions", "predictions_refined"}
    assert scores(plan(store, splits={**BOTH, "val": BLIND["val"]})).keys() == scored


def test_without_a_val_split_the_training_images_are_predicted(store: Store) -> None:
    made = plan(store, splits={"train": BOTH["train"]})
    assert names(made) == [name for name in names(plan(store)) if name not in ("images_val", "truth_val")]
    predictions = made.get("predictions")
    images = made.get("images")
    assert predictions is not None
    assert images is not None
    assert predictions.inputs["images"] == images.artifact
    assert "classifier" not in scores(made), "it was trained on all labels that there are"


def combinations(files: str) -> Iterator[PipelineConfig]:
    """Combinations of choices, with weights of others and without, until each of their steps.

    All of them, but not each way to make maps with each refinement and segmentation network.
    """
    given = {
        ("maps", "given"): {"maps": GivenMapsConfig(files=files)},
        ("refinement", "given"): {"refined": GivenSeedsConfig(files=files)},
        ("boundaries", "given"): {"pseudo_masks": GivenPseudoMasksConfig(files=files)},
        ("segmenter", "smp"): {"segmenter": SmpConfig(encoder="resnet18", weights=None)},
    }
    groups = [methods.names(group) for group in methods.GROUPS]
    for recipe, names in itertools.product(("shapes", "quick"), itertools.product(*groups)):
        chosen = dict(zip(methods.GROUPS, names, strict=True))
        if chosen["maps"] != "cam" and (chosen["refinement"], chosen["segmenter"]) != ("crf", "deeplabv2"):
            continue
        if chosen["boundaries"] == "ground_truth" and chosen["activation"] != "none":
            continue  # refused
        stages = methods.method("maps", chosen["maps"]).stages
        networks = {"maps_network": stages["maps_network"].config()} if "maps_network" in stages else {}
        settings = networks | {step: one for choice in chosen.items() for step, one in given.get(choice, {}).items()}
        whole = dataclasses.replace(configured(f"recipe={recipe}"), choices=Choices(**chosen), **settings)
        known = [step.name for step in steps(whole, BOTH) if step.name in STEPS]
        yield from (dataclasses.replace(whole, until=until) for until in (None, *known))


def test_of_all_combinations_a_plan_is_in_order_complete_and_blind_to_ground_truth(
    store: Store, tmp_path: Path
) -> None:
    seen = 0
    for config in combinations(str(tmp_path)):
        made = plan(store, config=config)
        told = f"{config.choices} until={config.until}"
        before: dict[str, str] = {}
        needed = set(TABLES) if config.until in ("images", "truth") else {config.until or names(made)[-1]}
        for planned in made:
            needs = set(planned.step.needs)
            assert planned.name not in before, told
            assert needs <= before.keys(), f"{told}: {planned.name} comes before what it is made of"
            assert {part: artifact.fingerprint for part, artifact in planned.inputs.items()} == {
                part: before[source] for part, source in planned.step.inputs.items()
            }, told
            is_ceiling = planned.name == "pseudo_masks" and config.choices.boundaries == "ground_truth"
            reads = {name for name in needs if name.startswith("truth")}
            assert reads == ({"truth"} if is_ceiling else set()), f"{told}: {planned.name}"
            before[planned.name] = planned.artifact.fingerprint
            needed |= needs | {name for name in (planned.step.truth, planned.step.judges) if name is not None}
        assert needed == before.keys(), f"{told}: {before.keys() - needed} is of no use"
        seen += 1
    assert seen > 2 * 2 * 2 * 3 * 2 * 5


@pytest.mark.parametrize(("overrides", "key"), [("maps.images=evaluated", "maps"), ("amn_maps.images=5", "amn_maps")])
def test_without_ground_truth_no_image_is_evaluated(store: Store, overrides: str, key: str) -> None:
    with pytest.raises(
        RequestError, match=rf"^{overrides}: the images of .* have no ground truth.*set {key}.images=all"
    ):
        plan(store, overrides, splits=BLIND)


def test_the_images_that_a_step_sees_are_its_input_and_the_others_see_all(store: Store) -> None:
    made = plan(store, "maps=rib", "maps.images=4")
    assert made.get("maps").step.inputs["images"] == "maps_images"
    assert made.get("maps").step.inputs["all_images"] == "images"
    assert made.get("refined").step.inputs["images"] == "images"
    assert names(made)[-1] == "refined"
    whole = plan(store, "maps=rib")
    assert whole.get("maps").artifact.fingerprint != made.get("maps").artifact.fingerprint
    learned = plan(store, "maps=lpcam", "maps_network.images=evaluated")
    assert learned.get("maps_network").step.inputs["images"] == "maps_network_images"
    assert names(learned)[-1] == "predictions_refined", "what is learned from some images makes maps of all"
    ended = plan(store, "amn_maps.images=evaluated")
    assert names(ended)[-1] == "amn_refined"


@pytest.mark.parametrize(
    ("overrides", "until"),
    [
        ("activation=none", "amn"),
        ("activation=none", "amn_refined"),
        ("boundaries=none", "irn"),
        ("boundaries=ground_truth", "irn"),
        ("prediction_refinement=none", "predictions_refined"),
        ("maps=cam", "maps_network"),
    ],
)
def test_a_last_step_that_the_choices_do_not_make_is_refused(store: Store, overrides: str, until: str) -> None:
    told = rf"^until={until}: these choices do not make it \(.*{overrides}.*; they make images, truth, .*, predictions"
    with pytest.raises(RequestError, match=told):
        plan(store, overrides, f"until={until}")


def test_ground_truth_beside_amn_is_refused(store: Store) -> None:
    assert configured("boundaries=ground_truth").choices.activation == "none", "the choice sets it itself"
    assert configured("activation=none", "boundaries=ground_truth").choices.activation == "none"
    with pytest.raises(RequestError, match=r"^activation=amn: has no effect with boundaries=ground_truth"):
        plan(store, "boundaries=ground_truth", "activation=amn")


def test_the_ceiling_needs_a_classifier_only_where_deeplabv2_starts_from_it(store: Store) -> None:
    own = names(plan(store, "boundaries=ground_truth", "segmenter=smp"))
    assert own == [*TABLES, "pseudo_masks", *LAST]
    assert "classifier" in names(plan(store, "boundaries=ground_truth"))
    assert "classifier" not in names(plan(store, "boundaries=ground_truth", "recipe=quick"))


def test_a_corrected_mask_retrains_the_ceiling_and_nothing_of_a_weakly_supervised_run(store: Store) -> None:
    corrected = {name: dataclasses.replace(of, truth_digest="corrected") for name, of in BOTH.items()}
    for overrides, changed in (
        (["boundaries=ground_truth", "segmenter=smp"], {"truth", "truth_val", "pseudo_masks", *LAST[:3]}),
        (["segmenter=smp"], {"truth", "truth_val"}),
    ):
        before, after = (fingerprints(plan(store, *overrides, splits=of)) for of in (BOTH, corrected))
        assert {name for name in before if before[name] != after[name]} >= changed
        if "boundaries=ground_truth" not in overrides:
            assert {name for name in before if before[name] != after[name]} == changed


def test_irn_may_have_a_backbone_of_its_own(store: Store, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"weights")
    own = [
        "irn.backbone.name=resnet34",
        f"irn.backbone.weights={tmp_path / 'weights.pth'}",
        "irn.backbone.batchnorm=batch",
    ]
    made = plan(store, *own)
    assert start(made, "irn") == "irn_backbone"
    assert start(made, "segmenter") == "classifier"
    assert made.get("irn").settings.backbone.name == "resnet34"
    assert made.get("amn").settings.backbone.name == "resnet18"
    with pytest.raises(
        RequestError, match=r"^irn\.backbone\.weights=null: IRN then starts from the classifier's resnet18"
    ):
        plan(store, "irn.backbone.name=resnet34", "irn.backbone.weights=null")


def test_ground_truth_as_pseudo_masks_is_refused_where_there_is_none(store: Store) -> None:
    with pytest.raises(RequestError, match=r"^pseudo_masks needs ground truth, .* none \(.*boundaries=ground_truth"):
        plan(store, "boundaries=ground_truth", splits=BLIND)


def test_what_another_step_has_made_is_the_same_artifact(store: Store) -> None:
    for overrides, source in (
        (["boundaries=none"], "amn_refined"),
        (["boundaries=none", "activation=none"], "refined"),
        (["boundaries=ground_truth"], "truth"),
    ):
        made = plan(store, *overrides)
        assert fingerprints(made)["pseudo_masks"] == fingerprints(made)[source]
        segmenter = made.get("segmenter")
        assert segmenter is not None
        assert segmenter.inputs["pseudo_masks"].fingerprint == fingerprints(made)[source]


# --- What decides an artifact -----------------------------------------------------------------------------------------

AFTER_MASKS = {"segmenter", "predictions", "predictions_refined"}
AFTER_REFINED = {"amn", "amn_maps", "amn_refined", "irn", "pseudo_masks", *AFTER_MASKS}
MADE = {"classifier", "maps", "refined", *AFTER_REFINED}
"""All but the tables."""
OF_TRAIN = {"maps", "refined", "amn_maps", "amn_refined", "pseudo_masks"}
OF_VAL = {"predictions", "predictions_refined"}
"""What is scored against the masks of these images."""
ALL = {"classifier", *OF_TRAIN, *OF_VAL}


@pytest.mark.parametrize(
    ("override", "changed", "scored"),
    [
        # τ is a setting of the evaluation.
        ("maps.threshold=0.3", set(), {"maps"}),
        ("amn_maps.threshold=0.4", set(), {"amn_maps"}),
        ("maps.scales=[1.0,2.0]", {"maps", "refined", *AFTER_REFINED}, None),
        ("refined.conf_fg=0.5", {"refined", *AFTER_REFINED}, None),
        ("refined.iterations=3", {"refined", *AFTER_REFINED}, None),
        ("amn_maps.scales=[1.0]", AFTER_REFINED - {"amn"}, None),
        ("amn_refined.conf_fg=0.5", {"amn_refined", "irn", "pseudo_masks", *AFTER_MASKS}, None),
        ("irn.epochs=1", {"irn", "pseudo_masks", *AFTER_MASKS}, None),
        ("pseudo_masks.beta=5", {"pseudo_masks", *AFTER_MASKS}, None),
        ("pseudo_masks.doublings=4", {"pseudo_masks", *AFTER_MASKS}, None),
        ("pseudo_masks.background=0.3", {"pseudo_masks", *AFTER_MASKS}, None),
        ("segmenter.scales=[1.0]", AFTER_MASKS, None),
        ("predictions.scales=[1.0]", {"predictions", "predictions_refined"}, None),
        ("predictions_refined.iterations=3", {"predictions_refined"}, None),
        ("seed=1", MADE, None),
        ("classifier.seed=1", MADE, None),
        ("irn.seed=1", {"irn", "pseudo_masks", *AFTER_MASKS}, None),
        ("backbone.batchnorm=running", MADE, None),
        ("segmenter.backbone.batchnorm=running", AFTER_MASKS, None),
        # What changes no result.
        ("store=elsewhere", set(), None),
        ("cluster.map_actors=3", set(), None),
        ("tracking.experiment=mine", set(), None),
        ("precision=fp32", set(), None),
        ("classifier.seed=0", set(), None),
    ],
)
def test_a_setting_changes_what_it_decides_and_what_follows_from_it(
    store: Store, override: str, changed: set[str], scored: set[str] | None
) -> None:
    before, after = plan(store), plan(store, override)
    assert different(fingerprints(before), fingerprints(after)) == changed
    expected = (changed & scores(before).keys()) if scored is None else scored
    assert different(scores(before), scores(after)) == expected


@pytest.mark.parametrize(
    ("splits", "changed", "scored"),
    [
        ({"train": split("train", truth_digest="corrected")}, {"truth"}, OF_TRAIN),
        ({"val": split("val", truth_digest="corrected")}, {"truth_val"}, OF_VAL),
        ({"val": split("val", digest="another")}, {"images_val", "truth_val", *OF_VAL}, {"classifier", *OF_VAL}),
        ({"train": split("train", digest="another")}, {"images", "truth", *MADE}, ALL),
        ({"train": split("train", config=ShapesConfig(max_side=48))}, {"images", "truth", *MADE}, ALL),
        ({"train": split("train", config=ShapesConfig(mask_values="index"))}, {"truth"}, OF_TRAIN),
        ({"train": split("train", config=ShapesConfig(name="renamed", rows_per_shard=3, max_bad_fraction=0.1))},
         set(), set()),
    ],
)  # fmt: skip
def test_images_change_all_that_is_made_of_them_and_ground_truth_only_scores(
    store: Store, splits: dict[str, Summary], changed: set[str], scored: set[str]
) -> None:
    before, after = plan(store), plan(store, splits={**BOTH, **splits})
    assert different(fingerprints(before), fingerprints(after)) == changed
    assert different(scores(before), scores(after)) == scored


def test_images_without_ground_truth_have_the_artifacts_of_those_with_it(store: Store) -> None:
    with_truth, without = fingerprints(plan(store)), fingerprints(plan(store, splits=BLIND))
    assert without.items() <= with_truth.items()


def test_steps_that_two_pipelines_share_are_made_once(store: Store) -> None:
    whole = fingerprints(plan(store))
    for overrides in (["until=maps"], ["until=irn"], ["prediction_refinement=none"]):
        assert fingerprints(plan(store, *overrides)).items() <= whole.items()
    other = fingerprints(plan(store, "activation=none", "refined.conf_fg=0.3", "refined.conf_bg=0.05"))
    assert {name for name, value in other.items() if whole[name] == value} == {*TABLES, "classifier", *SEEDS}


def test_what_a_pipeline_shares_is_filled_in_where_a_step_has_no_value_of_its_own(store: Store) -> None:
    made = plan(store, "seed=3", "irn.seed=7", "precision=bf16", "amn_maps.precision=fp32")
    found = {planned.name: planned.settings for planned in made}
    assert {name: found[name].seed for name in ("classifier", "amn", "irn", "segmenter")} == {
        "classifier": 3, "amn": 3, "irn": 7, "segmenter": 3,
    }  # fmt: skip
    networks = ("classifier", "maps", "amn", "amn_maps", "irn", "pseudo_masks", "segmenter", "predictions")
    precisions = {name: found[name].precision for name in networks}
    assert precisions == dict.fromkeys(networks, "bf16") | {"amn_maps": "fp32"}
    assert {found[name].backbone.name for name in ("classifier", "amn", "irn")} == {"resnet18"}


def test_auto_is_what_the_hardware_computes(store: Store) -> None:
    for hardware, precision in ((SLOW, "fp32"), (FAST, "bf16")):
        auto = plan(store, "precision=auto", hardware=hardware)
        asked_for = plan(store, f"precision={precision}", hardware=hardware)
        assert fingerprints(auto) == fingerprints(asked_for)
        steps = [planned.settings for planned in auto if hasattr(planned.settings, "precision")]
        assert {settings.precision for settings in steps} == {precision}
    slow, fast = fingerprints(plan(store, hardware=SLOW)), fingerprints(plan(store, hardware=FAST))
    assert different(slow, fast) == MADE
    only = plan(store, "precision=fp32", "irn.precision=auto", hardware=FAST).get("irn")
    assert only is not None
    assert only.settings.precision == "bf16"


def test_weights_are_known_by_what_they_hold_and_not_by_their_name(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    contents = {"one.pth": b"weights", "a/renamed.pth": b"weights", "other.pth": b"other weights"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    one, copied, other = (fingerprints(plan(store, f"backbone.weights={tmp_path}/{name}")) for name in contents)
    assert one == copied
    assert different(one, other) == {"backbone", *MADE}
    drawn = fingerprints(plan(store))
    assert drawn["classifier"] not in (one["classifier"], other["classifier"])


def test_weights_that_are_not_there_are_refused_with_their_full_key(store: Store, tmp_path: Path) -> None:
    for key in ("backbone.weights", "segmenter.backbone.weights"):
        with pytest.raises(RequestError, match=rf"^{key}={tmp_path}/none.pth: not found"):
            plan(store, f"{key}={tmp_path}/none.pth")


def start(made: Plan, step: str) -> str | None:
    """The step whose weights a training starts from."""
    planned = made.get(step)
    assert planned is not None
    return planned.step.inputs.get("backbone")


def test_where_there_are_no_weights_irn_and_the_segmentation_network_start_from_the_classifier(store: Store) -> None:
    drawn, imagenet = plan(store), plan(store, "recipe=quick")
    assert [start(drawn, step) for step in ("classifier", "amn", "irn", "segmenter")] == [
        None, None, "classifier", "classifier",
    ]  # fmt: skip
    assert [start(imagenet, step) for step in ("classifier", "amn", "irn", "segmenter")] == [
        "backbone", "backbone", "backbone", "segmenter_backbone",
    ]  # fmt: skip
    mixed = plan(store, "recipe=quick", "segmenter.backbone.weights=null")
    assert start(mixed, "segmenter") == "classifier"
    assert mixed.get("segmenter_backbone") is None


def test_a_segmentation_network_cannot_start_from_a_classifier_of_another_architecture(store: Store) -> None:
    with pytest.raises(RequestError, match=r"^segmenter.backbone.weights=null: .*resnet18.*segmenter.backbone.name"):
        plan(store, "segmenter.backbone.name=resnet50")
    assert names(plan(store, "segmenter.backbone.name=resnet50", "until=irn"))[-1] == "irn", "which needs none"


def test_the_miou_of_all_masks_is_planned_where_more_images_have_one_than_are_evaluated(store: Store) -> None:
    some = BOTH | {"train": split("train", evaluated=4)}
    new = plan(store, splits=some).metric_names() - plan(store).metric_names()
    assert {name.partition("/")[0] for name in new} >= {"maps", "refined", "pseudo_masks"}
    assert {name.partition("/")[2] for name in new} == {"all_miou", "all_best_miou"}
    assert not any(name.startswith("predictions/") for name in new), "all images of val are evaluated"
    assert "refined/all_best_miou" not in new, "masks have no threshold"


def test_a_segmentation_network_without_such_a_backbone_needs_no_classifier(store: Store) -> None:
    config = configured("boundaries=ground_truth", "segmenter=smp")
    made = plan(store, config=config)
    assert names(made) == [*TABLES, "pseudo_masks", *LAST]
    assert start(made, "segmenter") is None


def test_a_plan_makes_nothing(store: Store) -> None:
    made = plan(store)
    assert not store.entries()
    assert not any(planned.artifact.complete for planned in made)


def test_a_plan_tells_what_will_be_reported(store: Store) -> None:
    told = plan(store, "until=refined").metric_names()
    assert {"maps/miou", "maps/best_tau", "refined/undefined", "refined/selection_miou", "classifier/loss"} <= told
    assert {"images/images", "truth/masks", "maps/seconds", "maps/images_per_second"} <= told
    assert not {name for name in told if name.startswith(("amn", "pseudo_masks", "predictions"))}
    blind = plan(store, "until=refined", splits=BLIND).metric_names()
    assert blind == {name for name in told if not name.startswith("truth")} & blind
    assert not {name for name in blind if name.endswith("miou")}


def test_final_is_what_amn_makes_if_there_is_amn_else_what_the_method_makes(store: Store) -> None:
    assert plan(store).finals() == {"final_maps": "amn_maps", "final_refined": "amn_refined"}
    assert plan(store, "activation=none").finals() == {"final_maps": "maps", "final_refined": "refined"}
    assert plan(store, "until=amn_maps").finals() == {"final_maps": "amn_maps", "final_refined": "refined"}
    assert plan(store, "until=classifier").finals() == {}
    assert "final_maps/best_miou" in plan(store, "until=amn_maps").metric_names()


def make(made: Plan, *steps: str) -> None:
    """Commit these steps (all, if none is named) as if they had been run."""
    for planned in made:
        if planned.step.stage is not None and (not steps or planned.name in steps):
            planned.artifact.commit(config={}, inputs=planned.inputs, code={}, seconds=0, result={})


def test_a_plan_tells_what_is_there_and_what_would_be_made(store: Store) -> None:
    made = plan(store, "until=refined")
    assert made.states() == dict.fromkeys(names(made), State.MISSING)
    make(made)
    assert made.states() == dict.fromkeys(names(made), State.EXISTS)
    longer = plan(store).states()
    assert {name for name, state in longer.items() if state is State.EXISTS} == {*names(made)}
    assert {name for name, state in longer.items() if state is State.MISSING} == {
        "truth_val", *AFTER_REFINED,
    }  # fmt: skip


def test_what_was_made_of_something_that_has_been_made_anew_is_made_anew(store: Store) -> None:
    made = plan(store, "boundaries=none", "activation=none")
    make(made)
    make(made, "maps")
    anew = {"refined", "pseudo_masks", "segmenter", "predictions", "predictions_refined"}
    assert {name for name, state in made.states().items() if state is State.REBUILD} == anew
    assert set(made.states().values()) == {State.EXISTS, State.REBUILD}


def test_what_is_to_be_rebuilt_is_made_anew_with_all_that_follows(store: Store) -> None:
    make(plan(store))
    states = plan(store, "rebuild=[irn]").states()
    assert {name for name, state in states.items() if state is State.REBUILD} == {"irn", "pseudo_masks", *AFTER_MASKS}
    assert fingerprints(plan(store, "rebuild=[irn]")) == fingerprints(plan(store))


def test_drs_on_vgg_16_does_without_the_runs_backbone_and_scales_train_nothing_again(store: Store) -> None:
    base = ("recipe=paper", "maps=drs", "maps_network.weights=null")
    made = plan(store, *base)
    assert "backbone" not in made.get("maps_network").step.inputs
    network = made.get("maps_network").artifact.fingerprint
    for other in ("backbone.name=resnet18", "maps.squares=[320]"):
        assert plan(store, *base, other).get("maps_network").artifact.fingerprint == network
    changed = plan(store, *base, "maps_network.delta=0.55").get("maps_network").artifact
    assert changed.fingerprint != network
    ours = plan(store, *base, "maps_network.backbone=null")
    assert ours.get("maps_network").artifact.fingerprint != network
    other_backbone = plan(store, *base, "maps_network.backbone=null", "backbone.name=resnet18")
    assert other_backbone.get("maps_network").artifact.fingerprint != ours.get("maps_network").artifact.fingerprint
