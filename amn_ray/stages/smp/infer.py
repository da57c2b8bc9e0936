"""Predicting with the trained network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from amn_ray.core.settings import build
from amn_ray.stages.smp.config import SmpConfig, SmpPredictionsConfig


class Network:
    """The trained network, as `open_network` returns it; see stages.methods.SegmentationNetwork."""

    def __init__(self, network: SmpConfig, predictions: SmpPredictionsConfig, num_classes: int, weights: bytes) -> None:
        from amn_ray.nn.weights import load_module, pick_device
        from amn_ray.stages.smp.model import SmpNet

        self.scales, self.precision = predictions.scales, predictions.precision
        self.device = pick_device()
        self.model = load_module(SmpNet(network.arch, network.encoder, num_classes), weights).to(self.device)

    def logits(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See SegmentationNetwork: logarithms of probabilities, at the size of the image."""
        from amn_ray.stages.smp.model import log_probabilities

        return log_probabilities(self.model, images, self.scales, device=self.device, precision=self.precision)


def open_network(
    network: Mapping[str, Any], predictions: Mapping[str, Any], num_classes: int, weights: bytes
) -> Network:
    """See stages.methods.OpenNetwork."""
    return Network(build(SmpConfig, network), build(SmpPredictionsConfig, predictions), num_classes, weights)
