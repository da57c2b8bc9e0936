"""RIB against its steps written one after the other, and against what must hold of it."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from amn_ray.nn.class_activation import cam_maps
from amn_ray.stages.rib.config import RibConfig
from amn_ray.stages.rib.infer import OthersAhead, drawn
from amn_ray.stages.rib.model import Others, RibMaker, pooled_outside, share_covered
from tests.stages.literal import rib as literal
from tests.stages.literal.networks import COUNT, CPU, SIZE, as_pairs, at_stride_4, classifier, smooth

IMAGES = [smooth(*SIZE, seed) for seed in range(3)]
KEYS = [[1, 3], [2], [4]]
FAST = {"lr_backbone": 1e-3, "lr_head": 1e-2, "coverage": 1.0, "scales": [1.0, 0.5]}
"""Rates at which a few steps change the maps of random weights, and nothing stops them."""
CHAIN = "resnet18"
"""A backbone whose frozen layers are computed once; the other one of these tests pads its images."""


def config(**settings: Any) -> RibConfig:
    return RibConfig(precision="fp32", **settings)


def batches(steps: int, size: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for _ in range(steps):
        crops = torch.randint(0, 256, (size, 48, 48, 4), generator=generator, dtype=torch.uint8)
        crops[0, :10, :, 3] = 0  # padding
        made.append((crops, (torch.rand(size, COUNT, generator=generator) < 0.4).float()))
    return made


def alone(step: int) -> None:
    """No other images."""


def maps_of(number: int, settings: RibConfig, others: Others, name: str = "timm/test_resnet") -> tuple[np.ndarray, int]:
    maker = RibMaker(classifier(COUNT, "layer2", name), settings, CPU)
    return maker.maps(IMAGES[number], KEYS[number], others)


def step_by_step(number: int, settings: RibConfig, others: list | None, name: str) -> tuple[np.ndarray, int]:
    network = classifier(COUNT, "layer2", name)
    auxiliary = [(network.backbone.normalise(crops).double(), targets.double()) for crops, targets in others or []]
    maps_KHW, taken = literal.rib_maps(
        network, as_pairs(network, IMAGES[number], settings.scales), SIZE, KEYS[number], auxiliary,
        scales=settings.scales, steps=settings.steps, lr_backbone=settings.lr_backbone, lr_head=settings.lr_head,
        weight_decay=settings.weight_decay, region=settings.region, coverage=settings.coverage, limit=settings.limit,
    )  # fmt: skip
    return at_stride_4(maps_KHW), taken


@pytest.mark.parametrize("with_others", [True, False])
@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"coverage": 1.0}, "timm/test_resnet"),
        ({"coverage": 1.0, "steps": 3, "scales": [1.0, 0.5]}, CHAIN),
        (FAST, "timm/test_resnet"),
        (FAST | {"limit": 0.06}, "timm/test_resnet"),
        (FAST | {"coverage": 0.9}, "timm/test_resnet"),
        (FAST | {"region": 0.8, "weight_decay": 0.1, "steps": 4}, "timm/test_resnet"),
    ],
)
def test_an_image_is_learned_as_the_steps_say(settings: Mapping[str, Any], name: str, with_others: bool) -> None:
    """With the published numbers of steps, rates and scales first."""
    chosen = config(**settings)
    others = batches(chosen.steps) if with_others else None
    for number in range(3):
        maps_Khw, taken = maps_of(number, chosen, alone if others is None else others.__getitem__, name)
        expected_Khw, expected = step_by_step(number, chosen, others, name)
        assert taken == expected
        assert np.abs(maps_Khw - expected_Khw).max() <= 1e-6 * max(expected_Khw.max(), 1e-6)


def test_each_way_to_stop_is_among_the_cases_above() -> None:
    by_limit = [maps_of(number, config(**FAST | {"limit": 0.06}), alone)[1] for number in range(3)]
    by_coverage = [maps_of(number, config(**FAST | {"coverage": 0.9}), alone)[1] for number in range(3)]
    assert by_limit == [2, 1, 10]
    assert by_coverage == [1, 1, 10]


@pytest.mark.parametrize(
    "off",
    [
        {"lr_backbone": 0.0}, {"lr_head": 0.0}, {"weight_decay": 0.0}, {"region": 1e9}, {"steps": 1}, {"limit": 0.06},
        {"coverage": 0.9},
    ],
)  # fmt: skip
def test_each_mechanism_that_is_switched_off_alone_changes_the_maps(off: Mapping[str, Any]) -> None:
    settings, others = FAST | {"weight_decay": 0.1}, batches(10).__getitem__
    change = 0.0
    for number in range(3):
        on, without = (maps_of(number, config(**one), others)[0] for one in (settings, settings | off))
        change = max(change, np.abs(on - without).max())
    print(f"{off}: {change:.4f} of the maximum")
    assert change > 1e-4


def test_other_images_change_what_is_learned() -> None:
    change = np.abs(maps_of(0, config(**FAST), batches(10).__getitem__)[0] - maps_of(0, config(**FAST), alone)[0]).max()
    print(f"without other images: {change:.4f} of the maximum")
    assert change > 1e-4


def test_one_step_is_cam_and_so_are_many_at_rate_0() -> None:
    network = classifier(COUNT, "layer2")
    cam = cam_maps(network, IMAGES, KEYS, scales=[1.0, 0.5], precision="fp32", device=CPU)
    for number, cam_Khw in enumerate(cam):
        assert np.abs(maps_of(number, config(**FAST | {"steps": 1}), alone)[0] - cam_Khw).max() < 1e-12
        still = config(**FAST | {"lr_backbone": 0.0, "lr_head": 0.0})
        assert np.abs(maps_of(number, still, alone)[0] - cam_Khw).max() < 1e-3, "the same ten times, but for 1e-5"


@pytest.mark.parametrize("name", ["timm/test_resnet", CHAIN])
def test_an_image_leaves_no_trace_in_the_weights_also_if_it_fails(name: str) -> None:
    network = classifier(COUNT, "layer2", name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    maker = RibMaker(network, config(**FAST), CPU)
    first = maker.maps(IMAGES[0], KEYS[0], alone)[0]

    def fails(step: int) -> None:
        if step == 2:
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        maker.maps(IMAGES[1], KEYS[1], fails)
    assert all((before[key] == value).all() for key, value in network.state_dict().items())
    assert (maker.maps(IMAGES[0], KEYS[0], alone)[0] == first).all(), "whatever came before"


def test_other_images_in_passes_are_those_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    others = batches(10)
    together = maps_of(0, config(**FAST), others.__getitem__)[0]
    monkeypatch.setattr("amn_ray.stages.rib.model.PIXELS_PER_PASS", {"cpu": 1})
    assert np.abs(maps_of(0, config(**FAST), others.__getitem__)[0] - together).max() < 1e-10


def test_only_pixels_outside_of_the_most_active_region_are_pooled_and_get_a_gradient() -> None:
    logits = torch.tensor([[[[4.0, 1.0], [-2.0, 1.7]], [[-1.0, -3.0], [-2.0, -5.0]]]], requires_grad=True)
    pooled = pooled_outside(logits, 0.4)
    assert pooled.tolist() == [[(1.0 - 2.0) / 4, 0.0]], "all pixels count in the mean; a class without any is 0"
    pooled.sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 0].tolist() == [[0, 0.25], [0.25, 0]]
    assert not logits.grad[0, 1].any()


def test_beyond_every_share_it_is_the_global_average_where_a_class_is_positive_anywhere() -> None:
    logits = torch.randn(3, 80, 5, 6, generator=torch.Generator().manual_seed(0))
    positive = logits.amax((2, 3)) > 0
    pooled = pooled_outside(logits, float("inf"))
    assert torch.allclose(pooled[positive], logits.mean((2, 3))[positive], atol=1e-6)
    assert positive[:, 79].any(), "also the last of 80 classes"


def test_a_pixel_covered_by_any_class_counts_once() -> None:
    maps = torch.tensor([[[1.0, 0.2], [0.0, 0.0]], [[2.0, 0.1], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert share_covered(maps) == 0.5


def test_a_data_set_of_one_class_works() -> None:
    maker = RibMaker(classifier(1, "layer2"), config(**FAST), CPU)
    maps_Khw, taken = maker.maps(IMAGES[0], [1], alone)
    assert maps_Khw.shape[0] == 1
    assert np.isfinite(maps_Khw).all()
    assert 1 <= taken <= 10


LABELS = {str(number): frozenset({1 + number % 3}) for number in range(30)} | {"none": frozenset()}


def test_no_other_image_shares_a_class_and_none_comes_twice() -> None:
    steps = drawn(LABELS, "0", RibConfig(steps=4, batch_size=5, seed=1))
    ids = [image_id for step in steps for image_id in step]
    assert [len(step) for step in steps] == [5] * 4
    assert len(set(ids)) == 20
    assert all(LABELS[image_id].isdisjoint(LABELS["0"]) for image_id in ids)


def test_the_draw_depends_on_the_seed_and_the_image_and_not_on_the_order_of_the_table() -> None:
    settings = RibConfig(steps=2, batch_size=5, seed=1)
    turned = dict(reversed(LABELS.items()))
    assert drawn(LABELS, "0", settings) == drawn(turned, "0", settings)
    assert drawn(LABELS, "0", settings) != drawn(LABELS, "3", settings)
    assert drawn(LABELS, "0", settings) != drawn(LABELS, "0", RibConfig(steps=2, batch_size=5, seed=2))


@pytest.mark.parametrize(("count", "sizes"), [(0, [0, 0, 0]), (2, [1, 1, 0]), (7, [2, 2, 2]), (100, [5, 5, 5])])
def test_with_too_few_other_images_batches_are_smaller_or_empty(count: int, sizes: list[int]) -> None:
    labels = {"own": frozenset({1})} | {f"other {number}": frozenset({2}) for number in range(count)}
    assert [len(ids) for ids in drawn(labels, "own", RibConfig(steps=3, batch_size=5, seed=0))] == sizes


def test_other_images_are_read_one_step_ahead_and_each_once() -> None:
    read: list[tuple[int, str]] = []

    def make(step: int, other: str) -> dict[str, np.ndarray]:
        read.append((step, other))
        return {"image": np.full((2, 2, 4), step, np.uint8), "labels": np.array([float(other), 0], np.float32)}

    ids = [["1", "2"], [], ["3", "4", "5"], ["6"]]
    with ThreadPoolExecutor(2) as pool:
        others = OthersAhead(make, ids, pool)
        first = others(0)
        assert first is not None
        assert first[0].shape == (2, 2, 2, 4)
        assert first[1][:, 0].tolist() == [1, 2]
        assert others(1) is None
        third = others(2)
        assert third is not None
        assert third[1][:, 0].tolist() == [3, 4, 5]
    assert sorted(read) == [(0, "1"), (0, "2"), (2, "3"), (2, "4"), (2, "5"), (3, "6")], "the last one ahead"
