"""ReCAM's network: the classifier, and a second one of its features (Chen et al., CVPR 2022)."""

from __future__ import annotations

import safetensors.torch
import torch
from torch import Tensor, nn

from amn_ray.nn.classifier import Classifier
from amn_ray.nn.config import BackboneConfig
from amn_ray.nn.precision import wide
from amn_ray.stages.recam.loss import recam_losses


class RecamNet(nn.Module):
    """Backbone, the classifier w, and W', both linear and without bias."""

    def __init__(self, backbone: BackboneConfig, num_classes: int) -> None:
        super().__init__()
        network = Classifier(backbone, num_classes, None)
        self.backbone, self.classifier = network.backbone, network.classifier
        self.backbone.freeze("stem")
        channels = self.classifier.in_channels
        self.recam = nn.Linear(channels, num_classes, bias=False)

    def forward(self, image_BCHW: Tensor, targets_BN: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) and labels, multi-hot -> the losses of w and of W'. No layer stops the gradient.

        The losses are a part of the network, so that data-parallel training sees all weights used in it.
        """
        features_BChw = wide(self.backbone(image_BCHW))
        with torch.autocast(image_BCHW.device.type, enabled=False):  # sums and losses in float32
            return recam_losses(features_BChw, self.classifier.weight.flatten(1), self.recam.weight, targets_BN)

    def start_from(self, classifier: bytes) -> None:
        """Take over the backbone and w of a trained classifier (safetensors)."""
        own = {name: value for name, value in self.state_dict().items() if name.startswith("recam.")}
        self.load_state_dict(safetensors.torch.load(classifier) | own)

    def as_classifier(self, config: BackboneConfig, *, product: bool) -> Classifier:
        """A classifier whose CAMs are ReCAM's maps: with W' ⊙ w, or with w alone."""
        result = Classifier(config, self.classifier.out_channels, None)
        result.backbone = self.backbone
        weight = self.classifier.weight
        with torch.no_grad():
            result.classifier.weight = nn.Parameter(weight * self.recam.weight[:, :, None, None] if product else weight)
        return result.eval()
