"""Predicting with the trained network (method 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from amn_ray.core.settings import build
from amn_ray.stages.deeplabv2.config import DeepLabConfig, DeepLabPredictionsConfig


class Network:
    """The trained network, as `open_network` returns it; see stages.methods.SegmentationNetwork."""

    def __init__(
        self, network: DeepLabConfig, predictions: DeepLabPredictionsConfig, num_classes: int, weights: bytes
    ) -> None:
        from amn_ray.nn.weights import load_module, pick_device
        from amn_ray.stages.deeplabv2.model import DeepLabNet

        self.precision = predictions.precision
        self.device = pick_device()
        model = DeepLabNet(network.backbone, num_classes, predictions.scales)
        self.model = load_module(model, weights).to(self.device)

    def logits(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See SegmentationNetwork; at stride 8."""
        from amn_ray.stages.deeplabv2.model import predict

        return predict(self.model, images, device=self.device, precision=self.precision)


def open_network(
    network: Mapping[str, Any], predictions: Mapping[str, Any], num_classes: int, weights: bytes
) -> Network:
    """See stages.methods.OpenNetwork."""
    return Network(build(DeepLabConfig, network), build(DeepLabPredictionsConfig, predictions), num_classes, weights)
