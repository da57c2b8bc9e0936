"""The loss of DeepLabv2. Legend: B = images, h w = a feature grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from amn_ray.data.source import IGNORE
from amn_ray.nn.reduction import global_mean


def segmentation_loss(pyramid: Sequence[Tensor], labels: Sequence[Tensor], counts: Sequence[Tensor]) -> Tensor:
    """The sum over outputs of the mean cross-entropy over the pixels that are not 255 (method 9).

    Args:
        pyramid: logits (B, N+1, h, w) of each output, float32.
        labels: of each output, integer labels 0…N or 255 (B, h, w).
        counts: of each output, the number of its defined pixels in this worker's whole batch, of which `pyramid` may
            be a part. The means are over the pixels of all workers.

    Returns:
        A scalar.
    """
    terms = [
        global_mean(F.cross_entropy(logits, label.long(), ignore_index=IGNORE, reduction="sum"), count)
        for logits, label, count in zip(pyramid, labels, counts, strict=True)
    ]
    return torch.stack(terms).sum()
