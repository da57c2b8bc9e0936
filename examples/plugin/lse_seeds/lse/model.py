"""The network, and how its scores are pooled.

Legend: B = images, H W = pixels, h w = the grid of layer4, N = classes without background.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from amn_ray.nn.classifier import Classifier
from amn_ray.nn.config import BackboneConfig


class LseClassifier(Classifier):
    """The classifier with another pooling; nothing but its head is trained.

    Class activation maps are made by mean pooling, which asks every pixel of an object for evidence. Log-sum-exp
    pooling lies between the mean and the maximum (Pinheiro and Collobert, CVPR 2015).
    """

    def __init__(self, backbone: BackboneConfig, num_classes: int, sharpness: float) -> None:
        super().__init__(backbone, num_classes, detach_after="layer4")
        self.sharpness = sharpness
        nn.init.zeros_(self.classifier.weight)  # all pixels count alike in the first step

    def train(self, mode: bool = True) -> LseClassifier:
        """Like nn.Module.train, but the backbone stays as it is."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) -> class logits (B, N)."""
        return log_sum_exp_pool(self.classifier(self.features(image_BCHW)), self.sharpness)

    def activation(self, image_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) -> softplus(score), (B, N, h, w): positive also where a class is not seen clearly."""
        return F.softplus(self.classifier(self.features(image_BCHW)))


def log_sum_exp_pool(scores_BNhw: Tensor, sharpness: float) -> Tensor:
    """1/r · log(mean(exp(r · score))) over the pixels: (B, N, h, w) -> (B, N)."""
    count = scores_BNhw.shape[2] * scores_BNhw.shape[3]
    return (torch.logsumexp(sharpness * scores_BNhw, dim=(2, 3)) - math.log(count)) / sharpness
