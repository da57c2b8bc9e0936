"""VGG-16 with stride 8, as DRS was published on it.

Legend: B = images, H W = pixels, h w = stride-8 grid.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch.nn.functional as F  # noqa: N812
import torchvision
from torch import Tensor, nn

from amn_ray.nn.backbones.backbone import After, Backbone

WIDTHS = {"conv1": (64, 64), "conv2": (128, 128), "conv3": (256,) * 3, "conv4": (512,) * 3, "conv5": (512,) * 3}
LAST = "conv5"
FEATURES = re.compile(r"features\.(\d+)\.(weight|bias)")
DILATION = 2


class Vgg16(Backbone):
    """The 13 convolutions. Its levels are their outputs, relu1_1 … relu5_3; the pooling after conv4 keeps the size, and
    conv5 is dilated.
    """

    def __init__(self) -> None:
        super().__init__()
        before = 3
        self.channels, self.strides, stride = {}, {}, 1
        for block, widths in WIDTHS.items():
            dilation = DILATION if block == LAST else 1
            layers = nn.ModuleList()
            for number, width in enumerate(widths, 1):
                layers.append(nn.Conv2d(before, width, 3, padding=dilation, dilation=dilation))
                level = f"relu{block[-1]}_{number}"
                self.channels[level], self.strides[level] = width, stride
                before = width
            setattr(self, block, layers)
            stride = min(2 * stride, 8)

    def forward(self, image_BCHW: Tensor, after: After | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, 512, h, w); see Backbone. `after` is called with the output of each ReLU."""
        feature = image_BCHW
        for block in WIDTHS:
            for number, layer in enumerate(getattr(self, block), 1):
                feature = F.relu(layer(feature))
                if after is not None:
                    feature = after(f"relu{block[-1]}_{number}", feature)
            if block == "conv4":
                feature = F.max_pool2d(feature, 3, stride=1, padding=1)
            elif block != LAST:
                feature = F.max_pool2d(feature, 2)
        return feature

    def freeze(self, until: str) -> None:
        """See Backbone: DRS trains all of it."""
        raise NotImplementedError

    def published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See Backbone: in torchvision's names, features.N, without the classifier."""
        found = {tuple(match.groups()): value for key, value in state.items() if (match := FEATURES.fullmatch(key))}
        numbers = sorted({int(number) for number, _ in found})
        own = (name.removesuffix(".weight") for name in self.state_dict() if name.endswith(".weight"))
        renamed = dict(zip(map(str, numbers), own, strict=False))
        return {f"{renamed.get(number, number)}.{part}": value for (number, part), value in found.items()}

    def pretrained(self) -> Mapping[str, Tensor]:
        """See Backbone: torchvision's IMAGENET1K_V1."""
        return torchvision.models.VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=False)
