"""AdvCAM: an image climbs its class's score step by step, and the maps on the way are summed (Lee et al., CVPR 2021).

docs/rivals.md has the steps; the released code is obtain_CAM_masking.py of AdvCAM.

Legend: J = pairs that climb together (one image and one of its classes each), 2 = image and mirror image, N = classes,
K = classes of one image, H W = pixels at a scale, h w = its stride-16 grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from amn_ray.nn.class_activation import SumOfScales
from amn_ray.nn.classifier import Classifier
from amn_ray.nn.multiscale import scaled, with_mirror_images
from amn_ray.nn.precision import autocast, wide
from amn_ray.stages.advcam.config import AdvCamConfig

PIXELS_PER_PASS = {"cpu": 2**18, "cuda": 2**21}
"""Pixels that climb together, by device; the whole network's graph is kept for them."""


def advcam_maps(
    model: Classifier,
    images: Sequence[np.ndarray],
    keys: Sequence[Sequence[int]],
    config: AdvCamConfig,
    device: torch.device,
) -> list[np.ndarray]:
    """AdvCAM's maps of images of one size, for the classes of each image.

    Args:
        model: in eval mode, on `device`; its weights do not change.
        images: B uint8 RGB arrays (H, W, 3) of one size.
        keys: for each image, its labels 1…N.
        config: its settings.
        device: where `model` is.

    Returns:
        For each image float (K, ⌈H/4⌉, ⌈W/4⌉) in [0, 1].
    """
    model.requires_grad_(False)
    sums = [SumOfScales(image, model.backbone) for image in images]
    climbing = [(place, label) for place, labels in enumerate(keys) for label in labels]
    for scale in config.scales:
        pair_B2CHW = with_mirror_images(scaled(images, scale, model.backbone, device))
        steps = steps_at(scale, config.steps)
        weight = 1 / steps if config.equal_scales else factor(config)
        at_once = max(1, PIXELS_PER_PASS[device.type] // pair_B2CHW[0, :, 0].numel())
        made: list[Tensor] = []
        for start in range(0, len(climbing), at_once):
            part = climbing[start : start + at_once]
            made += climb(
                model,
                pair_B2CHW[[place for place, _ in part]],
                torch.tensor([label - 1 for _, label in part], device=device),
                steps,
                config,
            )
        for total, of_image in zip(sums, _split(made, keys), strict=True):
            if of_image:
                total.add(torch.stack(of_image) * weight)
    return [total.finished() for total in sums]


def _split(made: Sequence[Tensor], keys: Sequence[Sequence[int]]) -> list[list[Tensor]]:
    remaining = iter(made)
    return [[next(remaining) for _ in labels] for labels in keys]


def steps_at(scale: float, steps: int) -> int:
    """How many of the steps are made at a scale: at 0.5 half of them, as the released code does."""
    if scale != 0.5 or steps < 6:
        return steps
    return 5 if steps <= 10 else steps // 2


def factor(config: AdvCamConfig) -> int:
    """What the released code multiplies the maps of all scales by: it means scale 0.5 alone, and never resets it.

    It cancels when a map is divided by its maximum, up to the 1e-5 that is added there.
    """
    return 2 if 0.5 in config.scales and config.steps > 10 else 1


def climb(model: Classifier, pair_J2CHW: Tensor, column_J: Tensor, steps: int, config: AdvCamConfig) -> Tensor:
    """The sum of the maps R_0 … R_T−1 of pairs that climb their class's score.

    Args:
        model: with frozen weights.
        pair_J2CHW: normalised images and their mirror images, at one scale.
        column_J: the class of each pair, 0…N−1.
        steps: T.
        config: the other settings.

    Returns:
        (J, h, w); the mirror image's maps are flipped back.
    """
    device = pair_J2CHW.device
    places_J = torch.arange(len(column_J), device=device)
    positive_J = (model.classifier.weight.flatten(1)[column_J] > 0).sum(1)
    total_Jhw = first_Jhw = None
    for step in range(steps):
        last = step == steps - 1  # whose gradient would not be used
        pair_J2CHW = pair_J2CHW.detach().requires_grad_(not last)
        with torch.set_grad_enabled(not last):
            with autocast(device, config.precision):
                image = pair_J2CHW.flatten(0, 1).contiguous(memory_format=torch.channels_last)
                logits = model.classifier(model.backbone(image))
            active_J2Nhw = F.relu(wide(logits)).unflatten(0, (len(column_J), 2))
            map_Jhw = grad_cam(active_J2Nhw[places_J, :, column_J], positive_J)
            now_Jhw = map_Jhw.detach()
            total_Jhw = now_Jhw if total_Jhw is None else total_Jhw + now_Jhw
            if last:
                break
            first_Jhw = now_Jhw if first_Jhw is None else first_Jhw
            highest_J11 = now_Jhw.amax((1, 2), keepdim=True)
            regional_Jhw = torch.where(highest_J11 > 0, now_Jhw / highest_J11, 0) > config.region
            score_JN = active_J2Nhw.mean((3, 4)).sum(1)
            own_J = score_JN[places_J, column_J]
            change_J = (regional_Jhw * (map_Jhw - first_Jhw).abs()).sum((1, 2))
            # Of pairs that do not touch each other the gradient of the sum is that of each.
            aim = (own_J - (score_JN.sum(1) - own_J) - config.penalty * change_J).sum()
            (gradient_J2CHW,) = torch.autograd.grad(aim, pair_J2CHW)
        pair_J2CHW = _stepped(pair_J2CHW.detach(), gradient_J2CHW, config.step_size)
    assert total_Jhw is not None
    return total_Jhw


def grad_cam(own_J2hw: Tensor, positive_J: Tensor) -> Tensor:
    """R: Grad-CAM at layer4 of the sum of a class's positive logits, of image and mirror image together.

    For a linear head it is the positive logits themselves, weighted by the share of the positive pixels that is in
    their image, and divided by the number of the classifier's positive weights. The weights carry no gradient.

    Args:
        own_J2hw: the positive logits of each pair's class.
        positive_J: the number of positive weights of that class.

    Returns:
        (J, h, w).
    """
    pixels_J2 = (own_J2hw > 0).sum((2, 3))
    divisor_J1 = pixels_J2.sum(1, keepdim=True) * positive_J[:, None]
    factor_J2 = torch.where(divisor_J1 > 0, pixels_J2 / divisor_J1.clamp(min=1).to(own_J2hw.dtype), 0)
    weighted_J2hw = own_J2hw * factor_J2[..., None, None]
    return weighted_J2hw[:, 0] + weighted_J2hw[:, 1].flip(2)


def _stepped(pair_J2CHW: Tensor, gradient_J2CHW: Tensor, step_size: float) -> Tensor:
    """One step along the gradient, whose largest entry becomes `step_size`; within the pair's own range of values."""
    dims = (1, 2, 3, 4)
    largest = gradient_J2CHW.abs().amax(dims, keepdim=True)
    low, high = pair_J2CHW.amin(dims, keepdim=True), pair_J2CHW.amax(dims, keepdim=True)
    return (pair_J2CHW + step_size * gradient_J2CHW / (largest + 1e-12)).clamp(low, high)
