"""Pixel-adaptive mask refinement: each pixel's scores become the mean of its neighbours', weighted by similarity.

Legend: B = images of one size, H W = their pixels, J = neighbours of a pixel (8 directions for each dilation),
K = classes of one image, C = local labels (0 = background, 1…K = its classes in the maps' order), R = 2 runs, one for
each threshold.

Source: Araslanov and Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020. Their code refines soft
masks on a grid of stride 4; here hard labels are refined at full size, like those that dense CRF refines (ours).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from amn_ray.data.maps import combined_seed, hard_labels
from amn_ray.stages.pamr.config import PamrConfig

DIRECTIONS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
SOFTNESS = 0.1
"""The unit of differences, in standard deviations of the surroundings."""
EPSILON = 1e-8
"""Where nothing differs, 0 / 0 is 0."""


def neighbours(values_BCHW: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """The values of all pixels' j-th neighbours, J views (B, C, H, W); the border is replicated."""
    height, width = values_BCHW.shape[2:]
    reach = max(dilations)
    padded = F.pad(values_BCHW, (reach,) * 4, mode="replicate")
    for dilation in dilations:
        for dy, dx in DIRECTIONS:
            top, left = reach + dy * dilation, reach + dx * dilation
            yield padded[:, :, top : top + height, left : left + width]


def affinities(image_BCHW: Tensor, dilations: Sequence[int]) -> Tensor:
    """The similarity of a pixel and each of its neighbours: (B, J, H, W), sum 1 over the neighbours.

    The softmax of −|x_i − x_j| / (0.1·σ_i), averaged over the channels. σ_i is the (unbiased) standard deviation of all
    pixels of the 3 × 3 windows around i, one for each dilation, so the centre counts once in each.

    Args:
        image_BCHW: RGB, float; neither its scale nor its offset matters.
        dilations: of the neighbours.
    """
    batch, _, height, width = image_BCHW.shape
    count = (len(DIRECTIONS) + 1) * len(dilations)
    # Relative to the centre, which is one of the values: their mean is small, which limits cancellation below.
    total, squares = torch.zeros_like(image_BCHW), torch.zeros_like(image_BCHW)
    for other_BCHW in neighbours(image_BCHW, dilations):
        difference = other_BCHW - image_BCHW
        total += difference
        squares += difference.square_()
    deviation = ((squares - total.square_() / count) / (count - 1)).sqrt_()
    sharpness = (SOFTNESS * deviation + EPSILON).reciprocal_()
    alike = image_BCHW.new_empty(batch, len(DIRECTIONS) * len(dilations), height, width)
    for j, other_BCHW in enumerate(neighbours(image_BCHW, dilations)):
        torch.mean((other_BCHW - image_BCHW).abs_().mul_(sharpness), 1, out=alike[:, j]).neg_()
    alike.sub_(alike.amax(1, keepdim=True)).exp_()
    return alike.div_(alike.sum(1, keepdim=True))


def refine(scores_BCHW: Tensor, affinity_BJHW: Tensor, config: PamrConfig) -> Tensor:
    """Scores (B, C, H, W), replaced `config.iterations` times by the weighted mean of the neighbours'."""
    for _ in range(config.iterations):
        refined = torch.zeros_like(scores_BCHW)
        for j, other_BCHW in enumerate(neighbours(scores_BCHW, config.dilations)):
            refined.addcmul_(affinity_BJHW[:, j : j + 1], other_BCHW)
        scores_BCHW = refined
    return scores_BCHW


@torch.inference_mode()
def refined_seeds(
    images: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
    keys: Sequence[Sequence[int]],
    config: PamrConfig,
    *,
    device: torch.device,
) -> list[np.ndarray]:
    """The refined seeds of images of one size, in float32: in bfloat16, labels change.

    Args:
        images: B uint8 RGB arrays (H, W, 3) of one size.
        maps: for each, float32 maps (K, H, W) of the classes `keys`.
        keys: for each, K labels 1…N.
        config: thresholds, neighbours and number of steps.
        device: where to compute.

    Returns:
        For each image uint8 (H, W), see data.maps.combined_seed.
    """
    image_BHWC = torch.from_numpy(np.stack(images)).to(device)
    affinity_BJHW = affinities(image_BHWC.permute(0, 3, 1, 2).float(), config.dilations)
    labels_BRHW = np.stack([[hard_labels(one, tau) for tau in (config.conf_fg, config.conf_bg)] for one in maps])
    # A class that an image lacks never appears in it.
    num_labels = 1 + max(len(labels) for labels in keys)
    one_hot_BRHWC = F.one_hot(torch.from_numpy(labels_BRHW).to(device).long(), num_labels)
    one_hot_BRCHW = one_hot_BRHWC.movedim(4, 2).float()
    refined = refine(one_hot_BRCHW.flatten(1, 2), affinity_BJHW, config).view(one_hot_BRCHW.shape)
    refined_BRHW = refined.argmax(2).cpu().numpy()
    return [
        combined_seed(sure_foreground, any_foreground, labels)
        for (sure_foreground, any_foreground), labels in zip(refined_BRHW, keys, strict=True)
    ]
