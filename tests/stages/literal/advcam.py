"""AdvCAM, written naively: the image is changed so that a class's score climbs; the maps on the way are summed.

A reference to compare a fast implementation with, in float64. The comments number the steps of the method:
1a Grad-CAM · 1b sum · 1c pooled scores and mask · 1d objective · 1e change of the image · 2 the maps are finished as
CAM's are. Grad-CAM comes from a gradient, not from the closed formula for a linear head; every class and scale is done
on its own, and the last step's change of the image is computed although nothing uses it.

Legend: H W = pixels of the image, h w = feature grid, N = classes without background, K = classes of the image,
C = channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from amn_ray.nn.classifier import Classifier
from tests.stages.literal.rib import both_sides, finished

SHORT = 0.5
"""The scale with fewer steps."""


@torch.enable_grad()
def advcam_maps(
    network: Classifier,
    pairs: Sequence[Tensor],
    size: tuple[int, int],
    labels: Sequence[int],
    *,
    scales: Sequence[float] = (0.5, 1.0, 1.5, 2.0),
    steps: int = 27,
    step_size: float = 0.08,
    penalty: float = 7.0,
    region: float = 0.5,
    equal_weights: bool = False,
) -> Tensor:
    """Maps of one image.

    Args:
        network: the trained classifier, float64, in eval mode, without a stop of the gradient. Not changed.
        pairs: for each scale the normalised image and its mirror image, float64 (2, 3, H·s, W·s).
        size: of the image, (H, W).
        labels: of the image, 1…N.
        scales: of `pairs`.
        steps: the number asked for; see `steps_at`.
        step_size: ξ, the largest change of a value in one step.
        penalty: λ, the weight of the changes of the map where it is high.
        region: pixels above this share of the map's maximum are held.
        equal_weights: divide the sum of each scale by its steps, instead of the published weights.

    Returns:
        float64 (K, H, W) in [0, 1].
    """
    if not labels:
        return torch.zeros(0, *size, dtype=torch.float64)
    assert not network.training
    assert network.detach_after is None
    classes_1HW = []
    for label in labels:
        sums_1hw = []
        for pair_2CHW, scale in zip(pairs, scales, strict=True):
            count = steps_at(scale, steps)
            # 1
            maps_hw, _ = climb(
                network, pair_2CHW, label, steps=count, step_size=step_size, penalty=penalty, region=region
            )
            # 1b A_s,c += R_t
            if maps_hw:
                total_hw = torch.stack(maps_hw).sum(0)
                weight = 1 / count if equal_weights else factor(scales, steps)
                sums_1hw.append(total_hw[None] * weight)
        # 2
        classes_1HW.append(finished(sums_1hw, size, network.backbone.strides["layer4"], 1))
    return torch.cat(classes_1HW)


def steps_at(scale: float, steps: int) -> int:
    """Steps at a scale when `steps` were asked for: at scale 0.5 all of up to 5, 5 of up to 10, else half."""
    if scale != SHORT or steps < 6:
        return steps
    return 5 if steps <= 10 else steps // 2


def factor(scales: Sequence[float], steps: int) -> int:
    """What the sums of *every* scale are multiplied by: meant for scale 0.5, but never reset by the released code."""
    return 2 if SHORT in scales and steps > 10 else 1


def climb(
    network: Classifier,
    pair_2CHW: Tensor,
    label: int,
    *,
    steps: int,
    step_size: float,
    penalty: float,
    region: float,
) -> tuple[list[Tensor], list[Tensor]]:
    """Step 1 at one scale, for one class.

    Returns:
        R_t (h, w) of each step, and the inputs (2, 3, H, W) that gave them, followed by the last one, which gave none.
    """
    position = label - 1
    x_2CHW = pair_2CHW.detach().clone()
    inputs, maps_hw = [x_2CHW], []
    for _ in range(steps):
        x_2CHW = x_2CHW.clone().requires_grad_(True)
        # 1a Logits of the pair, and Grad-CAM.
        features_2Chw = network.features(x_2CHW)
        logits_2Nhw = network.classifier(features_2Chw)
        map_hw = grad_cam(features_2Chw, logits_2Nhw, position)
        # 1b
        maps_hw.append(map_hw.detach())
        # 1c Pooled scores; the mask of what is high, nothing of a map that is 0 everywhere.
        scores_N = F.relu(logits_2Nhw).mean(dim=(2, 3)).sum(0)
        top = maps_hw[-1].max()
        mask_hw = (maps_hw[-1] / top > region).double() if top > 0 else torch.zeros_like(maps_hw[-1])
        # 1d
        others = sum((score for j, score in enumerate(scores_N) if j != position), start=torch.zeros_like(top))
        change = (mask_hw * (map_hw - maps_hw[0]).abs()).sum()
        objective = scores_N[position] - others - penalty * change
        # 1e
        (gradient_2CHW,) = torch.autograd.grad(objective, x_2CHW)
        with torch.no_grad():
            moved_2CHW = x_2CHW + step_size * gradient_2CHW / (gradient_2CHW.abs().max() + 1e-12)
            x_2CHW = moved_2CHW.clamp(x_2CHW.min(), x_2CHW.max())
        inputs.append(x_2CHW)
    return maps_hw, inputs


def grad_cam(features_2Chw: Tensor, logits_2Nhw: Tensor, position: int) -> Tensor:
    """Step 1a: R (h, w) of a class, differentiable with respect to the features but for the channels' weights.

    A channel's weight is the sum over pixels of the score's gradient, divided by the number of positive entries of the
    gradient of image and mirror image together; 0 if none is positive.
    """
    score = F.relu(logits_2Nhw[:, position]).sum()
    (gradient_2Chw,) = torch.autograd.grad(score, features_2Chw, retain_graph=True)
    positive = (gradient_2Chw > 0).sum()
    weights_2C11 = gradient_2Chw.sum(dim=(2, 3), keepdim=True)
    weights_2C11 = weights_2C11 / positive if positive > 0 else torch.zeros_like(weights_2C11)
    return both_sides(F.relu((weights_2C11 * features_2Chw).sum(dim=1, keepdim=True)))[0]
