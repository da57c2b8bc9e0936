"""The random walk: the device against the CPU, and against the power of a dense matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from amn_ray.stages.irn.walk import pseudo_mask, random_walk, transition
from tests.stages.test_irn_model import WALK, brute_affinities

pytestmark = pytest.mark.gpu


def walkers(num_maps: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Blobs to spread, float32 (K, h, w), and edges (h, w): walls with gaps on a weak ground."""
    rng = np.random.default_rng(0)
    edge = rng.random((height, width)) * 0.3
    edge[height // 2, : width * 2 // 3] = edge[height // 4 :, width // 3] = 0.95
    y, x = np.mgrid[:height, :width]
    centres = rng.random((num_maps, 2, 1, 1)) * [[[height]], [[width]]]
    maps = np.exp(-((y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2) / (height * width / 20))
    return torch.from_numpy(maps.astype(np.float32)), torch.from_numpy(edge.astype(np.float32))


def test_the_walk_equals_the_power_of_the_dense_matrix(device: torch.device) -> None:
    maps, edge = walkers(2, 9, 11)
    matrix = np.eye(99)
    for (one, other), near in brute_affinities(edge.double().numpy(), 5).items():
        i, j = one[0] * 11 + one[1], other[0] * 11 + other[1]
        matrix[i, j] = matrix[j, i] = near**10
    step = matrix / matrix.sum(0, keepdims=True)
    np.testing.assert_allclose(transition(edge.to(device), 5, 10).to_dense().cpu().numpy(), step.T, atol=1e-6)
    start = (maps.double() ** 1.3 * (1 - edge.double())).reshape(2, -1).numpy()
    expected = (start @ np.linalg.matrix_power(step, 256)).reshape(maps.shape)
    found = random_walk(maps.to(device), edge.to(device), WALK)
    assert found.device.type == device.type
    np.testing.assert_allclose(found.cpu().numpy(), expected, rtol=1e-3)


@pytest.mark.parametrize("size", [(94, 125), (37, 1), (1, 1)])
def test_a_walk_on_the_grid_of_a_photograph_is_that_of_the_cpu(size: tuple[int, int], device: torch.device) -> None:
    maps, edge = walkers(3, *size)
    expected = random_walk(maps, edge, WALK)
    found = random_walk(maps.to(device), edge.to(device), WALK).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (61, 75)])
def test_pseudo_masks_are_those_of_the_cpu(height: int, width: int, device: torch.device) -> None:
    """But for one pixel in a thousand, where two classes' scores are equal but for rounding."""
    maps, edge = walkers(2, -(-height // 4), -(-width // 4))
    expected = pseudo_mask(maps, edge, [2, 7], (height, width), WALK)
    found = pseudo_mask(maps.to(device), edge.to(device), [2, 7], (height, width), WALK)
    assert {0} < set(np.unique(expected)) <= {0, 2, 7}
    assert (found != expected).mean() < 1e-3


def test_an_image_without_a_label_has_an_empty_pseudo_mask(device: torch.device) -> None:
    maps, edge = walkers(1, 16, 19)
    mask = pseudo_mask(maps[:0].to(device), edge.to(device), [], (61, 75), WALK)
    assert mask.shape == (61, 75)
    assert not mask.any()
