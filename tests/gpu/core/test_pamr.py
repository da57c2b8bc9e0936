"""PAMR: the device against the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from amn_ray.data.maps import full_size
from amn_ray.stages.pamr.config import PamrConfig
from amn_ray.stages.pamr.model import affinities, refined_seeds

pytestmark = pytest.mark.gpu
CONFIG = PamrConfig()


def scenes(count: int, height: int, width: int) -> tuple[list[np.ndarray], list[np.ndarray], list[list[int]]]:
    """Smooth images under noise, smooth maps, and 0, 1, 2, … classes."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(count):
        colours = full_size(rng.random((3, 6, 8), dtype=np.float32) * 200, height, width).transpose(1, 2, 0)
        images.append((colours + rng.normal(25, 4, colours.shape)).clip(0, 255).astype(np.uint8))
    maps = [full_size(rng.random((k, 5, 7), dtype=np.float32), height, width) for k in range(count)]
    return images, maps, [list(range(2, 2 + k)) for k in range(count)]


def test_affinities_are_those_of_the_cpu(device: torch.device) -> None:
    image = torch.from_numpy(np.stack(scenes(2, 96, 128)[0])).permute(0, 3, 1, 2).float()
    found = affinities(image.to(device), CONFIG.dilations)
    assert found.device.type == device.type
    torch.testing.assert_close(found.cpu(), affinities(image, CONFIG.dilations), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (61, 75), (1, 1)])
def test_seeds_are_those_of_the_cpu(height: int, width: int, device: torch.device) -> None:
    """But for one pixel in a thousand, where two classes' scores are equal but for rounding."""
    images, maps, keys = scenes(4, height, width)
    config = PamrConfig(conf_fg=0.7, conf_bg=0.4)
    found = refined_seeds(images, maps, keys, config, device=device)
    for seed, *one in zip(found, images, maps, keys, strict=True):
        expected = refined_seeds(*([item] for item in one), config, device=torch.device("cpu"))[0]
        assert (seed != expected).mean() < 1e-3
    assert not found[0].any()
    assert height == 1 or set(np.unique(found[3])) == {0, 2, 3, 4, 255}
