"""The loss of AMN. Legend: B = images, C = N+1 labels, h w = the feature grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from amn_ray.data.source import IGNORE
from amn_ray.nn.reduction import global_mean


def pcl_loss(logits_BChw: Tensor, seed_Bhw: Tensor, smoothing: float) -> Tensor:
    """The per-pixel classification loss: balanced cross-entropy with label smoothing (paper 4.2; method 4).

    ½ (mean over background pixels + mean over foreground pixels); pixels of 255 are ignored; a half without any
    pixel is 0. The means are over the pixels of all workers.

    Args:
        logits_BChw: (B, N+1, h, w), float32.
        seed_Bhw: integer labels 0…N or 255.
        smoothing: ε; the target is 1−ε on the seed's class and ε/N on each of the others.

    Returns:
        A scalar.
    """
    num_others = logits_BChw.shape[1] - 1
    log_p = F.log_softmax(logits_BChw, dim=1)
    defined = seed_Bhw != IGNORE
    seed = torch.where(defined, seed_Bhw, 0).long()
    own = log_p.gather(1, seed[:, None])[:, 0]
    loss_Bhw = -(1 - smoothing) * own - smoothing / num_others * (log_p.sum(1) - own)
    halves = [
        global_mean((loss_Bhw * half).sum(), half.sum()) for half in (defined & (seed == 0), defined & (seed > 0))
    ]
    return (halves[0] + halves[1]) / 2
