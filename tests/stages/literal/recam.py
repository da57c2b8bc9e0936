"""ReCAM step by step, slow and in float64: what a fast implementation is compared with.

Every step is written as the method states it, with loops over images and classes, and without any saving. Nothing is
detached.

Legend: B = images of a batch, H W = pixels, h w = stride-16 feature grid, C = channels, N = classes without background,
K = classes of one image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from amn_ray.nn.classifier import Classifier
from tests.stages.literal.lpcam import cam

POWER = 0.9


def loss(
    network: Classifier, head: Tensor, images: Tensor, targets: Tensor, *, weight: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Steps 1 to 3; step 4, the weighted sum, is left to `train`. The network is put into eval mode.

    Args:
        network: in double, without `detach_after`.
        head: W', (N, C).
        images: normalised, (B, 3, H, W).
        targets: 0 or 1, (B, N).
        weight: λ; the losses returned do not depend on it.

    Returns:
        loss_cls and loss_ce, neither weighted.
    """
    network.eval()
    rows = network.classifier.weight[:, :, 0, 0]
    # 1. f = layer4's features; loss_cls = soft margin on GAP(f) · w.
    feature_BChw = network.backbone(images)
    logits_BN = feature_BChw.mean(dim=(2, 3)) @ rows.T
    terms_BN = -(targets * F.logsigmoid(logits_BN) + (1 - targets) * F.logsigmoid(-logits_BN))
    loss_cls = terms_BN.mean(dim=1).mean()
    loss_ce = feature_BChw.new_zeros(())
    for feature_Chw, target_N in zip(feature_BChw, targets, strict=True):
        present = [c for c in range(len(rows)) if target_N[c] > 0]
        cross_entropies = []
        for c in present:
            # 2. a = relu(w_c · f), a ← a / (max a + 1e-5); v_c = mean over all hw pixels of a · f.
            a_hw = F.relu((rows[c][:, None, None] * feature_Chw).sum(dim=0))
            a_hw = a_hw / (a_hw.amax() + 1e-5)
            v_C = (a_hw * feature_Chw).mean(dim=(1, 2))
            # 3. s = W' v_c; −log softmax(s)_c over all N.
            scores_N = (head * v_C).sum(dim=1)
            cross_entropies.append(-F.log_softmax(scores_N, dim=0)[c])
        # 3. The mean over the image's classes; an image without any adds nothing, but counts in B.
        if cross_entropies:
            loss_ce = loss_ce + sum(cross_entropies) / len(cross_entropies) / len(images)
    return loss_cls, loss_ce


def train(
    network: Classifier,
    head: Tensor,
    batches: Sequence[tuple[Tensor, Tensor]],
    *,
    weight: float = 1.0,
    lr_backbone: float = 5e-5,
    lr_head: float = 5e-4,
    weight_decay: float = 1e-4,
) -> None:
    """The whole schedule; changes `network` and `head` in place. Of the backbone all but the stem is trained.

    Args:
        network: in double, without `detach_after`; put into eval mode, so BatchNorm uses its running statistics.
        head: W', (N, C).
        batches: the images and targets of every step of all epochs.
        weight: λ; 1.0 on VOC, 0.1 on COCO.
        lr_backbone: of backbone and w at the first step.
        lr_head: of W' at the first step.
        weight_decay: on all that is trained, BatchNorm's affine parameters and W' included.
    """
    network.eval()
    trained: list[tuple[Tensor, float]] = [
        (parameter, lr_backbone)
        for name, parameter in network.named_parameters()
        if not name.startswith("backbone.stem.")
    ]
    trained.append((head, lr_head))
    for parameter, _ in trained:
        parameter.requires_grad_()
    for step, (images, targets) in enumerate(batches):
        # 4. loss = loss_cls + λ · loss_ce.
        loss_cls, loss_ce = loss(network, head, images, targets, weight=weight)
        total = loss_cls + weight * loss_ce
        # (W' has no gradient if no image of the batch has a class: then it only decays.)
        gradients = torch.autograd.grad(
            total, [parameter for parameter, _ in trained], allow_unused=True, materialize_grads=True
        )
        # SGD without momentum; the learning rate falls as (1 − step/steps)^0.9.
        decline = (1 - step / len(batches)) ** POWER
        with torch.no_grad():
            for (parameter, lr), gradient in zip(trained, gradients, strict=True):
                parameter.sub_(lr * decline * (gradient + weight_decay * parameter))


@torch.no_grad()
def recam_maps(
    network: Classifier,
    head: Tensor,
    pairs: Sequence[Tensor],
    size: tuple[int, int],
    labels: Sequence[int],
    *,
    product: bool = True,
) -> Tensor:
    """The maps of one image: exactly CAM's, with other weights. The network is put into eval mode.

    Args:
        network: in double.
        head: W', (N, C).
        pairs: for each scale the normalised image and its mirror image, (2, 3, H·s, W·s).
        size: (H, W).
        labels: 1…N.
        product: weights W' ⊙ w (VOC) in place of w alone (COCO).

    Returns:
        Maps of `labels` at the image's size, (K, H, W) in [0, 1].
    """
    network.eval()
    weights = network.classifier.weight[:, :, 0, 0]
    if product:
        weights = head * weights
    maps = [cam(network, weights[label - 1], pairs, size) for label in labels]
    return torch.stack(maps) if maps else weights.new_zeros(0, *size)
