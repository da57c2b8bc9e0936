"""Reading given maps and masks into tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from amn_ray.core.errors import RequestError
from amn_ray.data.images import MASK_SCHEMA, BadFile, Geometry, check_mask, mask_of_photograph, mask_row
from amn_ray.data.maps import SCHEMA, stored_size, to_row
from amn_ray.data.masks import MaskRule, read_mask
from amn_ray.stages.given.files import named_after
from amn_ray.stages.given.formats import GivenMaps, MissingMap, check, load, on_stored_grid, parsed

MAPS_SCHEMA = pa.schema([*SCHEMA, pa.field("dropped", pa.int32())])
"""A maps table, with the number of maps of classes that the image does not have."""
MAPS_COLUMNS = ("labels", "height", "width")
MASK_COLUMNS = ("labels", "height", "width", "file_height", "file_width", "orientation")


class ReadMaps:
    """Maps batches of the image table (joined with files) to the maps table."""

    def __init__(self, form: str, files: Mapping[str, Sequence[Path]], num_classes: int) -> None:
        self.form = form
        self.files = files
        self.num_classes = num_classes

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`image_id`, `labels`, `height`, `width` -> rows of MAPS_SCHEMA.

        Raises:
            RequestError: a file is not one of such maps.
        """
        return pa.Table.from_pylist([self._row(row) for row in batch.to_pylist()], schema=MAPS_SCHEMA)

    def _row(self, row: dict) -> dict[str, object]:
        labels, size = row["labels"], (row["height"], row["width"])
        if not labels:
            return to_row(row["image_id"], [], np.zeros((0, *stored_size(*size)), np.float32)) | {"dropped": 0}
        given = read_maps(self.form, self.files[row["image_id"]], labels, size, self.num_classes)
        chosen = given.maps[[given.keys.index(label) for label in labels]]
        dropped = len(given.keys) - len(labels)
        return to_row(row["image_id"], labels, on_stored_grid(chosen, size)) | {"dropped": dropped}


def read_maps(
    form: str, files: Sequence[Path], labels: Sequence[int], size: tuple[int, int], num_classes: int
) -> GivenMaps:
    """The checked maps of one image.

    Raises:
        RequestError: they cannot be used; it names the file.
    """
    try:
        given = parsed(form, load(form, files))
        check(given, labels, size, num_classes)
    except (ValueError, BadFile, OSError) as error:
        remedy = ", or set maps.max_missing to leave out a share of images" * isinstance(error, MissingMap)
        raise RequestError(
            f"{files[0]}: {' '.join(str(error).split())} (maps.format={form}); correct it{remedy}"
        ) from error
    return given


class ReadMasks:
    """Maps batches of the image table (joined with files) to the masks table."""

    def __init__(self, rule: MaskRule, files: Mapping[str, Path], upright: bool, num_classes: int, step: str) -> None:
        self.rule = rule
        self.files = files
        self.upright = upright
        self.num_classes = num_classes
        self.step = step

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`image_id` and MASK_COLUMNS -> rows of MASK_SCHEMA.

        Raises:
            RequestError: a mask cannot be used; it names the file.
        """
        return pa.Table.from_pylist([self._row(row) for row in batch.to_pylist()], schema=MASK_SCHEMA)

    def _row(self, row: dict) -> dict[str, object]:
        path = self.files[row["image_id"]]
        geometry = Geometry(
            (row["file_height"], row["file_width"]), row["orientation"], self.upright, (row["height"], row["width"])
        )
        try:
            mask_HW = mask_of_photograph(read_mask(path.read_bytes(), self.rule, row["labels"]), geometry)
            check_mask(mask_HW, num_classes=self.num_classes)
        except (ValueError, BadFile, OSError) as error:
            raise RequestError(f"{path}: {named_after(' '.join(str(error).split()), self.step)}") from error
        return mask_row(row["image_id"], mask_HW)
