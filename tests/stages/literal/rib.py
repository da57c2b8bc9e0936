"""RIB, written naively: the classifier is fine-tuned on one image, and the maps of every step are summed.

A reference to compare a fast implementation with, in float64. The comments number the steps of the method:
1 start from the CAM weights · 2 the inputs · 3a maps · 3b stop by coverage · 3c pooling (GNDP) · 3d one step of SGD ·
3e stop by size · 4 the maps are finished as CAM's are. Nothing is cached, chunked or left out.

Legend: H W = pixels of the image, h w = feature grid, N = classes without background, K = classes of the image,
B = rows of a batch, C = channels of an image, S = scales.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from amn_ray.nn.classifier import Classifier

ACTIVE = 0.3
"""A pixel counts as covered if its map is above this share of the map's maximum (step 3b)."""
MAPS_ONLY = 0.5
"""The scale that gives maps, but no rows of the loss (step 3c)."""
POWER = 0.9
"""Of the decay of the learning rate (step 3d)."""

Batch = tuple[Tensor, Tensor]
"""Auxiliary crops (B, 3, h, w) and their targets (B, N)."""


@torch.enable_grad()
def rib_maps(
    network: Classifier,
    pairs: Sequence[Tensor],
    size: tuple[int, int],
    labels: Sequence[int],
    auxiliary: Sequence[Batch | None],
    *,
    scales: Sequence[float] = (1.0, 0.5, 1.5, 2.0),
    steps: int = 10,
    lr_backbone: float = 8e-6,
    lr_head: float = 8e-5,
    weight_decay: float = 1e-4,
    region: float = 0.4,
    coverage: float = 0.7,
    limit: float = 600.0,
) -> tuple[Tensor, int]:
    """Maps of one image.

    Args:
        network: the trained classifier, float64, in eval mode, with its gradient stopped after layer2. Not changed.
        pairs: for each scale the normalised image and its mirror image, float64 (2, 3, H·s, W·s).
        size: of the image, (H, W).
        labels: of the image, 1…N.
        auxiliary: for each step other images, which share no class with this one; None, or a batch of no rows, if
            there are none. If it ends before `steps`, so does the fine-tuning; an entirely empty one stands for a data
            set without any such image, where all steps use the image alone.
        scales: of `pairs`. Without 1.0 nothing stops by coverage.
        steps: the number asked for; the learning rate decays over it.
        lr_backbone: learning rate of layer3 and layer4.
        lr_head: learning rate of the classifier's 1×1 convolution.
        weight_decay: on all that is trained.
        region: pixels below this share of their class's maximum are pooled.
        coverage: stop when the active pixels are more than this share of the grid.
        limit: stop when the pooled logits of the image's rows sum to more than this.

    Returns:
        float64 (K, H, W) in [0, 1], and the number of steps of which maps were summed.
    """
    if not labels:
        return torch.zeros(0, *size, dtype=torch.float64), 0
    assert not network.training
    assert network.detach_after == "layer2"
    # 1 θ ← θ_CAM; the optimiser (plain SGD) has no state.
    network = copy.deepcopy(network)
    network.requires_grad_(True)
    network.backbone.freeze("layer2")
    # 2 The inputs are given; y as a row of zeros and ones.
    positions = [label - 1 for label in labels]
    present_N = torch.zeros(network.classifier.out_channels, dtype=torch.float64)
    present_N[positions] = 1
    batches = list(auxiliary) if len(auxiliary) else [None] * steps
    # 3 As many steps as the loader has batches.
    sums_SKhw: list[Tensor] = []
    taken = 0
    for k in range(min(steps, len(batches))):
        # 3a Logits of the pairs at all scales, and their maps.
        logits_S2Nhw = [network.classifier(network.features(pair)) for pair in pairs]
        maps_SKhw = [both_sides(F.relu(logits)).detach()[positions] for logits in logits_S2Nhw]
        # 3b Stop by coverage at scale 1.0, decided before anything of this step is added.
        if k > 0 and any(
            share_covered(maps) > coverage for maps, scale in zip(maps_SKhw, scales, strict=True) if scale == 1.0
        ):
            break
        # 3a (ended) A_s += …
        sums_SKhw = [total + maps for total, maps in zip(sums_SKhw, maps_SKhw, strict=True)] if k else maps_SKhw
        taken += 1
        # 3c Pool the rows of the image, at all scales but 0.5, and of the auxiliary crops.
        pooled = [
            pool(logits, region) for logits, scale in zip(logits_S2Nhw, scales, strict=True) if scale != MAPS_ONLY
        ]
        target_sum = sum(
            ((rows_2N * present_N).sum() for rows_2N in pooled), start=torch.zeros((), dtype=torch.float64)
        )
        auxiliary_sum = torch.zeros((), dtype=torch.float64)
        batch = batches[k]
        if batch is not None and len(batch[0]):
            crops_BChw, targets_BN = batch
            auxiliary_sum = (pool(network.classifier(network.features(crops_BChw)), region) * targets_BN).sum()
        # 3d One step of SGD.
        loss = -(target_sum + auxiliary_sum)
        decay = (1 - k / steps) ** POWER
        descend(network, loss, lr_backbone * decay, lr_head * decay, weight_decay)
        # 3e Stop by size.
        if abs(target_sum.item()) > limit:
            break
    # 4 As CAM's last steps.
    return finished(sums_SKhw, size, network.backbone.strides["layer4"], len(labels)), taken


def both_sides(maps_2Khw: Tensor) -> Tensor:
    """Step 3a: (image, mirror image) (2, K, h, w) -> image + flipped-back mirror image (K, h, w)."""
    image, mirror = maps_2Khw
    return image + mirror.flip(2)


def share_covered(maps_Khw: Tensor) -> float:
    """Step 3b: the share of the grid that is active in any class. A map that is 0 everywhere covers nothing."""
    covered_hw = torch.zeros(maps_Khw.shape[1:], dtype=torch.bool)
    for map_hw in maps_Khw:
        if map_hw.max() > 0:
            covered_hw |= map_hw / map_hw.max() > ACTIVE
    return covered_hw.double().mean().item()


def pool(logits_BNhw: Tensor, region: float) -> Tensor:
    """Step 3c (GNDP): (B, N, h, w) -> (B, N), the sum of the selected logits / (h·w).

    Selected are pixels below `region` times the maximum of their row and class; none where that is not positive.
    """
    rows = []
    for row_Nhw in logits_BNhw:
        pooled = []
        for class_hw in row_Nhw:
            values_hw = class_hw.detach()
            top = values_hw.max()
            mask_hw = (values_hw / top < region).double() if top > 0 else torch.zeros_like(values_hw)
            pooled.append((class_hw * mask_hw).sum() / class_hw.numel())
        rows.append(torch.stack(pooled))
    return torch.stack(rows)


def descend(network: Classifier, loss: Tensor, lr_backbone: float, lr_head: float, weight_decay: float) -> None:
    """Step 3d: θ ← θ − lr·(∂loss/∂θ + weight decay·θ) for what is not frozen; no momentum."""
    rates = [(parameter, lr_backbone) for parameter in network.backbone.parameters() if parameter.requires_grad]
    rates += [(parameter, lr_head) for parameter in network.classifier.parameters()]
    parameters = [parameter for parameter, _ in rates]
    if loss.requires_grad:
        gradients: Iterable[Tensor] = torch.autograd.grad(loss, parameters)
    else:  # there was no row at all
        gradients = [torch.zeros_like(parameter) for parameter in parameters]
    with torch.no_grad():
        for (parameter, rate), gradient in zip(rates, gradients, strict=True):
            parameter -= rate * (gradient + weight_decay * parameter)


def finished(sums_SKhw: Sequence[Tensor], size: tuple[int, int], stride: int, count: int) -> Tensor:
    """Step 4, CAM's last steps: (K, h, w) of each scale -> (K, H, W), each class divided by its maximum + 1e-5.

    Args:
        sums_SKhw: one for each scale.
        size: of the image, (H, W).
        stride: of the feature grid. The grid of every scale covers the image at scale 1 up to the next multiple of it.
        count: K.
    """
    height, width = size
    covered = (-(-height // stride) * stride, -(-width // stride) * stride)
    total_KHW = torch.zeros(count, height, width, dtype=torch.float64)
    for maps_Khw in sums_SKhw:
        upsampled_KHW = F.interpolate(maps_Khw[None], covered, mode="bilinear", align_corners=False)[0]
        total_KHW = total_KHW + upsampled_KHW[:, :height, :width]
    return total_KHW / (total_KHW.amax(dim=(1, 2), keepdim=True) + 1e-5)
