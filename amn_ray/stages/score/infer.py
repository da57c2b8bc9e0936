"""Counting pixels of one batch of images."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from amn_ray.core.artifacts import Artifact
from amn_ray.data.images import decode_mask
from amn_ray.data.maps import MAP_COLUMNS, pixel_maps
from amn_ray.data.source import IGNORE
from amn_ray.evaluation.confusion import confusion_matrix
from amn_ray.evaluation.thresholds import ImageCounts, best_threshold, count_image

SCHEMA = pa.schema(
    {
        "image_id": pa.string(),
        "truth": pa.list_(pa.int16()),
        "predicted": pa.list_(pa.int16()),
        "counts": pa.binary(),  # int32 [len(truth), len(predicted), bins]
        "best_tau": pa.float64(),
        "best_miou": pa.float64(),
        "undefined": pa.float64(),
        "evaluated": pa.bool_(),
    }
)
"""One row of a scores table; all but `image_id` and `evaluated` are null if the ground truth is undefined everywhere.
The best threshold is null for masks and for images without a class, where all thresholds are equal; the share of
undefined pixels is null for maps."""
COLUMNS = ("mask", "evaluated")


class ScoreMaps:
    """Ground truth (joined with maps) -> counts by truth, class and threshold bin."""

    def __init__(self, maps: Artifact, grid: np.ndarray) -> None:
        self.maps = maps.table()
        self.grid = grid

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`image_id`, `mask`, `evaluated` -> rows of SCHEMA."""
        return pa.Table.from_pylist([self._score(row) for row in batch.to_pylist()], schema=SCHEMA)

    def _score(self, row: dict) -> dict[str, object]:
        truth_HW = _truth(row)
        if truth_HW is None:
            return _key(row)
        stored = self.maps.take([row["image_id"]], MAP_COLUMNS)[0]
        maps_KHW = pixel_maps(stored, *truth_HW.shape)
        image = count_image(maps_KHW, stored["keys"], truth_HW, self.grid)
        scored = _key(row) | _counted(image)
        if stored["keys"]:
            scored["best_tau"], scored["best_miou"] = best_threshold(image, self.grid)
        return scored


class ScoreMasks:
    """Ground truth (joined with masks) -> counts by truth and prediction."""

    def __init__(self, masks: Artifact, num_classes: int) -> None:
        self.masks = masks.table()
        self.num_classes = num_classes

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`image_id`, `mask`, `evaluated` -> rows of SCHEMA with a single bin and without a best threshold."""
        return pa.Table.from_pylist([self._score(row) for row in batch.to_pylist()], schema=SCHEMA)

    def _score(self, row: dict) -> dict[str, object]:
        truth_HW = _truth(row)
        if truth_HW is None:
            return _key(row)
        prediction = decode_mask(self.masks.take([row["image_id"]], ["mask"])[0]["mask"])
        confusion = confusion_matrix(truth_HW, prediction, self.num_classes)
        undefined = float((prediction == IGNORE).mean())
        truth, predicted = np.flatnonzero(confusion.any(1)), np.flatnonzero(confusion.any(0))
        counts = confusion[np.ix_(truth, predicted)][..., None].astype(np.int32)
        image = ImageCounts(truth.astype(np.int16), predicted.astype(np.int16), counts)
        return _key(row) | _counted(image) | {"undefined": undefined}


def _truth(row: dict) -> np.ndarray | None:
    """The ground truth uint8 (H, W); None if all of its pixels are undefined."""
    truth_HW = decode_mask(row["mask"])
    return None if (truth_HW == IGNORE).all() else truth_HW


def _key(row: dict) -> dict[str, object]:
    return {name: row[name] for name in ("image_id", "evaluated")}


def _counted(image: ImageCounts) -> dict[str, object]:
    return {
        "truth": image.truth.tolist(),
        "predicted": image.predicted.tolist(),
        "counts": image.counts.tobytes(),
    }


def counts_of(row: dict) -> ImageCounts:
    """The counts of a row of SCHEMA."""
    shape = (len(row["truth"]), len(row["predicted"]), -1)
    return ImageCounts(
        np.array(row["truth"], np.int16),
        np.array(row["predicted"], np.int16),
        np.frombuffer(row["counts"], np.int32).reshape(shape),
    )
