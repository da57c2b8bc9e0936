"""The losses of IRN. Legend: see model.py."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from amn_ray.data.source import IGNORE
from amn_ray.nn.reduction import global_mean
from amn_ray.stages.irn.model import affinity
from amn_ray.stages.irn.paths import Path, paths

TINY = 1e-5


def irn_loss(edge_Bhw: Tensor, displacement_B2hw: Tensor, seed_Bhw: Tensor, radius: int) -> Tensor:
    """The loss of both branches (method 7; Ahn et al. 2019, Section 4.2).

    ½ (positive + negative affinity) + ½ (foreground + background displacement); each is the mean over the pairs whose
    ends have the same label (positive: the mean of the background's and the foreground's pairs; the displacements:
    foreground or background pairs) or different ones (negative). Pairs touching 255 are ignored. The means are over
    the pairs of all workers. All pairs inside the crop count; the released code leaves out those
    near its left, right and lower borders.

    Directions are computed one at a time, and recomputed for the gradient, so memory holds the paths of one direction
    rather than of all: see `make bench`.

    Args:
        edge_Bhw: edge probabilities, float32 (B, h, w).
        displacement_B2hw: float32 (B, 2, h, w).
        seed_Bhw: integer labels 0…N or 255.
        radius: of the pairs, in pixels of stride 4.

    Returns:
        A scalar.
    """
    totals, counts = edge_Bhw.new_zeros(5), edge_Bhw.new_zeros(3)
    for path in paths(radius):
        if path.dy < edge_Bhw.shape[1] and abs(path.dx) < edge_Bhw.shape[2]:
            total, count = checkpoint(_pair_sums, edge_Bhw, displacement_B2hw, seed_Bhw, path, use_reentrant=False)
            totals, counts = totals + total, counts + count
    background, foreground, different = counts
    positive = (global_mean(totals[0], background) + global_mean(totals[1], foreground)) / 2
    negative = global_mean(totals[2], different)
    displacement = global_mean(totals[3], 2 * foreground) + global_mean(totals[4], 2 * background)
    return (positive + negative) / 2 + displacement / 2


def _pair_sums(edge_Bhw: Tensor, displacement_B2hw: Tensor, seed_Bhw: Tensor, path: Path) -> tuple[Tensor, Tensor]:
    """Sums over the pairs of one direction: the five terms of the loss, and background, foreground, different pairs."""
    height, width = edge_Bhw.shape[-2:]
    start, end = (path.window(offset, height, width) for offset in ((0, 0), (path.dy, path.dx)))
    one, other = seed_Bhw[(..., *start)], seed_Bhw[(..., *end)]
    defined = (one != IGNORE) & (other != IGNORE)
    background, foreground = defined & (one == other) & (one == 0), defined & (one == other) & (one > 0)
    different = defined & (one != other)
    near = affinity(edge_Bhw, path)
    attraction, repulsion = -torch.log(near + TINY), -torch.log(1 + TINY - near)
    shift_B2hw = displacement_B2hw[(..., *start)] - displacement_B2hw[(..., *end)]
    wanted = shift_B2hw.new_tensor([path.dy, path.dx])[:, None, None]  # both ends point to the same centre
    totals = [
        (attraction * background).sum(),
        (attraction * foreground).sum(),
        (repulsion * different).sum(),
        ((shift_B2hw - wanted).abs().sum(1) * foreground).sum(),
        (shift_B2hw.abs().sum(1) * background).sum(),
    ]
    return torch.stack(totals), torch.stack([pairs.sum() for pairs in (background, foreground, different)])
