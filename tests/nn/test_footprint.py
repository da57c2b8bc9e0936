"""Large photographs are told before they take the memory."""

from __future__ import annotations

import pytest

from amn_ray.nn import footprint
from amn_ray.nn.backbones.registry import BACKBONES

PAPER = [0.5, 1.0, 1.5, 2.0]
NAMES = [*(name for name in BACKBONES if not name.endswith("/")), "timm/convnext_tiny"]
"""All networks of ours, and one of a family, whose memory was not measured."""


def largest(width: int, height: int, num_labels: int = 1) -> dict[str, object]:
    return {"image_id": "IMG_1", "height": height, "width": width, "num_labels": num_labels}


@pytest.mark.parametrize("backbone", NAMES)
def test_data_sets_of_the_field_are_not_told_and_photographs_of_phones_are(backbone: str) -> None:
    for size in ((500, 500), (640, 640)):
        assert footprint.warning(largest(*size, num_labels=8), PAPER, backbone) is None
    for size in ((6000, 4000), (4000, 3000)):
        for scales in (PAPER, [1.0, 0.5], [0.5]):
            told = footprint.warning(largest(*size), scales, backbone)
            assert told is not None
            assert "'IMG_1'" in told
            assert "megapixels" in told
            assert "dataset.max_side" in told


def test_the_estimate_grows_with_the_area_of_the_largest_scale_and_with_the_labels() -> None:
    assert footprint.map_gib(10**6, [0.5, 2.0], "resnet50") == 4 * footprint.map_gib(10**6, [1.0], "resnet50")
    # Measured: 565 bytes per pixel with 2 labels, 850 with 6, 1786 with 21.
    for labels, measured in ((2, 565), (6, 850), (21, 1786)):
        assert footprint.crf_gib(2**30, labels) == pytest.approx(measured, rel=0.05)
