"""torchvision's ResNets with output stride 16 or 8."""

from __future__ import annotations

from collections.abc import Mapping

import torchvision
from torch import Tensor, nn

from amn_ray.nn.backbones.backbone import LEVELS, Backbone
from amn_ray.nn.config import STRIDE, BackboneConfig

DILATIONS: Mapping[int, Mapping[str, int]] = {16: {"layer4": 1}, 8: {"layer3": 2, "layer4": 4}}
"""By output stride: the layers whose stride becomes 1, and their dilations."""


class ResNet(Backbone):
    """The stem (to its max-pooling) and the four residual layers.

    At output stride 16, layer4 has stride 1 and no dilation (method, Backbone); at 8, layer3 and layer4 have stride 1
    and dilations 2 and 4 (method 9).
    """

    def __init__(self, config: BackboneConfig, output_stride: int = STRIDE) -> None:
        super().__init__()
        if output_stride not in DILATIONS:
            raise ValueError(f"name={config.name}: has no output stride {output_stride}, only 16 or 8")
        net = getattr(torchvision.models, config.name)(weights=None)
        block = net.layer4[0]
        # (torchvision's replace_stride_with_dilation rejects basic blocks, and leaves the first block undilated.)
        for layer, dilation in DILATIONS[output_stride].items():
            for module in getattr(net, layer).modules():
                if isinstance(module, nn.Conv2d):
                    module.stride = (1, 1)
                    if module.kernel_size == (3, 3):
                        module.dilation = module.padding = (dilation, dilation)
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        expansion = 4 if hasattr(block, "conv3") else 1
        widths = (net.conv1.out_channels, *(width * expansion for width in (64, 128, 256, 512)))
        self.channels = dict(zip(LEVELS, widths, strict=True))
        self.strides = dict(zip(LEVELS, (4, 4, 8, min(16, output_stride), output_stride), strict=True))
        self.weights_name = f"{config.name.replace('resnet', 'ResNet')}_Weights"

    def published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See Backbone: in torchvision's names, without the classifier `fc`."""
        stem = {"conv1": "stem.0", "bn1": "stem.1"}
        renamed = {}
        for key, value in state.items():
            first, _, rest = key.partition(".")
            if first != "fc":
                renamed[f"{stem.get(first, first)}.{rest}"] = value
        return renamed

    def pretrained(self) -> Mapping[str, Tensor]:
        """See Backbone: torchvision's IMAGENET1K_V1."""
        return getattr(torchvision.models, self.weights_name).IMAGENET1K_V1.get_state_dict(progress=False)
