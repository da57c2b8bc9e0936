"""Reading and checking one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from amn_ray.core.artifacts import Artifact
from amn_ray.data.images import read_image
from amn_ray.data.label_checks import review_labels
from amn_ray.data.photograph_checks import FACTS, review_photographs
from amn_ray.data.pixels import Pixels
from amn_ray.data.records import check_image
from amn_ray.data.source import Record, Source
from amn_ray.stages.reading import Row, defects_of

SCHEMA = pa.schema(
    {
        "image_id": pa.string(),
        "image": pa.binary(),
        "height": pa.int32(),
        "width": pa.int32(),
        "labels": pa.list_(pa.int16()),
        "file_height": pa.int32(),  # of the upright file, which max_side may make smaller
        "file_width": pa.int32(),
        "orientation": pa.int8(),  # EXIF's 1…8
        "low": pa.float64(),  # the extreme values of images of more than 8 bits, else null
        "peak": pa.float64(),
        "floats": pa.bool_(),
    }
)
"""The image table. Columns after `labels` hold properties of the files that need decoding."""


@dataclass(frozen=True)
class ReadImage:
    """A record -> a row of SCHEMA; see stages.reading.ReadRow."""

    pixels: Pixels
    files: ClassVar[str] = "images"

    def path(self, record: Record) -> str:
        """See ReadRow."""
        return record.image or record.image_id

    def __call__(self, source: Source, record: Record) -> Row:
        """See ReadRow."""
        with defects_of(record):
            encoded = source.image(record)
            check_image(record, encoded)
            image = read_image(encoded, self.pixels)
        height, width = image.rgb.shape[:2]
        return {
            "image_id": record.image_id,
            "image": encoded,
            "height": height,
            "width": width,
            "labels": record.labels,
            "file_height": image.size[0],
            "file_width": image.size[1],
            "orientation": image.orientation,
            "low": image.low,
            "peak": image.peak,
            "floats": image.floats,
        }


def review(output: Artifact, pixels: Pixels, classes: Sequence[str], split: str) -> dict[str, Any]:
    """Check the images together; `classes` and `split` are those of the table.

    Returns:
        `warnings`, sentences for the user; and `largest`, the image of most pixels: `image_id`, `height`, `width`,
        `num_labels`.

    Raises:
        RequestError: with these settings, they would be black or white.
    """
    rows = output.fresh_table().read([*FACTS, "labels", "height", "width"]).to_pylist()
    doubts = review_labels([row["labels"] for row in rows], classes) if split == "train" else []
    largest = max(rows, key=lambda row: row["height"] * row["width"])
    facts = {name: largest[name] for name in ("image_id", "height", "width")}
    facts["num_labels"] = len(largest["labels"])
    return {"warnings": review_photographs(rows, pixels) + doubts, "largest": facts}
