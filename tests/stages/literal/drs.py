"""DRS, written naively: maxima are suppressed inside the network, so that a class's other parts count.

A reference to compare a fast implementation with, in float64. The comments name the steps of the method: the module ·
the backbone · 1 training · 2 maps · 3 refinement. Every image and every channel is done on its own, nothing is
detached, and gradients are left to autograd.

Legend: B = images of a batch, H W = pixels of an image, S = side of a square, h w = grid of a level, C = channels,
N = classes without background, K = classes of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from amn_ray.nn.classifier import Classifier

SIDES = (256, 320, 384)
"""Of the squares that maps are made at (step 2)."""
FACTORS = {"weight": 1, "bias": 2, "new weight": 10, "new bias": 20}
"""Of the learning rate (step 1). The matrices W of the modules are new weights, too."""
DECAYS = (5, 10)
"""Epochs, counted from 1, before which the learning rate falls (step 1)."""
POOLED_AFTER = (2, 4, 7, 10)
"""The numbers of convolutions that are done when pool1…pool4 come."""
DILATED = (11, 12, 13)
"""conv5_1…conv5_3, counted from 1."""

Convolution = tuple[Tensor, Tensor]
"""Weight and bias."""
Network = Callable[[Tensor], Tensor]
"""A normalised image (3, H, W) -> logits (N, h, w)."""
Batch = TypeVar("Batch")


def suppress(
    features_Chw: Tensor, delta: float | None = None, gate_CC: Tensor | None = None, valid_hw: Tensor | None = None
) -> Tensor:
    """The DRS module on one image.

    A pixel at exactly δ·m is not clipped, so it keeps its own gradient. Of several equal maxima the first is m.

    Args:
        features_Chw: x, before the ReLU (which changes nothing if it was already done).
        delta: δ of the fixed module, above 0.
        gate_CC: W of the learnable one, instead. With neither this is a ReLU.
        valid_hw: bool, the positions that the maximum and the mean are taken over (ours); None for all of them.
            Positions that are not valid are clipped as the others are.

    Returns:
        (C, h, w).
    """
    assert delta is None or (delta > 0 and gate_CC is None)
    channels, height, width = features_Chw.shape
    if valid_hw is None:
        valid_hw = torch.ones(height, width, dtype=torch.bool)
    # relu(x); its maximum m and its mean, per channel.
    active = [F.relu(channel_hw) for channel_hw in features_Chw]
    maxima, means = [], []
    for channel_hw in active:
        values = channel_hw[valid_hw]
        maxima.append(values[values.argmax()])
        means.append(values.sum() / len(values))
    suppressed = []
    for c in range(channels):
        if delta is not None:
            # Fixed: min(relu(x), δ·m).
            limit = delta * maxima[c]
        elif gate_CC is not None:
            # Learnable: min(relu(x), g·m), g = sigmoid(W · GAP(relu(x))).
            limit = torch.sigmoid((gate_CC[c] * torch.stack(means)).sum()) * maxima[c]
        else:
            suppressed.append(active[c])
            continue
        suppressed.append(torch.where(active[c] > limit, limit, active[c]))
    return torch.stack(suppressed)


def vgg_logits(
    image_3HW: Tensor, convs: Sequence[Convolution], gates: Sequence[Tensor] | None = None, delta: float | None = None
) -> Tensor:
    """The backbone: VGG-16 at stride 8, with a head, and a DRS module in place of each ReLU.

    Args:
        image_3HW: normalised.
        convs: the 13 of torchvision's `vgg16.features` in order, the three 3×3 ones that are new, and the 1×1 one to N.
        gates: W (C, C) of the 16 learnable modules.
        delta: δ of 16 fixed modules, instead. With neither, ReLUs: the second network (step 3).

    Returns:
        (N, h, w); each of three poolings halves the grid and rounds down.
    """
    assert len(convs) == 17
    assert gates is None or len(gates) == 16
    feature_Chw = image_3HW
    for number, (weight, bias) in enumerate(convs[:-1], start=1):
        # conv5_1…conv5_3 are dilated by 2; the others, the new ones included, are not dilated.
        dilation = 2 if number in DILATED else 1
        feature_Chw = F.conv2d(feature_Chw[None], weight, bias, padding=dilation, dilation=dilation)[0]
        feature_Chw = suppress(feature_Chw, delta, None if gates is None else gates[number - 1])
        if number in POOLED_AFTER[:3]:
            feature_Chw = F.max_pool2d(feature_Chw[None], 2, stride=2)[0]
        elif number == POOLED_AFTER[3]:
            # pool4: 3×3, stride 1, padding 1; pool5 is dropped.
            feature_Chw = F.max_pool2d(feature_Chw[None], 3, stride=1, padding=1)[0]
    # 1×1 to N with bias; no ReLU follows.
    weight, bias = convs[-1]
    return F.conv2d(feature_Chw[None], weight, bias)[0]


def resnet_logits(
    network: Classifier,
    image_3HW: Tensor,
    gates: Sequence[Tensor] | None = None,
    delta: float | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """A DRS module after each of layer1…layer4 of another backbone (ours). The network is put into eval mode.

    Args:
        network: in double. Its `detach_after` is ignored.
        image_3HW: normalised.
        gates: W (C, C) of the four learnable modules.
        delta: δ of four fixed modules, instead. With neither, the network itself, without modules.
        valid: bool (H, W), the pixels that are no padding.

    Returns:
        (N, h, w).
    """
    assert gates is None or len(gates) == 4
    network.eval()
    feature_Chw = network.backbone.stem(image_3HW[None])[0]
    for number, level in enumerate(("layer1", "layer2", "layer3", "layer4")):
        feature_Chw = getattr(network.backbone, level)(feature_Chw[None])[0]
        if gates is None and delta is None:
            continue
        height, width = feature_Chw.shape[1:]
        valid_hw = None if valid is None else cells(valid, network.backbone.strides[level], (height, width))
        feature_Chw = suppress(feature_Chw, delta, None if gates is None else gates[number], valid_hw)
    return network.classifier(feature_Chw[None])[0]


def cells(valid_HW: Tensor, stride: int, grid: tuple[int, int]) -> Tensor:
    """The valid positions of a grid: those with a valid pixel in their cell of stride × stride (ours)."""
    valid_hw = torch.zeros(grid, dtype=torch.bool)
    for i in range(grid[0]):
        for j in range(grid[1]):
            cell = valid_HW[i * stride : (i + 1) * stride, j * stride : (j + 1) * stride]
            valid_hw[i, j] = bool(cell.any())
    return valid_hw


def loss(logits: Sequence[Tensor], targets_BN: Tensor, valid: Sequence[Tensor] | None = None) -> Tensor:
    """Step 1: the multilabel soft margin of the pooled logits.

    Args:
        logits: (N, h, w) of each image.
        targets_BN: 0 or 1.
        valid: bool (h, w) of each image, the positions that are pooled (ours); None for all of them.
    """
    terms = []
    for b, logits_Nhw in enumerate(logits):
        for c, class_hw in enumerate(logits_Nhw):
            # GAP of the logit map, without a ReLU.
            values = class_hw.flatten() if valid is None else class_hw[valid[b]]
            score = values.sum() / len(values)
            # −(y·log sigmoid(s) + (1 − y)·log(1 − sigmoid(s))); the mean over the classes, then over the images.
            target = targets_BN[b, c]
            term = -(target * F.logsigmoid(score) + (1 - target) * F.logsigmoid(-score))
            terms.append(term / len(logits_Nhw) / len(logits))
    return torch.stack(terms).sum()


def rate(kind: str, epoch: int, lr: float = 1e-3) -> float:
    """Step 1: the learning rate of a kind of parameter (see `FACTORS`) in an epoch, which are counted from 1."""
    value = lr * FACTORS[kind]
    for decay in DECAYS:
        if epoch >= decay:
            value *= 0.1
    return value


def train(
    parameters: Mapping[str, Sequence[Tensor]],
    epochs: Sequence[Sequence[Batch]],
    loss_of: Callable[[Batch], Tensor],
    *,
    lr: float = 1e-3,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> None:
    """Step 1: SGD with Nesterov's momentum; changes `parameters` in place.

    Args:
        parameters: leaves, by kind (see `FACTORS`).
        epochs: the batches of each epoch.
        loss_of: of a batch, with the parameters as they are.
        lr: of old weights in the first epochs.
        momentum: μ.
        weight_decay: on everything, biases included.
    """
    kinds = [(parameter, kind) for kind, group in parameters.items() for parameter in group]
    for parameter, _ in kinds:
        parameter.requires_grad_()
    velocities = [torch.zeros_like(parameter) for parameter, _ in kinds]
    for epoch, batches in enumerate(epochs, start=1):
        for batch in batches:
            gradients = torch.autograd.grad(
                loss_of(batch), [parameter for parameter, _ in kinds], allow_unused=True, materialize_grads=True
            )
            for number, ((parameter, kind), gradient) in enumerate(zip(kinds, gradients, strict=True)):
                with torch.no_grad():
                    # d = gradient + decay·θ; v ← μ·v + d; θ ← θ − rate·(d + μ·v). (PyTorch's form: the rate is not
                    # in v, so v is kept when the rate falls.)
                    step = gradient + weight_decay * parameter
                    velocities[number] = momentum * velocities[number] + step
                    parameter -= rate(kind, epoch, lr) * (step + momentum * velocities[number])


@torch.no_grad()
def maps(
    logits_of: Network,
    square_3SS: Tensor,
    size: tuple[int, int],
    labels: Sequence[int],
    *,
    sides: Sequence[int] = SIDES,
) -> Tensor:
    """Step 2: the maps of one image.

    Args:
        logits_of: the trained network.
        square_3SS: the image squeezed to a square and normalised.
        size: of the image, (H, W).
        labels: of the image, 1…N.
        sides: of the squares that the network sees.

    Returns:
        Maps of `labels`, (K, H, W) in [0, 1].
    """
    found = []
    for label in labels:
        scales_HW = []
        for side in sides:
            # The tensor to side × side: bilinear, align_corners=False, no antialiasing.
            class_hw = logits_of(resized(square_3SS, side))[label - 1]
            # relu(z), straight to the image's size (align_corners=True), divided by own max + 1e-5.
            map_HW = upsampled(F.relu(class_hw), size)
            scales_HW.append(map_HW / (map_HW.max() + 1e-5))
        # The maximum over the scales.
        found.append(torch.stack(scales_HW).amax(dim=0))
    return torch.stack(found) if found else square_3SS.new_zeros(0, *size)


@torch.no_grad()
def targets(maps_NHW: Tensor) -> Tensor:
    """Step 3: what the second network learns.

    Args:
        maps_NHW: of all classes at the size they are learnt at; zeros for absent ones.

    Returns:
        (N, H, W): at each pixel the strongest class alone; equal classes all stay.
    """
    # Read as floor(255·a), at most 254.
    codes_NHW = (255 * maps_NHW).floor().clamp(max=254)
    targets_NHW = torch.zeros_like(codes_NHW)
    for c in range(len(codes_NHW)):
        strongest_HW = codes_NHW[c] == codes_NHW.amax(dim=0)
        # The target is code/255. (Compared are the codes, so classes that are equal when read are ties.)
        targets_NHW[c][strongest_HW] = codes_NHW[c][strongest_HW] / 255
    return targets_NHW


def second_loss(outputs: Sequence[Tensor], learnt: Sequence[Tensor]) -> Tensor:
    """Step 3: the mean over the batch, all N classes and all pixels of the squared difference.

    Args:
        outputs: the second network's logits (N, h, w) of each image; without a ReLU.
        learnt: `targets`, (N, H, W), of each image, all of one size.
    """
    terms = []
    for output_Nhw, target_NHW in zip(outputs, learnt, strict=True):
        height, width = target_NHW.shape[1:]
        for output_hw, target_HW in zip(output_Nhw, target_NHW, strict=True):
            difference_HW = upsampled(output_hw, (height, width)) - target_HW
            terms.append((difference_HW**2).sum() / target_NHW.numel() / len(outputs))
    return torch.stack(terms).sum()


@torch.no_grad()
def second_maps(
    logits_of: Network,
    square_3SS: Tensor,
    size: tuple[int, int],
    labels: Sequence[int],
    *,
    sides: Sequence[int] = SIDES,
) -> Tensor:
    """Step 3: the maps of one image from the second network.

    The arguments are those of `maps`.

    Returns:
        Maps of `labels`, (K, H, W), not negative. They may exceed 1 where the network's output does.
    """
    found = []
    for label in labels:
        # The maximum over the scales and 0; nothing is divided.
        map_HW = square_3SS.new_zeros(size)
        for side in sides:
            class_hw = logits_of(resized(square_3SS, side))[label - 1]
            map_HW = torch.maximum(map_HW, upsampled(class_hw, size))
        found.append(map_HW)
    return torch.stack(found) if found else square_3SS.new_zeros(0, *size)


def resized(square_3SS: Tensor, side: int) -> Tensor:
    """Step 2: the tensor as the network sees it."""
    return F.interpolate(
        square_3SS[None], (side, side), mode="bilinear", align_corners=False, antialias=False
    )[0]  # fmt: skip


def upsampled(map_hw: Tensor, size: tuple[int, int]) -> Tensor:
    """Steps 2 and 3: a map of the grid at another size."""
    return F.interpolate(map_hw[None, None], size, mode="bilinear", align_corners=True)[0, 0]
