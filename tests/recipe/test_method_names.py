"""What maps are called: a method with other than its published steps says so."""

from __future__ import annotations

import pytest

from amn_ray.core.settings import flat
from amn_ray.recipe.method_names import deviations, maps_name, method_name
from tests.composed import configured

PAPER = ("dataset=shapes", "recipe=paper")


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["activation=none"], "CAM"),
        (["activation=none", "maps=advcam"], "AdvCAM"),
        (["activation=none", "maps=rib"], "RIB"),
        (["activation=none", "maps=recam"], "ReCAM"),
        (["activation=none", "maps=lpcam"], "LPCAM"),
        ([], "AMN"),
        (["amn.lc=[]"], "AMN without LC"),
        (["amn.lc=[layer3,layer4]"], "AMN with LC after layer3, layer4"),
        (["amn.lc=[]", "amn_maps.scales=[1.0]"], "AMN without LC (1 scale)"),
        (["maps=lpcam"], "AMN on LPCAM"),
        (["activation=none", "maps=seam"], "SEAM-R50 (ours)"),
        (["maps=seam", "backbone.name=resnet18", "maps_network.epochs=4"], "AMN on SEAM-R18 (ours, 4 epochs)"),
        (["activation=none", "maps=seam", "maps_network.present_only=true"], "SEAM-R50 (ours, present classes only)"),
        (["activation=none", "maps=drs"], "DRS"),
        (["activation=none", "maps=drs", "maps_network.backbone=null"], "DRS-R50 (ours)"),
        (["activation=none", "maps=drs", "maps_network.delta=0.55", "maps_network.second_network=true"],
         "DRS (δ = 0.55, second network)"),
        (["maps=rib", "maps.steps=3"], "AMN on RIB (3 steps)"),
        (["activation=none", "maps=advcam", "maps.steps=5", "maps.scales=[1.0]"], "AdvCAM (5 steps, 1 scale)"),
        (["activation=none", "maps=recam", "maps_network.epochs=2", "maps.scales=[1.0,0.5]"],
         "ReCAM (2 epochs, 2 scales)"),
        (["activation=none", "maps=advcam", "maps.images=64"], "AdvCAM (64 images)"),
        (["activation=none", "maps=advcam", "maps.images=evaluated"], "AdvCAM"),
        (["amn_maps.scales=[1.0]"], "AMN (1 scale)"),
        (["activation=none", "maps=given", "maps.scales=[1.0]"], "given"),
        (["activation=none", "maps=given", "maps.files=/some/rib_cam"], "given (rib_cam)"),
        (["activation=none", "maps=rib", "maps.batch_size=4"], "RIB (batches of 4)"),
        (["activation=none", "maps=lpcam", "maps_network.images=50"], "LPCAM (learned from 50 images)"),
    ],
)  # fmt: skip
def test_a_name_says_what_differs_from_what_was_published(overrides: list[str], name: str) -> None:
    assert method_name(flat(configured(*PAPER, *overrides))) == name


def test_the_quick_recipe_shortens_methods_and_their_names_say_so() -> None:
    quick = flat(configured("dataset=shapes", "recipe=quick", "maps=advcam", "activation=none"))
    assert method_name(quick) == "AdvCAM (5 steps, 1 scale)"
    assert deviations(quick) == ["5 steps", "1 scale"]
    assert maps_name(flat(configured("dataset=shapes", "recipe=quick", "maps=rib"))) == (
        "RIB (3 steps, batches of 4, 2 scales)"
    )


def test_settings_that_are_no_longer_allowed_do_not_pass_for_the_published_ones() -> None:
    settings = flat(configured(*PAPER, "maps=advcam", "activation=none")) | {"maps.steps": 0}
    assert method_name(settings) == "AdvCAM (settings of another version)"


def test_a_method_of_a_plug_in_that_is_not_loaded_has_its_plain_name() -> None:
    settings = flat(configured(*PAPER)) | {"choices.maps": "lse", "choices.activation": "none"}
    assert method_name(settings) == "lse"
