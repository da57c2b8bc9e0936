"""AdvCAM against its steps written one after the other, and against what must hold of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from amn_ray.nn.class_activation import cam_maps
from amn_ray.stages.advcam.config import AdvCamConfig
from amn_ray.stages.advcam.model import _stepped, advcam_maps, climb, grad_cam
from tests.stages.literal import advcam as literal
from tests.stages.literal.networks import COUNT, CPU, SIZE, as_pairs, at_stride_4, classifier, smooth

IMAGES = [smooth(*SIZE, seed) for seed in range(3)]
KEYS = [[1, 3], [2], [4]]


def config(**settings: Any) -> AdvCamConfig:
    return AdvCamConfig(precision="fp32", **settings)


def made(images=IMAGES, keys=KEYS, **settings: Any) -> list[np.ndarray]:
    return advcam_maps(classifier(COUNT, None), images, keys, config(**settings), CPU)


def step_by_step(number: int, settings: AdvCamConfig) -> np.ndarray:
    network = classifier(COUNT, None)
    maps_KHW = literal.advcam_maps(
        network, as_pairs(network, IMAGES[number], settings.scales), SIZE, KEYS[number], scales=settings.scales,
        steps=settings.steps, step_size=settings.step_size, penalty=settings.penalty, region=settings.region,
        equal_weights=settings.equal_scales,
    )  # fmt: skip
    return at_stride_4(maps_KHW)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"steps": 8, "scales": [1.0]},
        {"steps": 8, "scales": [0.5, 1.0], "equal_scales": True},
        {"steps": 5, "scales": [1.0, 0.5], "penalty": 700.0},
        {"steps": 4, "scales": [1.0], "step_size": 0.3, "region": 0.2},
    ],
)
def test_classes_and_images_in_one_batch_climb_as_the_steps_say(settings: Mapping[str, Any]) -> None:
    """With the published numbers of steps and scales first."""
    for number, maps_Khw in enumerate(made(**settings)):
        expected_Khw = step_by_step(number, config(**settings))
        assert np.abs(maps_Khw - expected_Khw).max() <= 1e-6 * max(expected_Khw.max(), 1e-6)


def test_some_map_is_not_zero() -> None:
    assert max(maps_Khw.max() for maps_Khw in made(steps=2, scales=[1.0])) > 0.9


@pytest.mark.parametrize(
    "off", [{"penalty": 0.0}, {"step_size": 0.0}, {"steps": 1}, {"equal_scales": True}, {"region": 0.9}]
)
def test_each_mechanism_that_is_switched_off_alone_changes_the_maps(off: Mapping[str, Any]) -> None:
    settings = {"steps": 12, "scales": [0.5, 1.0], "penalty": 700.0}
    change = max(np.abs(a - b).max() for a, b in zip(made(**settings), made(**settings | off), strict=True))
    print(f"{off}: {change:.4f} of the maximum")
    assert change > 1e-3


def test_without_steps_that_climb_it_is_cam_within_the_weights_of_image_and_mirror_image() -> None:
    network = classifier(COUNT, None)
    cam = cam_maps(network, IMAGES, KEYS, scales=[1.0, 0.5], precision="fp32", device=CPU)
    for one, other in zip(made(steps=1, scales=[1.0, 0.5]), cam, strict=True):
        assert np.abs(one - other).max() < 0.2
    still = made(steps=3, scales=[1.0], step_size=0.0)
    once = made(steps=1, scales=[1.0])
    assert all(np.abs(a - b).max() < 0.02 for a, b in zip(still, once, strict=True)), "the same three times"


def test_the_first_step_does_not_depend_on_the_penalty() -> None:
    first = [made(steps=2, scales=[1.0], penalty=penalty) for penalty in (0.0, 7000.0)]
    assert all((a == b).all() for a, b in zip(*first, strict=True))


def test_a_large_penalty_keeps_the_map_near_where_it_began() -> None:
    network = classifier(COUNT, None).requires_grad_(False)
    pair = torch.stack(as_pairs(network, IMAGES[0], [1.0]))
    column = torch.tensor([0])
    drift = []
    for penalty in (0.0, 700.0):
        sums = [climb(network, pair, column, steps, config(penalty=penalty)) for steps in (1, 26, 27)]
        drift.append((sums[2] - sums[1] - sums[0]).abs().sum().item())
    assert drift[1] < drift[0]


def test_a_class_without_a_positive_pixel_stays_zero_and_spoils_no_other_of_its_batch() -> None:
    network = classifier(COUNT, None)
    with torch.no_grad():
        network.classifier.weight[1] = -network.classifier.weight[1].abs()
    maps = advcam_maps(network, IMAGES[:1], [[1, 2]], config(steps=4, scales=[1.0]), CPU)[0]
    alone = advcam_maps(network, IMAGES[:1], [[1]], config(steps=4, scales=[1.0]), CPU)[0]
    assert not maps[1].any()
    assert np.isfinite(maps).all()
    assert np.abs(maps[:1] - alone).max() < 1e-12


def test_a_symmetric_image_has_symmetric_maps() -> None:
    half = smooth(48, 32)
    image = np.concatenate([half, half[:, ::-1]], axis=1)
    (maps,) = made([image], [[1, 3]], steps=4, scales=[1.0])
    assert np.abs(maps - maps[:, :, ::-1]).max() < 1e-9


def test_the_pair_moves_by_the_step_size_unless_it_is_clamped() -> None:
    pairs = torch.zeros(2, 2, 3, 4, 5)
    pairs[:, 0, 0, 0, 0], pairs[:, 1, 0, 0, 0] = -1, 1  # the range of values
    gradient = torch.zeros_like(pairs)
    gradient[0, 0, 1, 2, 2], gradient[0, 1, 1, 2, 2] = 5, -2.5  # the largest of a pair is that of both its images
    gradient[1, 1, 0, 0, 0] = 1  # at the upper end of the range
    moved = _stepped(pairs, gradient, 0.08)
    assert moved[0, 0, 1, 2, 2].item() == pytest.approx(0.08)
    assert moved[0, 1, 1, 2, 2].item() == pytest.approx(-0.04)
    assert torch.equal(moved[1], pairs[1]), "clamped"


def test_weights_do_not_change_and_get_no_gradient() -> None:
    network = classifier(COUNT, None)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    advcam_maps(network, IMAGES[:1], KEYS[:1], config(steps=3, scales=[1.0]), CPU)
    assert all((before[name] == value).all() for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_gradients_reach_the_image_although_the_classifiers_own_training_stops_them() -> None:
    stopped, free = (advcam_maps(classifier(COUNT, after), IMAGES, KEYS, config(steps=3, scales=[1.0]), CPU)
                     for after in ("layer2", None))  # fmt: skip
    assert all((a == b).all() for a, b in zip(stopped, free, strict=True))


def test_many_jobs_in_small_passes_are_those_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    together = made(steps=3, scales=[1.0])
    monkeypatch.setattr("amn_ray.stages.advcam.model.PIXELS_PER_PASS", {"cpu": 1})
    assert all(np.abs(a - b).max() < 1e-12 for a, b in zip(together, made(steps=3, scales=[1.0]), strict=True))


def test_grad_cam_weighs_image_and_mirror_image_by_their_positive_pixels() -> None:
    own = torch.tensor([[[[2.0, 0.0]], [[1.0, 4.0]]]])  # one positive pixel in the image, two in the mirror image
    (map_hw,) = grad_cam(own, torch.tensor([5]))
    expected = [2 * (1 / 3) / 5 + 4 * (2 / 3) / 5, 0 + 1 * (2 / 3) / 5]
    assert map_hw.flatten().tolist() == pytest.approx(expected)


def test_maps_in_bfloat16_agree_with_those_in_float32() -> None:
    network = classifier(COUNT, None).float()
    one, other = (
        advcam_maps(network, IMAGES[:2], KEYS[:2], AdvCamConfig(precision=precision, steps=5, scales=[1.0]), CPU)
        for precision in ("fp32", "bf16")
    )
    for a, b in zip(one, other, strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99
