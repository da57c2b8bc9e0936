"""LPCAM step by step, slow and in float64: what a fast implementation is compared with.

Every step is written as the method states it, with loops over centres, prototypes and classes, and without any saving.

Legend: H W = pixels of the image, h w = its stride-16 feature grid, C = channels, N = classes without background,
K = classes of the image, n = rows (features of single grid positions), k = centres.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from amn_ray.nn.classifier import Classifier

LOG = logging.getLogger(__name__)
SMALLEST_NORM = 1e-8
MOVEMENT = 5.0
"""k-means stops when the squared sum of its centres' movements is below this, in raw units."""


@torch.no_grad()
def collect(
    network: Classifier, image: Tensor, size: tuple[int, int], maps: Tensor, labels: Sequence[int], *, threshold: float
) -> dict[int, tuple[Tensor, Tensor]]:
    """Steps 1 to 3 for one image. The network is put into eval mode.

    Args:
        network: in double.
        image: the whole image at scale 1, normalised, (1, 3, H, W).
        size: (H, W).
        maps: finished full-size CAMs of `labels`, (K, H, W).
        labels: 1…N, in the order of `maps`.
        threshold: t; 0.10 on VOC, 0.25 on COCO.

    Returns:
        For each label the rows (n, C) of F_c and of R_c, each in the order of the grid (row by row).
    """
    network.eval()
    height, width = size
    # 1. f: layer4's features of the image alone, after the ReLU, not normalised.
    feature_Chw = network.backbone(image)[0]
    channels, rows, columns = feature_Chw.shape
    collected = {}
    for label, map_HW in zip(labels, maps, strict=True):
        inside, outside = [], []
        for i in range(rows):
            for j in range(columns):
                # 2. m_c is read at row floor(i·H/h), column floor(j·W/w).
                value = map_HW[i * height // rows, j * width // columns].item()
                # 3. Above the threshold: F_c. Below: R_c. Equal: neither.
                if value > threshold:
                    inside.append(feature_Chw[:, i, j])
                elif value < threshold:
                    outside.append(feature_Chw[:, i, j])
        nothing = feature_Chw.new_zeros(0, channels)
        collected[label] = (
            torch.stack(inside) if inside else nothing,
            torch.stack(outside) if outside else nothing,
        )
    return collected


def k_means(rows: Tensor, initial: Tensor, *, most_rounds: int = 100) -> Tensor:
    """Step 4.

    Args:
        rows: (n, C).
        initial: the centres to start from, (k, C). With fewer rows than k wanted, k is the number of rows; that is for
            the caller to see to, but more centres than rows do no harm here.
        most_rounds: stops after so many, with a line in the log.

    Returns:
        The centres in the order of `initial`, without those of empty clusters. None if there are no rows.
    """
    centres = list(initial)
    for _ in range(most_rounds):
        # Each row goes to the centre of largest cosine; of equal ones to that of the lowest number.
        best = rows.new_full((len(rows),), -torch.inf)
        nearest = torch.full((len(rows),), -1)
        for number, centre in enumerate(centres):
            similarity = _cosine(rows, centre)
            nearest[similarity > best] = number
            best = torch.maximum(best, similarity)
        # Each centre becomes the mean of its raw rows. An empty cluster is dropped; what it moved does not count.
        moved = 0.0
        remaining = []
        for number, centre in enumerate(centres):
            members = rows[nearest == number]
            if len(members) > 0:
                mean = members.sum(dim=0) / len(members)
                moved += (mean - centre).pow(2).sum().sqrt().item()
                remaining.append(mean)
        centres = remaining
        # Stop after the round with (Σ ‖new − old‖)² < 5; the new centres count.
        if moved**2 < MOVEMENT:
            break
    else:
        LOG.warning("k-means was stopped after %d rounds", most_rounds)
    return torch.stack(centres) if centres else rows.new_zeros(0, rows.shape[1])


def prototypes(
    centres_f: Tensor, centres_r: Tensor, weights: Tensor, label: int, *, coco: bool = False, foreground: float = 0.9
) -> tuple[Tensor, Tensor]:
    """Step 5.

    Args:
        centres_f: of F_c, (k, C).
        centres_r: of R_c, (k, C); there may be none.
        weights: the classifier's rows, (N, C).
        label: c, 1…N.
        coco: use COCO's bounds for the context.
        foreground: a prototype has a P_c above this. (The bounds of the context do not depend on it.)

    Returns:
        The prototypes p and the context q, each (number, C). There is a prototype if there is a centre of F_c.
    """
    # 5. P = softmax over the N classes of centre · w.
    share_f = [_softmax(weights, centre)[label - 1].item() for centre in centres_f]
    share_r = [_softmax(weights, centre)[label - 1].item() for centre in centres_r]
    # Prototypes: P_c > 0.9. If there is none (on both data sets), the centre of largest P_c.
    chosen = [number for number, share in enumerate(share_f) if share > foreground]
    if not chosen and share_f:
        chosen = [share_f.index(max(share_f))]
    # Context: 0.05 < P_c < 0.9. On COCO every centre below 0.5: P_c > 0 always holds, but for underflow.
    low, high = (-torch.inf, 0.5) if coco else (0.05, 0.9)
    context = [number for number, share in enumerate(share_r) if low < share < high]
    return centres_f[chosen], centres_r[context]


@torch.no_grad()
def lpcam_maps(
    network: Classifier,
    pairs: Sequence[Tensor],
    size: tuple[int, int],
    labels: Sequence[int],
    chosen: Mapping[int, tuple[Tensor, Tensor]],
) -> Tensor:
    """Steps 6 and 7 for one image. The network is put into eval mode.

    Args:
        network: in double.
        pairs: for each scale the normalised image and its mirror image, (2, 3, H·s, W·s).
        size: (H, W).
        labels: 1…N.
        chosen: for each label its prototypes and its context. A label without a prototype keeps its CAM.

    Returns:
        Maps of `labels` at the image's size, (K, H, W) in [0, 1].
    """
    network.eval()
    finished = []
    for label in labels:
        if label not in chosen or len(chosen[label][0]) == 0:
            finished.append(cam(network, network.classifier.weight[label - 1, :, 0, 0], pairs, size))
            continue
        own, context = chosen[label]
        total_HW = own.new_zeros(size)
        for pair in pairs:
            # 6. g = f(image) + flip(f(mirror image)).
            straight_Chw, mirrored_Chw = network.backbone(pair[:1])[0], network.backbone(pair[1:])[0]
            g_Chw = straight_Chw + mirrored_Chw.flip(2)
            g = g_Chw.flatten(1).T
            # a_c = relu(mean over prototypes of cos(g, p) − mean over context of cos(g, q)).
            activation = torch.stack([_cosine(g, p) for p in own]).mean(dim=0)
            if len(context) > 0:
                activation = activation - torch.stack([_cosine(g, q) for q in context]).mean(dim=0)
            activation_hw = activation.clamp(min=0).reshape(g_Chw.shape[1:])
            # 7. Upsample after the ReLU; sum over scales.
            total_HW = total_HW + upsampled(activation_hw, network, size)
        # 7. Divide by the own maximum, without 1e-5. A map that is 0 everywhere stays so.
        largest = total_HW.max()
        finished.append(total_HW / largest if largest > 0 else torch.zeros_like(total_HW))
    return torch.stack(finished) if finished else network.classifier.weight.new_zeros(0, *size)


@torch.no_grad()
def cam(network: Classifier, row: Tensor, pairs: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """The finished CAM (H, W) of a class whose classifier row is `row` (C); the other arguments as in `lpcam_maps`."""
    total_HW = row.new_zeros(size)
    for pair in pairs:
        straight_Chw, mirrored_Chw = network.backbone(pair[:1])[0], network.backbone(pair[1:])[0]
        # relu(w_c · f) of the image, plus the flipped-back one of the mirror image.
        straight_hw = (row[:, None, None] * straight_Chw).sum(dim=0).clamp(min=0)
        mirrored_hw = (row[:, None, None] * mirrored_Chw).sum(dim=0).clamp(min=0)
        total_HW = total_HW + upsampled(straight_hw + mirrored_hw.flip(1), network, size)
    return total_HW / (total_HW.max() + 1e-5)


def upsampled(map_hw: Tensor, network: Classifier, size: tuple[int, int]) -> Tensor:
    """(h, w) -> (H, W): bilinearly to the next multiple of the stride, which the grid covers, and cropped."""
    height, width = size
    stride = network.backbone.strides["layer4"]
    covered = (-(-height // stride) * stride, -(-width // stride) * stride)
    return F.interpolate(map_hw[None, None], covered, mode="bilinear", align_corners=False)[0, 0, :height, :width]


def _cosine(rows: Tensor, other: Tensor) -> Tensor:
    """The cosine of each row (n, C) with another (C); norms are at least 1e-8."""
    norms = rows.pow(2).sum(dim=1).sqrt().clamp(min=SMALLEST_NORM)
    return (rows * other).sum(dim=1) / (norms * other.pow(2).sum().sqrt().clamp(min=SMALLEST_NORM))


def _softmax(weights: Tensor, centre: Tensor) -> Tensor:
    """Softmax over the N classes of centre · w; no bias, no temperature."""
    logits = (weights * centre).sum(dim=1)
    powers = (logits - logits.max()).exp()
    return powers / powers.sum()
