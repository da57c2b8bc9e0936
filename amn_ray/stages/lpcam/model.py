"""LPCAM: prototypes of a class take the place of its row of the classifier (Chen and Sun, CVPR 2023).

docs/rivals.md has the steps; the released code is step/make_lpcam.py of LPCAM.

Legend: h w = stride-16 grid, C = channels of layer4, N = classes without background, K = classes of an image, n = rows
(features of single grid positions), k = clusters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from amn_ray.nn.class_activation import EPSILON, SumOfScales
from amn_ray.nn.classifier import Classifier
from amn_ray.nn.multiscale import scales_with_flips

SMALLEST_NORM = 1e-8
MOVEMENT = 5.0
"""The clustering ends when the squared sum of the distances that its centres moved is below this."""
MOST_ROUNDS = 100


def k_means(rows_nC: Tensor, initial_kC: Tensor) -> Tensor:
    """Clustering by cosine, with means of raw rows.

    Args:
        rows_nC: the rows.
        initial_kC: the centres to start from.

    Returns:
        (k, C); without those to which no row came.
    """
    centres_kC = initial_kC
    unit_nC = F.normalize(rows_nC, dim=1, eps=SMALLEST_NORM)
    for _ in range(MOST_ROUNDS):
        nearest_n = (unit_nC @ F.normalize(centres_kC, dim=1, eps=SMALLEST_NORM).T).argmax(1)
        counts_k = nearest_n.bincount(minlength=len(centres_kC))
        sums_kC = torch.zeros_like(centres_kC).index_add_(0, nearest_n, rows_nC)
        kept = counts_k > 0
        means_kC = sums_kC[kept] / counts_k[kept, None]
        moved = (means_kC - centres_kC[kept]).norm(dim=1).sum()
        centres_kC = means_kC
        if moved**2 < MOVEMENT:
            return centres_kC
    from amn_ray.core.console import log  # needs Rich, which the rest of this page does not

    log("lpcam", f"the clustering of {len(rows_nC)} features was ended after {MOST_ROUNDS} rounds")
    return centres_kC


def chosen_centres(
    centres_kC: Tensor, context_kC: Tensor, weights_NC: Tensor, column: int, *, own: float, bounds: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """The prototypes of a class, and what counts as its context.

    Args:
        centres_kC: of the features of the class; at least one.
        context_kC: of all other features of its images.
        weights_NC: the classifier.
        column: the class, 0…N−1.
        own: the probability of the class that a prototype must exceed; where none does, the most probable is one.
        bounds: between which that of a centre of the context must be; 0 is no lower bound.
    """
    share_k = (centres_kC @ weights_NC.T).softmax(1)[:, column]
    chosen = share_k > own
    if not chosen.any():
        chosen = torch.zeros_like(chosen)
        chosen[share_k.argmax()] = True
    other_k = (context_kC @ weights_NC.T).softmax(1)[:, column]
    low, high = bounds
    return centres_kC[chosen], context_kC[((other_k > low) | (low == 0)) & (other_k < high)]


def direction(own_kC: Tensor, context_kC: Tensor) -> Tensor:
    """The direction of a class, (C): unit features times it are their mean cosine with the prototypes, minus that with
    the context.
    """
    result = F.normalize(own_kC, dim=1, eps=SMALLEST_NORM).mean(0)
    if len(context_kC):
        result = result - F.normalize(context_kC, dim=1, eps=SMALLEST_NORM).mean(0)
    return result


def lpcam_maps(
    model: Classifier,
    directions_NC: Tensor,
    known_N: Tensor,
    images: Sequence[np.ndarray],
    keys: Sequence[Sequence[int]],
    *,
    scales: Sequence[float],
    precision: str | None,
    device: torch.device,
) -> list[np.ndarray]:
    """LPCAM's maps of images of one size, for the classes of each image.

    Args:
        model: the classifier in eval mode, on `device`.
        directions_NC: of each class, see `direction`; on `device`.
        known_N: whether a class has prototypes; one without keeps its CAM.
        images: B uint8 RGB arrays (H, W, 3) of one size.
        keys: for each image, its labels 1…N.
        scales: factors of the image's size.
        precision: see nn.precision.autocast.
        device: where `model` is.

    Returns:
        For each image float (K, ⌈H/4⌉, ⌈W/4⌉) in [0, 1].
    """
    of_prototypes = [SumOfScales(image, model.backbone) for image in images]
    of_cam = [SumOfScales(image, model.backbone) for image in images]
    known = known_N.tolist()
    columns = [[label - 1 for label in labels] for labels in keys]
    for both in scales_with_flips(
        lambda image: _features_and_cam(model, image), images, scales,
        backbone=model.backbone, device=device, precision=precision,
    ):  # fmt: skip
        features_BChw, cam_BNhw = both.split([model.backbone.channels["layer4"], len(known)], 1)
        unit_BChw = F.normalize(features_BChw, dim=1, eps=SMALLEST_NORM)
        for place, columns_K in enumerate(columns):
            new, old = [c for c in columns_K if known[c]], [c for c in columns_K if not known[c]]
            of_prototypes[place].add(F.relu(torch.einsum("kc,chw->khw", directions_NC[new], unit_BChw[place])))
            of_cam[place].add(cam_BNhw[place][old])
    results = []
    for place, columns_K in enumerate(columns):
        made = {True: iter(of_prototypes[place].finished(0)), False: iter(of_cam[place].finished(EPSILON))}
        results.append(np.stack([next(made[known[column]]) for column in columns_K]))
    return results


def _features_and_cam(model: Classifier, image_BCHW: Tensor) -> Tensor:
    features_BChw = model.features(image_BCHW)
    return torch.cat([features_BChw, F.relu(model.classifier(features_BChw))], 1)
