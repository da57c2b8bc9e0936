"""SEAM on our ResNets step by step, slow and in float64: what a fast implementation is compared with.

Every step is written as the method states it, for one image at a time, with loops over views, classes and pixels, and
without any saving. Without dropout, which only training has. The comments name the parts of the method: PCM 1 the map
that is revised · PCM 2 the features · PCM 3 the affinity; Views · Sizes · cls · rvmin · Shrinking · ER · ECR; SGD;
Maps. The network is in double and is put into eval mode, so BatchNorm uses its running statistics.

Weights, all of 1×1 convolutions without bias: `head` of fc8 (N+1, C), row 0 the background's; `f8_3` (·, C4); `f8_4`
(·, C5); `f9` (·, 3 + rows of f8_3 + rows of f8_4). C4, C5 and C are the channels of layer2, layer3 and layer4.

Legend: B = images of a batch, H W = pixels of the image or view, h w = layer4's grid, N = classes without background,
K = classes of one image, C = channels. A map of N+1 channels has the background in channel 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from amn_ray.data.maps import stored_size
from amn_ray.nn.backbones.backbone import Backbone

E = 1e-5
POWER = 0.9
TOP = 0.2
"""The share of all entries that ECR looks at."""


def max_norm(p_CHW: Tensor) -> Tensor:
    """relu(p − min − 1e-5) / (max − min + 1e-5) of each channel, after a ReLU.

    Nothing is detached: minimum and maximum have gradients, too, which equal pixels share.
    """
    normalised = []
    for p_HW in p_CHW:
        p_HW = F.relu(p_HW)
        low, high = p_HW.min(), p_HW.max()
        normalised.append(F.relu(p_HW - low - E) / (high - low + E))
    return torch.stack(normalised)


def onehot(a_MHW: Tensor) -> Tensor:
    """(N+1, H, W) -> (N+1, H, W), detached; a copy. What is in channel 0 is not used."""
    a_MHW = a_MHW.detach()
    strongest_HW = a_MHW[1:].amax(dim=0)
    # Channel 0 is 1 − max over the foreground, at every pixel.
    channels = [1 - strongest_HW]
    # Of the foreground only each pixel's strongest class stays, with its value; equal ones both. (Of those that are 0
    # it does not matter.)
    for a_HW in a_MHW[1:]:
        channels.append(torch.where(a_HW == strongest_HW, a_HW, torch.zeros_like(a_HW)))
    return torch.stack(channels)


def resized(x_CHW: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, align_corners=True."""
    return F.interpolate(x_CHW[None], tuple(size), mode="bilinear", align_corners=True)[0]


def pcm(
    z_Mhw: Tensor,
    image_3HW: Tensor,
    conv4: Tensor,
    conv5: Tensor,
    f8_3: Tensor,
    f8_4: Tensor,
    f9: Tensor,
    labels: Sequence[int] | None = None,
) -> Tensor:
    """The pixel correlation module. Gradients reach f8_3, f8_4 and f9 only.

    Args:
        z_Mhw: logits (N+1, h, w); the background's are not used.
        image_3HW: the network's input, normalised.
        conv4: layer2's output, (C4, ·, ·), of any grid.
        conv5: layer3's output, (C5, ·, ·), of any grid.
        f8_3, f8_4, f9: see above.
        labels: 1…N, the option in which the other classes are 0 before the maximum. None: all classes compete.

    Returns:
        The revised map (N+1, h, w).
    """
    z_Mhw, image_3HW, conv4, conv5 = (x.detach() for x in (z_Mhw, image_3HW, conv4, conv5))
    h, w = z_Mhw.shape[1:]
    # PCM 1. n_c = relu(relu(z_c) − 1e-5) / (max relu(z_c) + 1e-5).
    n = [torch.zeros_like(z_Mhw[0])]
    for label in range(1, len(z_Mhw)):
        z_hw = F.relu(z_Mhw[label])
        n_hw = F.relu(z_hw - E) / (z_hw.max() + E)
        n.append(n_hw if labels is None or label in labels else torch.zeros_like(n_hw))
    # n_0 = 1 − max n_c; of the foreground only each pixel's strongest class stays: that is onehot.
    n_Mp = onehot(torch.stack(n)).flatten(1)
    # PCM 2. The three inputs on z's grid; conv4 is resized before f8_3.
    input_3p = resized(image_3HW, (h, w)).flatten(1)
    low_p = F.relu(f8_3 @ resized(conv4, (h, w)).flatten(1))
    high_p = F.relu(f8_4 @ resized(conv5, (h, w)).flatten(1))
    phi_p = f9 @ torch.cat([input_3p, low_p, high_p])
    # φ / (‖φ‖ + 1e-5); where φ is 0 the norm has the gradient 0.
    pixels = [phi / (torch.linalg.vector_norm(phi) + E) for phi in phi_p.T]
    # PCM 3. S = relu(φᵀφ), each column divided by its sum + 1e-5; revised = n · S.
    revised = []
    for pixel in pixels:
        column_p = F.relu(torch.stack(pixels) @ pixel)
        column_p = column_p / (column_p.sum() + E)
        revised.append((n_Mp * column_p).sum(dim=1))
    return torch.stack(revised, dim=1).reshape(-1, h, w)


def forward(
    network: Backbone,
    head: Tensor,
    f8_3: Tensor,
    f8_4: Tensor,
    f9: Tensor,
    image_3HW: Tensor,
    labels: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """One normalised image -> z and the revised map, both (N+1, h, w). For `labels` see `pcm`."""
    network.eval()
    levels = {name: feature[0] for name, feature in network.features(image_3HW[None]).items()}
    z_Mhw = (head @ levels["layer4"].flatten(1)).reshape(-1, *levels["layer4"].shape[1:])
    return z_Mhw, pcm(z_Mhw, image_3HW, levels["layer2"], levels["layer3"], f8_3, f8_4, f9, labels)


def losses(
    network: Backbone,
    head: Tensor,
    f8_3: Tensor,
    f8_4: Tensor,
    f9: Tensor,
    images: Tensor,
    targets: Tensor,
    *,
    view_factor: float = 0.3,
    known_labels: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four parts of the loss of a batch, which `train` adds.

    Args:
        network: the backbone.
        head, f8_3, f8_4, f9: see above.
        images: normalised crops, (B, 3, H, W); their padding counts as image.
        targets: 0 or 1, (B, N).
        view_factor: side of the second view in sides of the crop.
        known_labels: give the labels to `pcm`.

    Returns:
        cls (the soft margin alone), rvmin, ER and ECR; means over the images. cls and rvmin are means over the two
        views, ECR is a sum.
    """
    cls, rvmin, er, ecr = (images.new_zeros(()) for _ in range(4))
    for image_3HW, target_N in zip(images, targets, strict=True):
        present = [label for label in range(1, len(head)) if target_N[label - 1] > 0]
        # Views. The second is the crop at floor(factor · side), a product in floating point. Neither is detached.
        shrunk = [math.floor(view_factor * side) for side in image_3HW.shape[1:]]
        a, r = [], []
        for view_3HW in (image_3HW, resized(image_3HW, shrunk)):
            z_Mhw, revised_Mhw = forward(
                network, head, f8_3, f8_4, f9, view_3HW, labels=present if known_labels else None
            )
            # Sizes. Both are upsampled to the view's size.
            z_MHW, revised_MHW = (resized(x, view_3HW.shape[1:]) for x in (z_Mhw, revised_Mhw))
            # cls. Soft margin on the upsampled map's GAP, N foreground channels.
            logits_N = z_MHW[1:].mean(dim=(1, 2))
            terms_N = -(target_N * F.logsigmoid(logits_N) + (1 - target_N) * F.logsigmoid(-logits_N))
            cls = cls + terms_N.mean() / 2 / len(images)
            # rvmin. Max over the present classes, mean of the floor(HW/4) smallest pixels; 0 without a class.
            if present:
                values = revised_MHW[present].amax(dim=0).flatten().sort().values
                rvmin = rvmin + values[: len(values) // 4].mean() / 2 / len(images)
            # Shrinking. max_norm at the view's own size, then to the second view's size, then times the label; the
            # background's is 1.
            label_M11 = torch.cat([target_N.new_ones(1), target_N])[:, None, None]
            a.append(resized(max_norm(z_MHW), shrunk) * label_M11)
            r.append(resized(max_norm(revised_MHW), shrunk) * label_M11)
        # ER. Mean over the foreground channels, those of absent classes included.
        er = er + (a[0][1:] - a[1][1:]).abs().mean() / len(images)
        # ECR. Each view's revised map beside the other view's map; the largest k of all entries together, over k.
        for own, other in ((0, 1), (1, 0)):
            entries = (onehot(a[other]) - r[own]).abs().flatten()
            k = math.floor(TOP * len(entries))
            ecr = ecr + entries.sort(descending=True).values[:k].sum() / k / len(images)
    return cls, rvmin, er, ecr


def train(
    network: Backbone,
    head: Tensor,
    f8_3: Tensor,
    f8_4: Tensor,
    f9: Tensor,
    batches: Sequence[tuple[Tensor, Tensor]],
    *,
    view_factor: float = 0.3,
    known_labels: bool = False,
    lr: float = 0.01,
    lr_factor: float = 10.0,
    weight_decay: float = 5e-4,
) -> None:
    """The whole schedule; changes `network` and the four weights in place. The weights after the last step count.

    Args:
        network: the backbone.
        head, f8_3, f8_4, f9: see above.
        batches: the images and targets of every step of all epochs.
        view_factor, known_labels: see `losses`.
        lr: of the backbone at the first step.
        lr_factor: times as large for head, f8_3, f8_4 and f9.
        weight_decay: on all that is trained.
    """
    network.eval()
    # SGD. The stem and every BatchNorm are frozen: its statistics by eval mode, its affine parameters here.
    frozen = {
        id(parameter)
        for module in network.modules()
        if isinstance(module, nn.BatchNorm2d)
        for parameter in module.parameters()
    }
    trained: list[tuple[Tensor, float]] = [
        (parameter, lr)
        for name, parameter in network.named_parameters()
        if not name.startswith("stem.") and id(parameter) not in frozen
    ]
    trained += [(weight, lr * lr_factor) for weight in (head, f8_3, f8_4, f9)]
    for parameter, _ in trained:
        parameter.requires_grad_()
    for step, (images, targets) in enumerate(batches):
        # loss = cls + rvmin + ER + ECR.
        total = sum(
            losses(network, head, f8_3, f8_4, f9, images, targets, view_factor=view_factor, known_labels=known_labels),
            start=images.new_zeros(()),
        )
        gradients = torch.autograd.grad(total, [parameter for parameter, _ in trained])
        # No momentum; the learning rate falls as (1 − step/steps)^0.9.
        decline = (1 - step / len(batches)) ** POWER
        with torch.no_grad():
            for (parameter, rate), gradient in zip(trained, gradients, strict=True):
                parameter.sub_(rate * decline * (gradient + weight_decay * parameter))


@torch.no_grad()
def seam_maps(
    network: Backbone,
    head: Tensor,
    f8_3: Tensor,
    f8_4: Tensor,
    f9: Tensor,
    sides: Sequence[Tensor],
    size: tuple[int, int],
    labels: Sequence[int],
    *,
    known_labels: bool = False,
    stored: bool = False,
) -> Tensor:
    """The maps of one image.

    Args:
        network: the backbone.
        head, f8_3, f8_4, f9: see above.
        sides: for each scale the normalised image and its mirror image, (2, 3, H·s, W·s).
        size: (H, W).
        labels: 1…N.
        known_labels: give the labels to `pcm`.
        stored: on the grid of our tables, ⌈H/4⌉ × ⌈W/4⌉, in place of the image's pixels.

    Returns:
        Maps of `labels`, (K, H, W) in [0, 1].
    """
    size = stored_size(*size) if stored else size
    total_KHW = head.new_zeros(len(labels), *size)
    if not labels:
        return total_KHW
    for pair in sides:
        for side, image_3HW in enumerate(pair):
            # Maps. The revised foreground channels, upsampled to the scaled input's size as in training …
            _, revised_Mhw = forward(network, head, f8_3, f8_4, f9, image_3HW, labels=labels if known_labels else None)
            revised_MHW = resized(revised_Mhw, image_3HW.shape[1:])
            # … then to the image or the stored grid, with its own corners; no smoothing where this shrinks.
            revised_MHW = F.interpolate(revised_MHW[None], size, mode="bilinear", align_corners=False)[0]
            # Only the labels; flipped back; summed over sides and scales.
            revised_KHW = revised_MHW[list(labels)]
            total_KHW = total_KHW + (revised_KHW.flip(2) if side == 1 else revised_KHW)
    # max_norm of the sum, by its minimum and maximum at this size.
    return max_norm(total_KHW)
