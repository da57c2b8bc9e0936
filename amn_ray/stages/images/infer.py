"""Reading and checking one shard of records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from amn_ray.artifacts import Artifact
from amn_ray.data.images import NOT_AN_IMAGE, check_mask, decode_image, encode_mask
from amn_ray.data.listing import Summary, open_source, summarise
from amn_ray.data.source import Record, Source
from amn_ray.errors import RequestError, RunError
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
        "image": pa.string(),
        "mask": pa.string(),
        "annotations": pa.large_string(),
    }
)
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


def list_records(summary: Summary, output: Artifact) -> Source:
    """List the split and write its records; returns the source, which now knows its classes.

    Raises:
        RequestError: what is listed is not what `summary` says.
    """
    source = open_source(summary.config)
    listing = source.listing(summary.split)
    if summarise(summary.config, source, summary.split, listing).digest != summary.digest:
        raise RequestError(f"dataset={summary.config.name}: its files changed while they were listed; run again")
    size = summary.config.rows_per_shard
    output.fs.create_dir(output.path, recursive=True)
    with pq.ParquetWriter(output.at(RECORDS), RECORD_SCHEMA, filesystem=output.fs, compression="zstd") as writer:
        for start in range(0, summary.rows, size):
            rows = [vars(record) for record in listing.records[start : start + size]]
            writer.write_table(pa.Table.from_pylist(rows, schema=RECORD_SCHEMA))
    return source


def records_of(output: Artifact, shards: Iterable[int]) -> Iterator[Record]:
    """The records of some shards."""
    with pq.ParquetFile(output.at(RECORDS), filesystem=output.fs) as listed:
        for shard in shards:
            for row in listed.read_row_group(int(shard)).to_pylist():
                yield Record(**row | {"labels": tuple(row["labels"])})


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


@contextmanager
def loading(source: Source, *, in_doubt: bool) -> Iterator[Callable[[Record], dict[str, object]]]:
    """`load_row` of a source; `in_doubt` that an image ends the process that reads it, in another one."""
    load = partial(load_row, source)
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

    def __init__(self, source: Source, output: Artifact, *, skip_bad: bool) -> None:
        self.source = source
        self.output = output
        self.skip_bad = skip_bad

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        """Numbers of shards -> a table of SCHEMA; bad images are left out if that is allowed.

        Raises:
            RequestError: a bad image, unless `skip_bad`.
        """
        return pa.Table.from_pylist(list(self._rows(batch["id"])), schema=SCHEMA)

    def _rows(self, shards: Iterable[int]) -> Iterator[dict[str, object]]:
        for shard in shards:
            with loading(self.source, in_doubt=self._tries(shard) > 0) as load:
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


def problems_of(source: Source, output: Artifact, table: str, num_shards: int) -> tuple[int, list[str]]:
    """What the written table lacks.

    Returns:
        The number of its rows, and the defect of each image that is not among them.

    Raises:
        RunError: rows are double, or an image is missing that has no defect.
    """
    ids = output.table(table).all_ids()
    good = set(ids)
    problems, missing = [], []
    with loading(source, in_doubt=True) as load:
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
