"""ReCAM's loss: softmax among the classes, on features pooled by each class's own map (Chen et al., CVPR 2022)."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from amn_ray.nn.class_activation import EPSILON


def recam_losses(
    features_BChw: Tensor, weights_NC: Tensor, head_NC: Tensor, targets_BN: Tensor
) -> tuple[Tensor, Tensor]:
    """The two losses of a batch; nothing is detached.

    Legend: B = images, C = channels, h w = feature grid, N = classes.

    Args:
        features_BChw: layer4's output.
        weights_NC: w, the classifier.
        head_NC: W', the new one.
        targets_BN: 0 or 1.

    Returns:
        The multi-label loss of the pooled logits; and the cross-entropy of W' on features pooled by the maps of the
        image's own classes: its mean over these, summed over images and divided by B. An image without a class adds
        nothing.
    """
    logits_BN = features_BChw.mean((2, 3)) @ weights_NC.T
    loss_cls = F.multilabel_soft_margin_loss(logits_BN, targets_BN)
    image_P, column_P = targets_BN.nonzero(as_tuple=True)
    if not len(image_P):
        return loss_cls, (head_NC * 0).sum()
    maps_BNhw = F.relu(torch.einsum("nc,bchw->bnhw", weights_NC, features_BChw))
    maps_BNhw = maps_BNhw / (maps_BNhw.amax((2, 3), keepdim=True) + EPSILON)
    pooled_BNC = torch.einsum("bnhw,bchw->bnc", maps_BNhw, features_BChw) / maps_BNhw[0, 0].numel()
    scores_PN = pooled_BNC[image_P, column_P] @ head_NC.T
    entropy_P = F.cross_entropy(scores_PN, column_P, reduction="none")
    return loss_cls, (entropy_P / targets_BN.sum(1)[image_P]).sum() / len(targets_BN)
