"""Reading and checking one ground-truth mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from amn_ray.core.artifacts import Artifact
from amn_ray.core.errors import RequestError
from amn_ray.data.images import MASK_SCHEMA, Geometry, check_mask, mask_of_photograph, mask_row
from amn_ray.data.label_checks import review_masks
from amn_ray.data.photograph_checks import mask_lay, review_lays
from amn_ray.data.pixels import Pixels
from amn_ray.data.records import check_mask_file
from amn_ray.data.source import Record, Source
from amn_ray.stages.reading import BadImage, Row, SparedImage, defects_of

SCHEMA = pa.schema([*MASK_SCHEMA, pa.field("mask_lay", pa.string()), pa.field("evaluated", pa.bool_())])
"""A masks table, with each mask's orientation (see data.photograph_checks.mask_lay), and whether it is evaluated (see
data.source.Record)."""
_SIZES = ("height", "width", "file_height", "file_width", "orientation")


@dataclass(frozen=True)
class ReadMask:
    """A record -> a row of SCHEMA; see stages.reading.ReadRow. Images that were left out have none.

    The photograph is not decoded again: its properties are in the image table.
    """

    images: Artifact
    pixels: Pixels
    num_classes: int
    files: ClassVar[str] = "masks"

    def path(self, record: Record) -> str:
        """See ReadRow."""
        return record.mask or record.image or record.image_id

    def __call__(self, source: Source, record: Record) -> Row | None:
        """See ReadRow."""
        table = self.images.table()
        if record.mask is None or record.image_id not in table:
            return None
        (row,) = table.take([record.image_id], _SIZES)
        geometry = Geometry(
            (row["file_height"], row["file_width"]),
            row["orientation"],
            self.pixels.upright,
            (row["height"], row["width"]),
        )
        with defects_of(record, BadImage if record.evaluated else SparedImage):
            check_mask_file(record)
            mask_HW = source.mask(record)
            lay = mask_lay(mask_HW.shape, geometry)
            mask_HW = mask_of_photograph(mask_HW, geometry)
            check_mask(mask_HW, num_classes=self.num_classes)
        return mask_row(record.image_id, mask_HW) | {"mask_lay": lay, "evaluated": record.evaluated}


def review(output: Artifact, images: Artifact, classes: Sequence[str]) -> list[str]:
    """Check the masks together, and against the labels.

    Args:
        output: with the table of masks.
        images: the image table.
        classes: the names of labels 1…N.

    Returns:
        Warnings, sentences for the user.

    Raises:
        RequestError: most masks contradict the labels.
    """
    rows = output.fresh_table().read(["present", "mask_lay"]).to_pylist()
    labels = images.table().column("labels")
    ids, present = ([row[name] for row in rows] for name in ("image_id", "present"))
    doubts, refusal = review_masks([labels[image_id] for image_id in ids], present, classes, ids)
    if refusal is not None:
        raise RequestError(refusal)
    return review_lays(rows) + doubts
