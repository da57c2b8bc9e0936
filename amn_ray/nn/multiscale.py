"""Multi-scale, flipped inference, shared by CAM and AMN (method 2 and 5).

Legend: B = images of one size, H W = their pixels, h w = a scale's feature grid, C = channels.

Images of one size are prepared together and go through the network in passes that suit the device, with their mirror
images, in channels-last memory and (if the hardware supports it) bfloat16: `make bench` measures the speed-up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from amn_ray.data.transforms import resize_image
from amn_ray.nn.backbones.backbone import Encoder
from amn_ray.nn.precision import autocast, wide

PIXELS_PER_GROUP = 2**20
"""Images of one size are grouped up to this many pixels at scale 1: five of 500×375."""
PIXELS_PER_PASS = {"cpu": 2**18, "cuda": 2**23}
"""Pixels per forward pass, by device. On a CPU more than this exceeds the caches: four 1000×750 images
took 1.2 times as long together as one by one (float32, 2 cores)."""


def same_size_groups(images: Sequence[np.ndarray], max_pixels: int = PIXELS_PER_GROUP) -> Iterator[list[int]]:
    """Positions of images of equal size, in groups of at most `max_pixels` pixels (but at least one image)."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, image in enumerate(images):
        groups.setdefault(image.shape, []).append(position)
    for shape, positions in groups.items():
        step = max(1, max_pixels // (shape[0] * shape[1]))
        yield from (positions[start : start + step] for start in range(0, len(positions), step))


def images_per_pass(image_BCHW: Tensor) -> int:
    """How many of these images should go through a network together."""
    return max(1, PIXELS_PER_PASS[image_BCHW.device.type] // (image_BCHW.shape[2] * image_BCHW.shape[3]))


def scaled(images: Sequence[np.ndarray], scale: float, backbone: Encoder, device: torch.device) -> Tensor:
    """Images of one size at a scale (bicubic), as a backbone takes them: (B, 3, H·s, W·s) of its weights' dtype."""
    height, width = images[0].shape[:2]
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    scaled_BHWC = np.stack([image if scale == 1 else resize_image(image, *size) for image in images])
    return backbone.normalise(torch.from_numpy(scaled_BHWC).to(device)).to(next(backbone.parameters()).dtype)


def with_mirror_images(images_BCHW: Tensor) -> Tensor:
    """(B, C, H, W) -> pairs of image and mirror image, (B, 2, C, H, W)."""
    return torch.stack([images_BCHW, images_BCHW.flip(3)], 1)


@torch.inference_mode()
def scales_with_flips(
    forward: Callable[..., Tensor],
    images: Sequence[np.ndarray],
    scales: Iterable[float],
    *,
    backbone: Encoder,
    device: torch.device,
    precision: str | None,
    conditions: Sequence[Tensor] = (),
) -> Iterator[Tensor]:
    """For each scale: forward(image) + flipped-back forward(flipped image), at least float32 (B, C, h, w).

    Args:
        forward: images (n, 3, H·s, W·s), and the n matching rows of each condition -> (n, C, h, w).
        images: B uint8 RGB arrays (H, W, 3) of one size.
        scales: factors of the image's size; bicubic resize.
        backbone: the one in `forward`; it normalises the images.
        device: where `forward`'s weights are.
        precision: see nn.precision.autocast.
        conditions: tensors of B rows.
    """
    for scale in scales:
        image_BCHW = scaled(images, scale, backbone, device)
        pairs = [torch.cat([image_BCHW, image_BCHW.flip(3)]), *(torch.cat([rows, rows]) for rows in conditions)]
        passes = zip(*(rows.split(images_per_pass(image_BCHW)) for rows in pairs), strict=True)
        with autocast(device, precision):
            outputs = [
                wide(forward(image.contiguous(memory_format=torch.channels_last), *rows)) for image, *rows in passes
            ]
        straight, mirrored = torch.cat(outputs).chunk(2)
        yield straight + mirrored.flip(3)
