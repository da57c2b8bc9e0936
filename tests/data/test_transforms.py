"""Augmentation: reproducible, and geometry that keeps image and label together."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import functional

from amn_ray.data.transforms import (
    augment,
    epoch_order,
    generator,
    jittered,
    multi_hot,
    random_long_side,
    random_scale,
)
from tests.conftest import noise


def test_randomness_depends_on_seed_epoch_and_image_alone() -> None:
    draws = {
        (seed, epoch, name): generator(seed, epoch, name).random()
        for seed in (0, 1)
        for epoch in (0, 1)
        for name in ("a", "b")
    }
    assert len(set(draws.values())) == 8
    assert draws[0, 1, "b"] == generator(0, 1, "b").random()


def test_an_epoch_visits_every_row_once_in_its_own_order() -> None:
    first, second = epoch_order(50, 0, 0), epoch_order(50, 0, 1)
    assert sorted(first) == list(range(50))
    assert (first != second).any()
    np.testing.assert_array_equal(first, epoch_order(50, 0, 0))


@pytest.mark.parametrize("size", [(30, 50), (12, 17), (16, 16), (40, 9)])
def test_image_and_label_stay_together_and_padding_is_marked(size: tuple[int, int]) -> None:
    label = np.random.default_rng(0).integers(0, 5, (30, 50), dtype=np.uint8)
    image = np.repeat(label[..., None] * 50, 3, 2)
    for seed in range(20):
        rgba, cropped = augment(image, label, size, 16, np.random.default_rng(seed))
        assert cropped is not None
        assert rgba.shape == (16, 16, 4)
        padded = rgba[..., 3] == 0
        assert (cropped[padded] == 255).all()
        assert (~padded).sum() == min(size[0], 16) * min(size[1], 16)
        if size == (30, 50):  # not resized: pixels can be compared
            np.testing.assert_array_equal(rgba[..., 0][~padded], cropped[~padded] * 50)


def test_crops_and_flips_reach_everything() -> None:
    image = np.arange(40, dtype=np.uint8)[None, :, None].repeat(4, 0).repeat(3, 2)
    starts, flips = set(), set()
    for seed in range(300):
        rgba, _ = augment(image, None, (4, 40), 32, np.random.default_rng(seed))
        row = rgba[rgba[..., 3] > 0].reshape(4, 32, 4)[0, :, 0].astype(int)
        flips.add(row[0] > row[-1])
        starts.add(min(row[0], row[-1]))
    assert flips == {True, False}
    assert starts == set(range(9))


def test_without_padding_the_resize_is_pillows_bicubic() -> None:
    image = noise(20, 30)
    rng = np.random.default_rng(3)
    flip = np.random.default_rng(3).random() < 0.5
    rgba, _ = augment(image, None, (16, 16), 16, rng)
    expected = np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(rgba[..., :3], expected[:, ::-1] if flip else expected)


def test_sizes_keep_the_aspect_ratio_and_stay_in_range() -> None:
    rng = np.random.default_rng(0)
    sides = {max(random_long_side((300, 500), (320, 325), rng)) for _ in range(200)}
    assert sides == set(range(320, 326))
    for _ in range(50):
        height, width = random_scale((100, 200), (0.5, 1.5), rng)
        assert 50 <= height <= 150
        assert width == pytest.approx(2 * height, abs=1)
    assert random_long_side((1, 1000), (10, 10), rng) == (1, 10)


def test_multi_hot() -> None:
    np.testing.assert_array_equal(multi_hot([1, 4], 4), [1, 0, 0, 1])
    np.testing.assert_array_equal(multi_hot([], 2), [0, 0])


def test_colours_change_as_torchvisions_jitter_changes_them() -> None:
    """With the same factors, in every order."""
    image = noise(9, 7)
    orders = set()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        factors, turn, order = rng.uniform(0.7, 1.3, 3), rng.uniform(-0.1, 0.1), rng.permutation(4)
        expected = Image.fromarray(image)
        changes = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
        for kind in order:
            expected = functional.adjust_hue(expected, turn) if kind == 3 else changes[kind](expected, factors[kind])
        found = jittered(image, np.random.default_rng(seed))
        assert (found == np.asarray(expected)).all()
        assert found.dtype == np.uint8
        orders.add(tuple(order))
    assert len(orders) > 10
