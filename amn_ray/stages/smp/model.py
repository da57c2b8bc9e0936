"""A network of segmentation-models-pytorch, and its predictions.

Legend: B = images, H W = pixels, N = classes without background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from amn_ray.nn.backbones.backbone import Encoder
from amn_ray.nn.multiscale import images_per_pass, scaled
from amn_ray.nn.precision import autocast
from amn_ray.stages.smp import networks

STRIDE = 32
"""Images are padded to a multiple of it, with the mean colour."""
SMALLEST = {"pan": 128}
"""By architecture: the height and width in pixels that it needs, where these are more than a stride."""
HEADS = ("fc.", "_fc.", "classifier.", "head.", "last_linear.")
"""Where published weights hold the classifier of their pre-training."""
TINY = 1e-8
"""The smallest probability whose logarithm is taken."""


class SmpEncoder(Encoder):
    """The encoder of such a network: features at several strides."""

    def __init__(self, name: str, encoder: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.encoder = encoder
        self.mean, self.std = networks.published_statistics(name)

    def forward(self, image_BCHW: Tensor) -> Sequence[Tensor]:
        """(B, 3, H, W) -> the library's features, the finest first."""
        return self.encoder(image_BCHW)

    def published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See Encoder: in torchvision's names for its ResNets, in timm's for its networks, else in the library's."""
        if self.name.startswith(networks.TIMM):
            from amn_ray.nn.backbones.timm_library import without_head

            prefix = "encoder.model."
            own = [key.removeprefix(prefix) for key in self.state_dict()]
            state = without_head(self.name.removeprefix(networks.TIMM), state, own)
        else:
            prefix = "encoder."
            state = {key: value for key, value in state.items() if not key.startswith(HEADS)}
        return {f"{prefix}{key}": value for key, value in state.items()}

    def pretrained(self) -> Mapping[str, Tensor]:
        """See Encoder: the library's default."""
        try:
            encoder = networks.pretrained_encoder(self.name)
        except KeyError as error:
            raise ValueError("the library has no weights for this encoder") from error
        except Exception as error:  # of the hub's client, its transport, or timm
            raise OSError(" ".join(str(error).split())) from error
        return {f"encoder.{key}": value for key, value in encoder.state_dict().items()}


class SmpNet(nn.Module):
    """Encoder → decoder → head, for images of any size."""

    def __init__(self, arch: str, encoder: str, num_classes: int) -> None:
        super().__init__()
        network = networks.build(arch, encoder, num_classes + 1)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name not in networks.unused(arch, encoder))
        self.backbone = SmpEncoder(encoder, network.encoder)
        self.decoder, self.head = network.decoder, network.segmentation_head
        self.smallest = SMALLEST.get(arch, STRIDE)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, N+1, H, W)."""
        height, width = image_BCHW.shape[-2:]
        below, right = (-side % STRIDE if side > self.smallest else self.smallest - side for side in (height, width))
        padded_BCHW = F.pad(image_BCHW, (0, right, 0, below)) if below or right else image_BCHW
        features = self.backbone(padded_BCHW)
        decoded = self.decoder(*features) if isinstance(features, tuple) else self.decoder(features)
        return self.head(decoded)[..., :height, :width]

    def new_parameters(self) -> list[nn.Parameter]:
        """The parameters that no pre-training has seen."""
        return [*self.decoder.parameters(), *self.head.parameters()]


@torch.inference_mode()
def log_probabilities(
    model: SmpNet,
    images: Sequence[np.ndarray],
    scales: Sequence[float],
    *,
    device: torch.device,
    precision: str | None,
) -> list[np.ndarray]:
    """The mean over scales and mirror images of the probabilities at the size of the image, as logarithms.

    Args:
        model: in eval mode, on `device`.
        images: B uint8 RGB arrays (H, W, 3) of one size.
        scales: factors of the image's size; bicubic resize.
        device: where `model` is.
        precision: see nn.precision.autocast.

    Returns:
        For each image float32 (N+1, H, W).
    """
    size = images[0].shape[:2]
    return [
        _mean_probability(model, image, scales, size, device, precision).clamp(min=TINY).log().cpu().numpy()
        for image in images
    ]


def _mean_probability(
    model: SmpNet,
    image_HWC: np.ndarray,
    scales: Sequence[float],
    size: Sequence[int],
    device: torch.device,
    precision: str | None,
) -> Tensor:
    """(N+1, H, W)."""
    total_CHW = torch.zeros((), device=device)
    for scale in scales:
        image_1CHW = scaled([image_HWC], scale, model.backbone, device)
        pair_2CHW = torch.cat([image_1CHW, image_1CHW.flip(3)]).contiguous(memory_format=torch.channels_last)
        with autocast(device, precision):
            logits = torch.cat([model(part).float() for part in pair_2CHW.split(images_per_pass(pair_2CHW))])
        logits[1:] = logits[1:].flip(3)
        resized = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        total_CHW = total_CHW + resized.softmax(1).sum(0)
    return total_CHW / (2 * len(scales))
