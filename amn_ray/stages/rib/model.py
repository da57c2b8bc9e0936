"""RIB: the classifier is fine-tuned on one image, and the maps of every step are added up (Lee et al., NeurIPS 2021).

docs/rivals.md has the steps; the released code is obtain_CAM_masking.py of RIB.

Legend: 2 = image and mirror image, B = other images, N = classes, K = classes of the image, h w = stride-16 grid,
S = scales.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.optim import SGD

from amn_ray.nn.backbones.backbone import LEVELS, Backbone
from amn_ray.nn.class_activation import SumOfScales
from amn_ray.nn.classifier import Classifier
from amn_ray.nn.multiscale import scaled, with_mirror_images
from amn_ray.nn.precision import autocast, wide
from amn_ray.stages.rib.config import RibConfig

PIXELS_PER_PASS = {"cpu": 2**18, "cuda": 2**22}
"""Pixels of other images in a pass with its graph, by device; the loss is a sum, so it may be cut."""
FROZEN = "layer2"
"""Up to this layer nothing is fine-tuned, whatever the classifier's own training did."""
ACTIVE = 0.3
"""A map covers what exceeds this share of its maximum."""
MAPS_ONLY = 0.5
"""The scale that gives maps, but has no part in the loss."""
POWER = 0.9
Others = Callable[[int], tuple[Tensor, Tensor] | None]
"""Step 0, 1, … -> other images, uint8 RGBA (B, crop, crop, 4), and their labels, multi-hot (B, N); or None."""


class RibMaker:
    """A classifier, and how it was before it was fine-tuned."""

    def __init__(self, model: Classifier, config: RibConfig, device: torch.device) -> None:
        """`model`: in eval mode, on `device`."""
        self.model = model.requires_grad_(True)
        self.config = config
        self.device = device
        model.backbone.freeze(FROZEN)
        backbone = [parameter for parameter in model.backbone.parameters() if parameter.requires_grad]
        head = list(model.classifier.parameters())
        self.groups = [{"params": backbone, "lr": config.lr_backbone}, {"params": head, "lr": config.lr_head}]
        self.trained = [*backbone, *head]
        self.start = [parameter.detach().clone() for parameter in self.trained]

    def maps(self, image_HWC: np.ndarray, labels: Sequence[int], others: Others) -> tuple[np.ndarray, int]:
        """The maps of one image.

        Args:
            image_HWC: RGB uint8.
            labels: 1…N, at least one.
            others: the images of each step.

        Returns:
            Float (K, ⌈H/4⌉, ⌈W/4⌉) in [0, 1], and the number of steps whose maps were added up.
        """
        try:
            return self._maps(image_HWC, labels, others)
        finally:
            self._reset()

    def _reset(self) -> None:
        with torch.no_grad():
            for parameter, start in zip(self.trained, self.start, strict=True):
                parameter.copy_(start)
                parameter.grad = None

    def _maps(self, image_HWC: np.ndarray, labels: Sequence[int], others: Others) -> tuple[np.ndarray, int]:
        config, backbone = self.config, self.model.backbone
        dtype = self.model.classifier.weight.dtype
        columns = [label - 1 for label in labels]
        optimizer = SGD(self.groups, weight_decay=config.weight_decay)
        sums = SumOfScales(image_HWC, backbone)
        pairs = [
            self._frozen(with_mirror_images(scaled([image_HWC], scale, backbone, self.device))[0])
            for scale in config.scales
        ]
        for step in range(config.steps):
            last = step == config.steps - 1  # what it would learn is not used
            made_SKhw, pooled = [], torch.zeros((), device=self.device, dtype=dtype)
            optimizer.zero_grad(set_to_none=True)
            for pair, scale in zip(pairs, config.scales, strict=True):
                learns = not last and scale != MAPS_ONLY
                with torch.set_grad_enabled(learns):
                    logits_2Khw = self._logits(pair)[:, columns]
                    if learns:
                        part = pooled_outside(logits_2Khw, config.region).sum()
                        (-part).backward()
                        pooled += part.detach()
                active_2Khw = F.relu(logits_2Khw.detach())
                made_SKhw.append(active_2Khw[0] + active_2Khw[1].flip(2))
            if step > 0 and self._covers(made_SKhw):
                return sums.finished(), step
            for made_Khw in made_SKhw:
                sums.add(made_Khw)
            if last or abs(pooled) > config.limit:
                break
            self._learn_from_others(others(step))
            for group, rate in zip(optimizer.param_groups, (config.lr_backbone, config.lr_head), strict=True):
                group["lr"] = rate * (1 - step / config.steps) ** POWER
            for parameter in self.trained:  # without any gradient it still decays
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            optimizer.step()
        return sums.finished(), step + 1

    def _covers(self, made_SKhw: Sequence[Tensor]) -> bool:
        """Whether the maps at scale 1 cover too much of the image."""
        return any(
            scale == 1 and share_covered(made_Khw) > self.config.coverage
            for made_Khw, scale in zip(made_SKhw, self.config.scales, strict=True)
        )

    def _learn_from_others(self, batch: tuple[Tensor, Tensor] | None) -> None:
        """Add the gradient of other images' part of the loss."""
        if batch is None:
            return
        rgba_BHWC, targets_BN = (part.to(self.device) for part in batch)
        at_once = max(1, PIXELS_PER_PASS[self.device.type] // rgba_BHWC[0, ..., 0].numel())
        for rgba, targets in zip(rgba_BHWC.split(at_once), targets_BN.split(at_once), strict=True):
            crops = self.model.backbone.normalise(rgba).to(self.model.classifier.weight.dtype)
            logits_BNhw = self._logits(self._frozen(crops))
            (-(pooled_outside(logits_BNhw, self.config.region) * targets).sum()).backward()

    def _frozen(self, image_BCHW: Tensor) -> Tensor:
        """What the layers that are not fine-tuned make of images; images themselves where a network is no chain."""
        image_BCHW = image_BCHW.contiguous(memory_format=torch.channels_last)
        if not is_chain(self.model.backbone):
            return image_BCHW
        with torch.no_grad(), autocast(self.device, self.config.precision):
            for level in LEVELS[: LEVELS.index(FROZEN) + 1]:
                image_BCHW = getattr(self.model.backbone, level)(image_BCHW)
        return image_BCHW

    def _logits(self, frozen: Tensor) -> Tensor:
        """The other layers -> class logits (B, N, h, w), at least float32."""
        with autocast(self.device, self.config.precision):
            if is_chain(self.model.backbone):
                for level in LEVELS[LEVELS.index(FROZEN) + 1 :]:
                    frozen = getattr(self.model.backbone, level)(frozen)
            else:
                frozen = self.model.backbone(frozen, lambda level, out: out.detach() if level == FROZEN else out)
            logits = self.model.classifier(frozen)
        return wide(logits)


def is_chain(backbone: Backbone) -> bool:
    """Whether its levels are modules that can be called one after the other."""
    return type(backbone).forward is Backbone.forward


def pooled_outside(logits_BNhw: Tensor, region: float) -> Tensor:
    """Global average of the non-discriminative region (GNDP), of each row and class.

    Args:
        logits_BNhw: class logits, not rectified.
        region: a pixel belongs to it where its logit is below this share of the largest one. Where that is not
            positive, no pixel does.

    Returns:
        (B, N): the sum over the region, divided by all h·w pixels.
    """
    values_BNhw = logits_BNhw.detach()
    highest_BN11 = values_BNhw.amax((2, 3), keepdim=True)
    outside_BNhw = (highest_BN11 > 0) & (values_BNhw / highest_BN11 < region)
    return torch.where(outside_BNhw, logits_BNhw, 0).mean((2, 3))


def share_covered(maps_Khw: Tensor) -> float:
    """The share of the grid that is covered by any of the maps."""
    highest_K11 = maps_Khw.amax((1, 2), keepdim=True)
    return ((highest_K11 > 0) & (maps_Khw / highest_K11 > ACTIVE)).any(0).double().mean().item()
