"""A small but complete data set in COCO's format, drawn: `python -m tests.coco_shapes FOLDER [NUM_TRAIN NUM_VAL]`.

Objects come as polygons, as compressed and as uncompressed run lengths, some of them as crowds; some images hold no
object at all; category ids have gaps.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import contourpy
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from amn_ray.data.shapes import CLASSES, Shapes, ShapesConfig

CATEGORY_IDS = (1, 3, 18, 44, 90)


def build(root: Path, num_train: int, num_val: int, size: int = 128) -> Path:
    """Write images and annotations of both splits."""
    source = Shapes(ShapesConfig(num_train=num_train, num_val=num_val, size=size))
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        folder = root / f"{split}2014"
        folder.mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, record in enumerate(source.listing(split).records, start=1):
            encoded, mask_HW = source.image(record), source.mask(record)
            name = f"COCO_{split}2014_{number:012d}.jpg"
            Image.open(io.BytesIO(encoded)).save(folder / name, quality=95)
            images.append({"id": number, "file_name": name, "height": size, "width": size})
            for label in record.labels:
                crowd = len(record.labels) == 2 and number % 4 == 0 and label == max(record.labels)
                object_HW = mask_HW == label
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": CATEGORY_IDS[label - 1],
                        "iscrowd": int(crowd),
                        "area": int(object_HW.sum()),
                        "segmentation": run_lengths(object_HW)
                        if crowd
                        else (polygons, compressed, run_lengths)[number % 3](object_HW),
                    }
                )
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for number, name in zip(CATEGORY_IDS, CLASSES, strict=True)][
                ::-1
            ],
        }
        (root / "annotations" / f"instances_{split}2014.json").write_text(json.dumps(content))
    return root


def polygons(object_HW: np.ndarray) -> list[list[float]]:
    """The outlines of an object, as COCO writes those of most."""
    padded = np.pad(object_HW.astype(float), 1)
    lines = contourpy.contour_generator(z=padded).lines(0.5)
    return [(line - 0.5).round(2).ravel().tolist() for line in lines if len(line) >= 4]


def compressed(object_HW: np.ndarray) -> dict[str, Any]:
    """A run-length encoding as a string."""
    code = coco_mask.encode(np.asfortranarray(object_HW, np.uint8))
    return {"size": list(code["size"]), "counts": code["counts"].decode()}


def run_lengths(object_HW: np.ndarray) -> dict[str, Any]:
    """A run-length encoding as numbers, column by column, beginning with the background; COCO's crowds are such."""
    flat = np.concatenate([[False], object_HW.ravel(order="F"), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    bounds = np.concatenate([[0], edges, [object_HW.size]])
    return {"size": list(object_HW.shape), "counts": np.diff(bounds).tolist()}


if __name__ == "__main__":
    build(Path(sys.argv[1]), *(int(number) for number in sys.argv[2:] or ("400", "100")))
