"""The backbone of all networks: torchvision's ResNet with output stride 16 or 8.

Legend: B = images, H W = pixels, h w = feature grid, ⌈H/stride⌉ × ⌈W/stride⌉.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torchvision
from torch import Tensor, nn

from amn_ray.nn.config import LAYERS, STRIDE, BackboneConfig

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalise(rgba_BHWC: Tensor) -> Tensor:
    """uint8 RGB or RGBA (B, H, W, 3|4) -> float32 (B, 3, H, W), ImageNet-normalised, 0 where alpha is 0 (padding)."""
    mean = torch.tensor(MEAN, device=rgba_BHWC.device) * 255
    std = torch.tensor(STD, device=rgba_BHWC.device) * 255
    image_BHWC = (rgba_BHWC[..., :3].float() - mean) / std
    if rgba_BHWC.shape[-1] == 4:
        image_BHWC = image_BHWC * (rgba_BHWC[..., 3:] > 0)
    return image_BHWC.permute(0, 3, 1, 2)  # NCHW in name, channels-last in memory: what the convolutions want


class ResNet(nn.Module):
    """Features of the four residual layers.

    At output stride 16, layer4 has stride 1 and no dilation (method, Backbone); at 8, layer3 and layer4 have stride 1
    and dilations 2 and 4 (method 9). conv1 and bn1 do not train, unless they start from random weights. With
    `batchnorm="running"` every BatchNorm always normalises by its running statistics; its affine parameters train.
    """

    def __init__(self, config: BackboneConfig, output_stride: int = STRIDE) -> None:
        super().__init__()
        net = getattr(torchvision.models, config.name)(weights=None)
        block = net.layer4[0]
        # (torchvision's own replace_stride_with_dilation knows no basic blocks, and leaves the first block undilated.)
        for layer, dilation in ((net.layer4, 1),) if output_stride == STRIDE else ((net.layer3, 2), (net.layer4, 4)):
            for module in layer.modules():
                if isinstance(module, nn.Conv2d):
                    module.stride = (1, 1)
                    if module.kernel_size == (3, 3):
                        module.dilation = module.padding = (dilation, dilation)
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        self.stem_width = net.conv1.out_channels
        expansion = 4 if hasattr(block, "conv3") else 1
        self.widths = {name: width * expansion for name, width in zip(LAYERS, (64, 128, 256, 512), strict=True)}
        self.running_statistics = config.batchnorm == "running"
        if config.weights is not None:
            self.stem.requires_grad_(False)

    def train(self, mode: bool = True) -> ResNet:
        """Like nn.Module.train, but BatchNorm keeps its running statistics where the method says so."""
        super().train(mode)
        if self.running_statistics:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def load_torchvision(self, state: Mapping[str, Tensor]) -> None:
        """Load a torchvision ResNet state dict; its classifier `fc` is left out. Strict about all else."""
        stem = {"conv1": "stem.0", "bn1": "stem.1"}
        renamed = {}
        for key, value in state.items():
            first, _, rest = key.partition(".")
            if first != "fc":
                renamed[f"{stem.get(first, first)}.{rest}"] = value.float() if value.is_floating_point() else value
        self.load_state_dict(renamed, strict=True)

    def stages(self, image_BCHW: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the outputs of the stem and of the four layers, at strides 4, 4, 8, 16 and 16."""
        features = [self.stem(image_BCHW)]
        for name in LAYERS:
            features.append(getattr(self, name)(features[-1]))
        return features

    def forward(self, image_BCHW: Tensor, after: Callable[[str, Tensor], Tensor] | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, width of layer4, h, w).

        Args:
            image_BCHW: normalised images.
            after: called with each layer's name and output; what it returns goes on to the next layer.
        """
        feature = self.stem(image_BCHW)
        for name in LAYERS:
            feature = getattr(self, name)(feature)
            if after is not None:
                feature = after(name, feature)
        return feature
