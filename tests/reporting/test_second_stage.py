"""What the page says of segmentation networks, and of runs that were trained on the ground truth."""

from __future__ import annotations

from typing import Any

import pytest

from amn_ray.core.settings import flat
from amn_ray.recipe.method_names import description, method_name, segmenter_name
from amn_ray.reporting.report import _paper_tables, _second_stage_table
from amn_ray.reporting.variants import Seeds, Variant
from tests.composed import configured

SMP = ("segmenter=smp", "segmenter.arch=segformer", "segmenter.encoder=mit_b0")


def variant(*overrides: str, **scores: list[float]) -> Variant:
    """One with these scores of its steps, one for each seed of the segmentation network."""
    made = Variant(flat(configured("recipe=quick", *overrides)), label=" ".join(overrides))
    made.__dict__["manifests"] = {
        step: {Seeds(0, f"segmenter {number}"): _manifest(value) for number, value in enumerate(values)}
        for step, values in scores.items()
    }
    return made


def _manifest(miou: float) -> dict[str, Any]:
    return {"metrics": {"miou": miou, "report_miou": miou}, "iou": []}


@pytest.fixture
def variants() -> list[Variant]:
    return [
        variant(amn_refined=[0.5], pseudo_masks=[0.6], predictions=[0.6, 0.64], predictions_refined=[0.61, 0.65]),
        variant(*SMP, amn_refined=[0.5], pseudo_masks=[0.6], predictions=[0.7], predictions_refined=[0.71]),
        variant("boundaries=ground_truth", predictions=[0.8], predictions_refined=[0.81]),
    ]


def test_seeds_pseudo_masks_and_predictions_stand_apart_for_each_segmentation_network(variants: list[Variant]) -> None:
    (table,) = _second_stage_table(variants)
    assert [row[:2] for row in table.rows] == [
        ("AMN (2 scales)", "DeepLabv2 resnet50"), ("AMN (2 scales)", "segformer mit_b0"),
        ("fully supervised", "DeepLabv2 resnet50"),
    ]  # fmt: skip
    assert table.rows[0][2:5] == ("50.0", "60.0", "62.0 ± 2.8 (2)")
    assert table.rows[1][4:6] == ("70.0", "71.0")
    assert table.rows[2][2:5] == ("not run", "not run", "80.0")
    assert _second_stage_table(variants[:1]) == [], "one network needs no table of its own"


def test_a_fully_supervised_run_stands_in_no_table_of_the_papers_methods(variants: list[Variant]) -> None:
    of_paper = _paper_tables(variants[2:], "coco14")
    cells = [cell for table in of_paper for row in table.rows for cell in row]
    assert not {"80.0", "81.0"} & set(cells)


def test_a_run_on_ground_truth_is_called_fully_supervised_and_no_other_one_is() -> None:
    ceiling, usual = (flat(configured(*overrides)) for overrides in (["boundaries=ground_truth"], []))
    assert method_name(ceiling) == description(ceiling)["supervision"] == "fully supervised"
    assert "maps" not in description(ceiling)
    assert description(usual) == {
        "supervision": "image-level labels", "maps": "AMN (1 scale)", "segmentation network": "DeepLabv2 resnet18",
    }  # fmt: skip
    assert segmenter_name(flat(configured(*SMP, "segmenter.weights=null"))) == "segformer mit_b0"
