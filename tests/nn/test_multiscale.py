"""Images that go through a network together."""

from __future__ import annotations

from amn_ray.nn.multiscale import same_size_groups
from tests.conftest import noise


def test_groups_hold_images_of_one_size_and_miss_none() -> None:
    images = [noise(*size) for size in [(8, 8), (8, 9), (8, 8), (8, 8), (9, 8)]]
    groups = list(same_size_groups(images, max_pixels=130))
    assert sorted(i for group in groups for i in group) == [0, 1, 2, 3, 4]
    assert all(len({images[i].shape for i in group}) == 1 for group in groups)
    assert max(len(group) for group in groups) == 2
