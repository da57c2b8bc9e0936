"""Reading and checking one shard of records."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from amn_ray.core.artifacts import Artifact
from amn_ray.core.errors import RequestError, RunError
from amn_ray.data.digests import digest_of, hash_file, memory
from amn_ray.data.images import check_mask, encode_mask, mask_of_photograph, read_image
from amn_ray.data.label_checks import review_labels, review_masks
from amn_ray.data.listing import Summary, list_content, open_source, summarise
from amn_ray.data.photograph_checks import FACTS, mask_lay, review_photographs
from amn_ray.data.pixels import Pixels
from amn_ray.data.source import Record, Source
from amn_ray.stages.images.apart import Died, apart

RECORDS = "records.parquet"
"""What is to be read: a row per image, a row group per shard. It is removed once the table is there."""
TRIES = "tries"
"""A file per shard: how often it was begun. They are removed with the records."""
MAX_TRIES = 5
RECORD_SCHEMA = pa.schema(
    {
        "image_id": pa.string(),
        "labels": pa.list_(pa.int16()),
        "image": pa.binary(),  # a path is bytes, which need not be text
        "mask": pa.binary(),
        "annotations": pa.large_string(),
        "image_digest": pa.string(),
        "mask_digest": pa.string(),
    }
)
PATHS = ("image", "mask")
SCHEMA = pa.schema(
    {
        "image_id": pa.string(),
        "image": pa.binary(),
        "height": pa.int32(),
        "width": pa.int32(),
        "labels": pa.list_(pa.int16()),
        "mask": pa.binary(),
        "present": pa.list_(pa.int16()),  # the values in the mask; null without one
        "file_height": pa.int32(),  # of the upright file, which max_side may make smaller
        "file_width": pa.int32(),
        "orientation": pa.int8(),  # EXIF's 1…8
        "mask_lay": pa.string(),  # see data.photograph_checks.mask_lay
        "low": pa.float64(),  # the extreme values of images of more than 8 bits, else null
        "peak": pa.float64(),
        "floats": pa.bool_(),
    }
)
"""The image table. What follows `mask` tells of the files what only a decoder knows, for `review`."""


class BadImage(Exception):
    """An image or mask that cannot be used; the message names the file and the defect."""


def list_records(summary: Summary, output: Artifact) -> Source:
    """List the split and write its records; returns the source, which now knows its classes.

    Raises:
        RequestError: what is listed is not what `summary` says.
    """
    source = open_source(summary.config)
    listing = list_content(source, summary.split)
    if summarise(summary.config, source, summary.split, listing).digest != summary.digest:
        raise RequestError(f"dataset={summary.config.name}: its files changed while they were listed; run again")
    size = summary.config.rows_per_shard
    output.fs.create_dir(output.path, recursive=True)
    with pq.ParquetWriter(output.at(RECORDS), RECORD_SCHEMA, filesystem=output.fs, compression="zstd") as writer:
        for start in range(0, summary.rows, size):
            rows = [_row_of(record) for record in listing.records[start : start + size]]
            writer.write_table(pa.Table.from_pylist(rows, schema=RECORD_SCHEMA))
    return source


def records_of(output: Artifact, shards: Iterable[int]) -> Iterator[Record]:
    """The records of some shards."""
    with pq.ParquetFile(output.at(RECORDS), filesystem=output.fs) as listed:
        for shard in shards:
            for row in listed.read_row_group(int(shard)).to_pylist():
                paths = {name: os.fsdecode(row[name]) for name in PATHS if row[name] is not None}
                yield Record(**row | paths | {"labels": tuple(row["labels"])})


def _row_of(record: Record) -> dict[str, object]:
    row = vars(record)
    return row | {name: os.fsencode(row[name]) for name in PATHS if row[name] is not None}


def load_row(source: Source, record: Record, pixels: Pixels) -> dict[str, object]:
    """One row of the image table.

    Raises:
        BadImage: the image cannot be decoded, or its mask does not fit it or the class list.
        RequestError: they are not what was listed, so the table would not be what its name says.
    """
    try:
        encoded, mask_HW = source.load(record)
        _check_content(record, encoded)
        image = read_image(encoded, pixels)
        lay = None if mask_HW is None else mask_lay(mask_HW.shape, image)
        if mask_HW is not None:
            mask_HW = mask_of_photograph(mask_HW, image)
            check_mask(mask_HW, num_classes=len(source.classes))
    except (RequestError, RunError, MemoryError):
        raise
    except Exception as error:  # a file of a user's, read by libraries that raise anything
        told = " ".join(str(error).split()) or type(error).__name__
        if record.mask and told.startswith("mask"):
            told += f" ({_shown(record.mask)})"
        raise BadImage(f"{_shown(record.image or record.image_id)}: {told}") from error
    height, width = image.rgb.shape[:2]
    return {
        "image_id": record.image_id,
        "image": encoded,
        "height": height,
        "width": width,
        "labels": record.labels,
        "mask": None if mask_HW is None else encode_mask(mask_HW),
        "present": None if mask_HW is None else np.unique(mask_HW).tolist(),
        "file_height": image.size[0],
        "file_width": image.size[1],
        "orientation": image.orientation,
        "mask_lay": lay,
        "low": image.low,
        "peak": image.peak,
        "floats": image.floats,
    }


def _shown(path: str) -> str:
    return os.fsencode(path).decode(errors="backslashreplace")


def _check_content(record: Record, image: bytes) -> None:
    """Refuse files that changed after they were listed."""
    changed = record.image if record.image_digest and digest_of(image) != record.image_digest else None
    if record.mask and record.mask_digest and (mask := hash_file(record.mask)) and mask.digest != record.mask_digest:
        changed = record.mask
    if changed:
        raise RequestError(
            f"{changed}: changed after the data set was listed; run again (should this come back, remove "
            f"{memory()}, where the content of files is remembered)"
        )


@contextmanager
def loading(source: Source, pixels: Pixels, *, in_doubt: bool) -> Iterator[Callable[[Record], dict[str, object]]]:
    """`load_row` of a source; `in_doubt` that an image ends the process that reads it, in another one."""
    load = partial(load_row, source, pixels=pixels)
    if not in_doubt:
        yield load
        return
    with apart(load) as call:

        def load_apart(record: Record) -> dict[str, object]:
            try:
                return call(record)
            except Died as error:
                raise BadImage(f"{record.image or record.image_id}: reading it ends the process ({error})") from error

        yield load_apart


class Load:
    """Records -> rows of the image table."""

    def __init__(self, source: Source, output: Artifact, pixels: Pixels, *, skip_bad: bool) -> None:
        self.source = source
        self.output = output
        self.pixels = pixels
        self.skip_bad = skip_bad

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        """Numbers of shards -> a table of SCHEMA; bad images are left out if that is allowed.

        Raises:
            RequestError: a bad image, unless `skip_bad`.
        """
        return pa.Table.from_pylist(list(self._rows(batch["id"])), schema=SCHEMA)

    def _rows(self, shards: Iterable[int]) -> Iterator[dict[str, object]]:
        for shard in shards:
            with loading(self.source, self.pixels, in_doubt=self._tries(shard) > 0) as load:
                for record in records_of(self.output, [shard]):
                    try:
                        yield load(record)
                    except BadImage as problem:
                        if not self.skip_bad:
                            raise RequestError(
                                f"{problem}; mend or remove it, or set dataset.max_bad_fraction to skip a share of "
                                "such images"
                            ) from problem

    def _tries(self, shard: int) -> int:
        """How often the shard was begun before: Ray tries without end where a process died."""
        name = f"{TRIES}/{shard}"
        before = int(self.output.read(name)) if self.output.exists(name) else 0
        if before == MAX_TRIES:
            records = list(records_of(self.output, [shard]))
            raise RunError(
                f"the process that reads the images {records[0].image_id} to {records[-1].image_id} died {before} "
                "times; look whether there is enough memory, or lower dataset.rows_per_shard"
            )
        self.output.write(name, str(before + 1).encode())
        return before


def problems_of(source: Source, output: Artifact, table: str, num_shards: int, pixels: Pixels) -> tuple[int, list[str]]:
    """What the written table lacks.

    Returns:
        The number of its rows, and the defect of each image that is not among them.

    Raises:
        RunError: rows are double, or an image is missing that has no defect.
    """
    ids = output.table(table).all_ids()
    good = set(ids)
    problems, missing = [], []
    with loading(source, pixels, in_doubt=True) as load:
        for record in records_of(output, range(num_shards)):
            if record.image_id not in good:
                try:
                    load(record)
                except BadImage as problem:
                    problems.append(str(problem))
                else:
                    missing.append(record.image_id)
    if missing or len(ids) > len(good):
        raise RunError(
            f"{output.at(table)}: holds {len(ids)} rows, {len(good)} different, and lacks {len(missing)}, so another "
            "pipeline wrote to it at the same time; run again when it has ended"
        )
    return len(good), problems


def review(output: Artifact, table: str, pixels: Pixels, classes: Sequence[str], split: str) -> dict[str, Any]:
    """What the images say together; `classes` and `split` are those of the table.

    Returns:
        `warnings`, sentences for the user; and `largest`, the image of most pixels: `image_id`, `height`, `width`,
        `num_labels`.

    Raises:
        RequestError: as they are read, they would be black or white, or most masks contradict the labels.
    """
    rows = output.table(table).read([*FACTS, "labels", "present", "height", "width"]).to_pylist()
    labels, present, ids = ([row[name] for row in rows] for name in ("labels", "present", "image_id"))
    doubts, refusal = review_masks(labels, present, classes, ids)
    if refusal is not None:
        raise RequestError(refusal)
    if split == "train":
        doubts = review_labels(labels, classes) + doubts
    largest = max(rows, key=lambda row: row["height"] * row["width"])
    known = {name: largest[name] for name in ("image_id", "height", "width")}
    known["num_labels"] = len(largest["labels"])
    return {"warnings": review_photographs(rows, pixels) + doubts, "largest": known}
