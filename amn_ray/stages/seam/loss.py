"""SEAM's losses: the maps of two views of an image agree, and each agrees with the other's revised one.

Legend: B = images, M = N + 1 = classes behind the background, H W = pixels of a view, h w = pixels of the smaller view.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

EPSILON = 1e-5
HARDEST = 5
"""Of so many entries one counts, those of the largest differences."""
EMPTIEST = 4
"""Of so many pixels one should be background, those of the smallest values."""


def seam_losses(
    logits_BMhw: tuple[Tensor, Tensor],
    revised_BMhw: tuple[Tensor, Tensor],
    sizes: tuple[tuple[int, int], tuple[int, int]],
    targets_BN: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The losses of a batch, from the outputs of both views on the network's grid.

    Args:
        logits_BMhw: class logits of the large and of the small view.
        revised_BMhw: the same, revised by the pixel correlation module.
        sizes: (H, W) of the views.
        targets_BN: 0 or 1.

    Returns:
        - The multi-label loss of the pooled logits, the mean of both views;
        - the mean of the smallest pixels of the revised maps, the mean of both views;
        - ER, the difference of the two views' maps;
        - ECR, the sum over both views of the difference between the revised maps and the other view's maps.
    """
    pairs = [
        [F.interpolate(one, size, mode="bilinear", align_corners=True) for one, size in zip(both, sizes, strict=True)]
        for both in (logits_BMhw, revised_BMhw)
    ]
    classification = torch.stack(
        [F.multilabel_soft_margin_loss(one.mean((2, 3))[:, 1:], targets_BN) for one in pairs[0]]
    ).mean()
    emptiness = torch.stack([smallest_values(one, targets_BN) for one in pairs[1]]).mean()
    present_BM11 = F.pad(targets_BN, (1, 0), value=1)[..., None, None]
    (first, second), (first_revised, second_revised) = (
        [F.interpolate(max_norm(one), sizes[1], mode="bilinear", align_corners=True) * present_BM11 for one in both]
        for both in pairs
    )
    agreement = (first - second)[:, 1:].abs().mean()
    revision = hardest((one_hot(second) - first_revised).abs()) + hardest((one_hot(first) - second_revised).abs())
    return classification, emptiness, agreement, revision


def max_norm(maps_BMHW: Tensor) -> Tensor:
    """Each map stretched to about [0, 1]: (B, M, H, W) -> (B, M, H, W)."""
    active = F.relu(maps_BMHW)
    low, high = active.amin((2, 3), keepdim=True), active.amax((2, 3), keepdim=True)
    return F.relu(active - low - EPSILON) / (high - low + EPSILON)


def one_hot(maps_BMHW: Tensor) -> Tensor:
    """Of the classes only each pixel's strongest, with its value (equal ones all); the background is 1 − this.

    The background's own map has no part in it. Without gradient.
    """
    classes = maps_BMHW.detach()[:, 1:]
    strongest = classes.amax(1, keepdim=True)
    return torch.cat([1 - strongest, classes * (classes == strongest)], 1)


def hardest(difference_BMhw: Tensor) -> Tensor:
    """The mean over images of the mean of each one's largest differences."""
    count = difference_BMhw[0].numel() // HARDEST
    return difference_BMhw.flatten(1).topk(count, dim=1).values.mean()


def smallest_values(revised_BMHW: Tensor, targets_BN: Tensor) -> Tensor:
    """The mean, over images, of the smallest values of the strongest present class's map."""
    strongest_BHW = (revised_BMHW[:, 1:] * targets_BN[..., None, None]).amax(1)
    count = strongest_BHW[0].numel() // EMPTIEST
    return strongest_BHW.flatten(1).topk(count, dim=1, largest=False).values.mean()
