"""Multi-scale, flipped inference, shared by CAM and AMN (method 2 and 5).

Legend: B = images of one size, H W = their pixels, h w = a scale's feature grid, C = channels.

Images of one size go through the network together, each next to its mirror image, in channels-last memory and (where
the hardware has it) bfloat16: that is where the speed over one image at a time comes from (`make bench`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from amn_ray.data.transforms import resize_image
from amn_ray.nn.precision import autocast
from amn_ray.nn.resnet import normalise

PIXELS_PER_PASS = 2**20
"""Images of one size go through the network together up to this many pixels at scale 1: five of 500×375."""


def same_size_groups(images: Sequence[np.ndarray], max_pixels: int = PIXELS_PER_PASS) -> Iterator[list[int]]:
    """Positions of images of equal size, in groups of at most `max_pixels` pixels (but at least one image)."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, image in enumerate(images):
        groups.setdefault(image.shape, []).append(position)
    for shape, positions in groups.items():
        step = max(1, max_pixels // (shape[0] * shape[1]))
        yield from (positions[start : start + step] for start in range(0, len(positions), step))


@torch.inference_mode()
def scales_with_flips(
    forward: Callable[[Tensor], Tensor],
    images: Sequence[np.ndarray],
    scales: Iterable[float],
    *,
    device: torch.device,
    precision: str,
) -> Iterator[Tensor]:
    """For each scale: forward(image) + flipped-back forward(flipped image), float32 (B, C, h, w).

    Args:
        forward: (2B, 3, H·s, W·s) -> (2B, C, h, w); the second half of the batch is mirrored.
        images: B uint8 RGB arrays (H, W, 3) of one size.
        scales: factors of the image's size; bicubic resize.
        device: where `forward`'s weights are.
        precision: see nn.precision.autocast.
    """
    height, width = images[0].shape[:2]
    for scale in scales:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        scaled_BHWC = np.stack([image if scale == 1 else resize_image(image, *size) for image in images])
        image_BCHW = normalise(torch.from_numpy(scaled_BHWC).to(device))
        pair = torch.cat([image_BCHW, image_BCHW.flip(3)]).contiguous(memory_format=torch.channels_last)
        with autocast(device, precision):
            straight, mirrored = forward(pair).float().chunk(2)
        yield straight + mirrored.flip(3)
