"""The classifier's logits for whole images.

Legend: B = images, H W = pixels, N = classes without background.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from amn_ray.nn.classifier import Classifier
from amn_ray.nn.multiscale import images_per_pass
from amn_ray.nn.precision import autocast


@torch.inference_mode()
def class_logits(
    model: Classifier, images: Sequence[np.ndarray], *, device: torch.device, precision: str | None
) -> np.ndarray:
    """The logits of images of one size, at that size.

    Args:
        model: in eval mode, on `device`.
        images: B uint8 RGB arrays (H, W, 3) of one size.
        device: where `model` is.
        precision: see nn.precision.autocast.

    Returns:
        float32 (B, N).
    """
    image_BCHW = model.backbone.normalise(torch.from_numpy(np.stack(images)).to(device))
    with autocast(device, precision):
        outputs = [model(part).float() for part in image_BCHW.split(images_per_pass(image_BCHW))]
    return torch.cat(outputs).cpu().numpy()
