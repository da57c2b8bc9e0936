"""Making RIB's maps on Ray Data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from amn_ray.core.artifacts import Artifact
from amn_ray.data.labelled_crop import LabelledCrop
from amn_ray.data.pixels import Pixels
from amn_ray.data.transforms import generator
from amn_ray.stages.maps import MapsMaker
from amn_ray.stages.rib.config import RibConfig

if TYPE_CHECKING:
    from torch import Tensor


class MakeRib(MapsMaker):
    """Loads the classifier once; reads other images one by one, as an image needs them."""

    def __init__(
        self,
        config: RibConfig,
        num_classes: int,
        pixels: Pixels,
        weights: Artifact,
        all_images: Artifact,
        threads: int,
    ) -> None:
        super().__init__(pixels, threads)
        from amn_ray.nn.classifier import load_classifier
        from amn_ray.stages.rib.model import RibMaker

        self.config = config
        self.example = LabelledCrop(config.long_side, config.crop, num_classes, pixels)
        self.table = all_images.table()
        self.labels = {image_id: frozenset(row) for image_id, row in self.table.column("labels").items()}
        self.maker = RibMaker(load_classifier(weights, num_classes).to(self.device), config, self.device)
        self.pool = ThreadPoolExecutor(threads)

    def maps(self, images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> Sequence[np.ndarray]:
        """See MapsMaker."""
        results = []
        for image_HWC, row in zip(images, rows, strict=True):
            drawn_ids = drawn(self.labels, row["image_id"], self.config)
            others = OthersAhead(partial(self._other, row["image_id"]), drawn_ids, self.pool)
            made, _ = self.maker.maps(image_HWC, row["labels"], others)
            results.append(made)
        return results

    def _other(self, image_id: str, step: int, other: str) -> dict[str, np.ndarray]:
        """Another image, as the image learns from it in a step."""
        (row,) = self.table.take([other], ["image", "labels"])
        return self.example(row, generator(self.config.seed or 0, step, f"{image_id} {other}"))


class OthersAhead:
    """The other images of each step: read by threads, those of the next step while the network learns from these."""

    def __init__(
        self, make: Callable[[int, str], dict[str, np.ndarray]], drawn_ids: Sequence[Sequence[str]], pool: Executor
    ) -> None:
        """`make`: (step, id of another image) -> its `image` uint8 (crop, crop, 4) and `labels` float32 (N,)."""
        self.make = make
        self.drawn_ids = drawn_ids
        self.pool = pool
        self.started: dict[int, list[Future]] = {}

    def __call__(self, step: int) -> tuple[Tensor, Tensor] | None:
        """Images uint8 RGBA (B, crop, crop, 4) and labels, multi-hot (B, N), of a step; None if there are none."""
        import torch

        for number in (step, step + 1):
            if number < len(self.drawn_ids) and number not in self.started:
                self.started[number] = [self.pool.submit(self.make, number, other) for other in self.drawn_ids[number]]
        made = [future.result() for future in self.started.pop(step)]
        if not made:
            return None
        crops, targets = (np.stack([one[name] for one in made]) for name in ("image", "labels"))
        return torch.from_numpy(crops), torch.from_numpy(targets)


def drawn(labels: Mapping[str, frozenset[int]], image_id: str, config: RibConfig) -> list[list[str]]:
    """The ids of the other images of each step: without replacement, from those that share no class with the image.

    The draw depends on the seed and the image alone. Where there are too few for all steps, the batches are smaller;
    where there are fewer than steps, the last steps have none.
    """
    apart = sorted(other for other, row in labels.items() if row.isdisjoint(labels[image_id]) and other != image_id)
    order = generator(config.seed or 0, 0, image_id).permutation(len(apart))
    size = max(1, min(config.batch_size, len(apart) // config.steps))
    ids = [apart[position] for position in order[: size * config.steps]]
    return [ids[start : start + size] for start in range(0, size * config.steps, size)]
