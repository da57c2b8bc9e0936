"""Stored maps and their way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image

from amn_ray.data.images import encode_mask
from amn_ray.data.maps import full_size, grid_maps, modulate, pixel_maps, stored_size, to_row


@pytest.mark.parametrize(
    ("small", "large"), [((16, 24), (64, 96)), ((13, 18), (50, 70)), ((1, 1), (3, 2)), ((1, 9), (1, 33))]
)
def test_full_size_equals_bilinear_interpolation(small: tuple[int, int], large: tuple[int, int]) -> None:
    maps = np.random.default_rng(0).random((2, *small), dtype=np.float32)
    expected = F.interpolate(torch.from_numpy(maps)[None], large, mode="bilinear", align_corners=False)[0].numpy()
    np.testing.assert_allclose(full_size(maps, *large), expected, atol=1e-6)


def test_a_row_keeps_maps_to_float16() -> None:
    maps = np.random.default_rng(0).random((3, 5, 7), dtype=np.float32)
    row = to_row("a", [1, 4, 9], maps)
    np.testing.assert_array_equal(grid_maps(row), maps.astype(np.float16).astype(np.float32))


def test_an_image_without_class_has_an_empty_map() -> None:
    row = to_row("a", [], np.zeros((0, 5, 7), np.float32))
    assert grid_maps(row).shape == (0, 5, 7)
    assert pixel_maps(row, 20, 28).shape == (0, 20, 28)


def test_seed_modulation_by_hand() -> None:
    maps = np.array([[[0.2, 0.4], [0.6, 1.0]]], np.float32)
    seed = np.array([[0, 255], [3, 0]], np.uint8)
    expected = [[[0.2, 0.25], [0.5, 1.0]]]
    np.testing.assert_allclose(modulate(maps, seed), expected, atol=1e-4)


def test_maps_are_modulated_by_every_pixel_of_their_seed_at_the_size_they_are_used_at() -> None:
    rng = np.random.default_rng(0)
    maps = rng.random((2, 8, 10), dtype=np.float32).astype(np.float16).astype(np.float32)
    seed = rng.choice([0, 3, 255], (30, 37)).astype(np.uint8)
    row = to_row("a", [1, 4], maps, encode_mask(seed))
    full = full_size(maps, 30, 37)
    low, high = full.min((1, 2), keepdims=True), full.max((1, 2), keepdims=True)
    expected = np.where(seed == 0, full, (full - low) / (high - low + 1e-5))
    np.testing.assert_allclose(pixel_maps(row, 30, 37), expected, atol=1e-6)
    small = np.asarray(Image.fromarray(seed).resize((10, 8), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(grid_maps(row), modulate(maps, small))
    unseeded = to_row("a", [1, 4], maps)
    np.testing.assert_array_equal(pixel_maps(unseeded, 30, 37), full)
    np.testing.assert_array_equal(grid_maps(unseeded), maps)


@pytest.mark.parametrize(("size", "stored"), [((375, 500), (94, 125)), ((1, 1), (1, 1)), ((4, 5), (1, 2))])
def test_the_stored_size_is_stride_four(size: tuple[int, int], stored: tuple[int, int]) -> None:
    assert stored_size(*size) == stored == ((size[0] - 1) // 4 + 1, (size[1] - 1) // 4 + 1)
