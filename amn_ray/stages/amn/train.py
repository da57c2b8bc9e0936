"""Training AMN on refined seeds (method 4; released code: step/train_amn.py)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch.optim import Adam

from amn_ray.data.images import decode_image, decode_mask
from amn_ray.data.transforms import augment, multi_hot, random_scale, resize_label
from amn_ray.nn.resnet import STRIDE, normalise
from amn_ray.stages.amn.config import AmnConfig
from amn_ray.stages.amn.model import AmnNet, pcl_loss
from amn_ray.training.loop import Job, Loop


@dataclass(frozen=True)
class AmnExample:
    """A row of images joined with seeds -> what one training step needs of it."""

    config: AmnConfig
    num_classes: int

    def __call__(self, row: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """`image` uint8 (crop, crop, 4), `labels` float32 (N,), `seed` uint8 (h, w): at the logits' size already."""
        image_HWC = decode_image(row["image"])
        low, high = self.config.scale
        size = random_scale(image_HWC.shape[:2], (low, high), rng)
        rgba, seed = augment(image_HWC, decode_mask(row["mask"]), size, self.config.crop, rng)
        assert seed is not None
        grid = -(-self.config.crop // STRIDE)
        return {
            "image": rgba,
            "labels": multi_hot(row["labels"], self.num_classes),
            "seed": resize_label(seed, grid, grid),
        }


def train_worker(settings: dict) -> None:
    """The whole training, on each worker."""
    job: Job = settings["job"]
    config: AmnConfig = job.config

    def optimise(model: AmnNet) -> tuple[Adam, None]:
        backbone = [p for p in model.backbone.parameters() if p.requires_grad]
        groups = [{"params": backbone, "lr": config.lr_backbone}, {"params": model.head_parameters()}]
        return Adam(groups, lr=config.lr_head, weight_decay=config.weight_decay), None

    loop = Loop(job, lambda: AmnNet(config, job.num_classes), optimise)
    for batch in loop.batches():
        with loop.autocast():
            logits_BChw = loop.model(normalise(batch["image"]), batch["labels"])
        loop.step(pcl_loss(logits_BChw.float(), batch["seed"], config.smoothing))
