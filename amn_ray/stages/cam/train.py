"""Training the CAM classifier (method 1; released code: step/train_cam.py)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F  # noqa: N812
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler, PolynomialLR

from amn_ray.data.images import decode_image
from amn_ray.data.transforms import augment, multi_hot, random_long_side
from amn_ray.nn.resnet import normalise
from amn_ray.stages.cam.config import CamConfig
from amn_ray.stages.cam.model import CamNet
from amn_ray.training.loop import Job, Loop


@dataclass(frozen=True)
class CamExample:
    """A row of the image table -> what one training step needs of it."""

    config: CamConfig
    num_classes: int

    def __call__(self, row: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """`image` uint8 (crop, crop, 4) and `labels` float32 (N,), multi-hot."""
        image_HWC = decode_image(row["image"])
        low, high = self.config.long_side
        size = random_long_side(image_HWC.shape[:2], (low, high), rng)
        rgba, _ = augment(image_HWC, None, size, self.config.crop, rng)
        return {"image": rgba, "labels": multi_hot(row["labels"], self.num_classes)}


def train_worker(settings: dict) -> None:
    """The whole training, on each worker."""
    job: Job = settings["job"]
    config: CamConfig = job.config

    def optimise(model: CamNet) -> tuple[SGD, LRScheduler]:
        backbone = [p for p in model.backbone.parameters() if p.requires_grad]
        optimizer = SGD(
            [{"params": backbone, "lr": config.lr_backbone}, {"params": model.classifier.parameters()}],
            lr=config.lr_head,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
        return optimizer, PolynomialLR(optimizer, job.num_steps, config.power)

    loop = Loop(job, lambda: CamNet(config, job.num_classes), optimise)
    for batch in loop.batches():
        with loop.autocast():
            logits_BN = loop.model(normalise(batch["image"]))
        loop.step(F.multilabel_soft_margin_loss(logits_BN.float(), batch["labels"]))
