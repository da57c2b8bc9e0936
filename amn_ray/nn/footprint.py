"""The memory that one large photograph needs.

Maps and their CRF work on all pixels of an image, so they take memory in proportion to its area. Measured on a CPU
(fp32, one image and its mirror image): the networks' activations per pixel **of the largest scale**, and pydensecrf's
lattices and energies per pixel of the image and per label. A GPU needs about as much of its own memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NETWORK_BYTES = {"resnet18": 80, "resnet34": 80, "resnet50": 330, "resnet101": 330}
OTHER_NETWORK_BYTES = 400
"""For networks that were not measured; eleven of timm's took between 110 and 470."""
CRF_BYTES = 440
CRF_LABEL_BYTES = 64
WARN_GIB = 2.0
"""The largest images of VOC and COCO stay below a third of it."""


def map_gib(num_pixels: int, scales: Sequence[float], backbone: str) -> float:
    """The memory of a network that makes the maps of an image."""
    return num_pixels * max(scales) ** 2 * NETWORK_BYTES.get(backbone, OTHER_NETWORK_BYTES) / 2**30


def crf_gib(num_pixels: int, num_labels: int) -> float:
    """The memory of an image's dense CRF; the background is one of the labels."""
    return num_pixels * (CRF_BYTES + CRF_LABEL_BYTES * num_labels) / 2**30


def warning(largest: Mapping[str, Any], scales: Sequence[float], backbone: str) -> str | None:
    """A warning about the memory that the largest image will need; None if it is little.

    Args:
        largest: `image_id`, `height`, `width` and `num_labels` (without the background) of the largest image.
        scales: factors of its size at which maps are made.
        backbone: the network that makes them.
    """
    num_pixels = largest["height"] * largest["width"]
    maps, crf = map_gib(num_pixels, scales, backbone), crf_gib(num_pixels, largest["num_labels"] + 1)
    if max(maps, crf) < WARN_GIB:
        return None
    size = f"{num_pixels / 1e6:.1f} megapixels ({largest['width']}x{largest['height']})"
    return (
        f"image {largest['image_id']!r} has {size}, for which a worker needs about {maps:.0f} GiB of memory to make "
        f"its maps (at scale {max(scales):g}) and {crf:.0f} GiB for its CRF; to scale large images down, set "
        "dataset.max_side, as to 1024"
    )
