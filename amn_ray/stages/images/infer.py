"""Reading and checking one shard of records."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from amn_ray.data.images import NOT_AN_IMAGE, check_mask, decode_image, encode_mask
from amn_ray.data.source import Record, Source
from amn_ray.errors import RequestError

SCHEMA = pa.schema(
    {
        "image_id": pa.string(),
        "image": pa.binary(),
        "height": pa.int32(),
        "width": pa.int32(),
        "labels": pa.list_(pa.int16()),
        "mask": pa.binary(),
    }
)


class BadImage(Exception):
    """An image or mask that cannot be used; the message names the file and the defect."""


def load_row(source: Source, record: Record) -> dict[str, object]:
    """One row of the image table.

    Raises:
        BadImage: the image cannot be decoded, or its mask does not fit it or the class list.
    """
    try:
        image, mask_HW = source.load(record)
        height, width = decode_image(image).shape[:2]
        if mask_HW is not None:
            check_mask(mask_HW, size=(height, width), num_classes=len(source.classes))
    except NOT_AN_IMAGE as error:
        raise BadImage(f"{record.image or record.image_id}: {str(error) or type(error).__name__}") from error
    return {
        "image_id": record.image_id,
        "image": image,
        "height": height,
        "width": width,
        "labels": record.labels,
        "mask": None if mask_HW is None else encode_mask(mask_HW),
    }


class Load:
    """Records -> rows of the image table."""

    def __init__(self, source: Source, records: list[Record], *, skip_bad: bool) -> None:
        self.source = source
        self.records = records
        self.skip_bad = skip_bad

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        """Positions in `records` -> a table of SCHEMA; bad images are left out if that is allowed.

        Raises:
            RequestError: a bad image, unless `skip_bad`.
        """
        return pa.Table.from_pylist(list(self._rows(batch["id"])), schema=SCHEMA)

    def _rows(self, positions: Iterable[int]) -> Iterable[dict[str, object]]:
        for position in positions:
            try:
                yield load_row(self.source, self.records[int(position)])
            except BadImage as problem:
                if not self.skip_bad:
                    raise RequestError(
                        f"{problem}; mend or remove it, or set dataset.max_bad_fraction to skip a share of such images"
                    ) from problem
