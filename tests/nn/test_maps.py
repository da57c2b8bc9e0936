"""Stored maps and their way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from amn_ray.nn.maps import from_row, full_size, stored_size, to_row


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
    np.testing.assert_array_equal(from_row(row), maps.astype(np.float16).astype(np.float32))


def test_an_image_without_class_has_an_empty_map() -> None:
    row = to_row("a", [], np.zeros((0, 5, 7), np.float32))
    assert from_row(row).shape == (0, 5, 7)
    assert full_size(from_row(row), 20, 28).shape == (0, 20, 28)


@pytest.mark.parametrize(("size", "stored"), [((375, 500), (94, 125)), ((1, 1), (1, 1)), ((4, 5), (1, 2))])
def test_the_stored_size_is_stride_four(size: tuple[int, int], stored: tuple[int, int]) -> None:
    assert stored_size(*size) == stored == ((size[0] - 1) // 4 + 1, (size[1] - 1) // 4 + 1)
