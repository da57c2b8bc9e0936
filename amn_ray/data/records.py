"""The records of a split in a file, from which workers read their shards.

The driver knows a `Summary` only; whoever builds a table lists the split again, on a worker.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from amn_ray.core.errors import RequestError
from amn_ray.core.folders import Folder
from amn_ray.data.digests import digest_of, hash_file, memory
from amn_ray.data.listing import Summary, list_content, open_source, summarise
from amn_ray.data.source import Record, Source

RECORDS = "records.parquet"
"""A row per image, a row group per shard."""
RECORD_SCHEMA = pa.schema(
    {
        "image_id": pa.string(),
        "labels": pa.list_(pa.int16()),
        "image": pa.binary(),  # a path is bytes, which need not be text
        "mask": pa.binary(),
        "annotations": pa.large_string(),
        "image_digest": pa.string(),
        "mask_digest": pa.string(),
        "evaluated": pa.bool_(),
    }
)
PATHS = ("image", "mask")


def list_records(summary: Summary, folder: Folder) -> Source:
    """List the split and write its records; returns the source, which now knows its classes.

    Raises:
        RequestError: what is listed is not what `summary` says.
    """
    source = open_source(summary.config)
    listing = list_content(source, summary.split)
    found = summarise(summary.config, source, summary.split, listing)
    if (found.digest, found.truth_digest) != (summary.digest, summary.truth_digest):
        raise RequestError(f"dataset={summary.config.name}: its files changed while they were listed; run again")
    size = summary.config.rows_per_shard
    folder.fs.create_dir(folder.path, recursive=True)
    with pq.ParquetWriter(folder.at(RECORDS), RECORD_SCHEMA, filesystem=folder.fs, compression="zstd") as writer:
        for start in range(0, summary.rows, size):
            rows = [_row_of(record) for record in listing.records[start : start + size]]
            writer.write_table(pa.Table.from_pylist(rows, schema=RECORD_SCHEMA))
    return source


def records_of(folder: Folder, shards: Iterable[int]) -> Iterator[Record]:
    """The records of some shards."""
    with pq.ParquetFile(folder.at(RECORDS), filesystem=folder.fs) as listed:
        for shard in shards:
            for row in listed.read_row_group(int(shard)).to_pylist():
                paths = {name: os.fsdecode(row[name]) for name in PATHS if row[name] is not None}
                yield Record(**row | paths | {"labels": tuple(row["labels"])})


def _row_of(record: Record) -> dict[str, object]:
    row = vars(record)
    return row | {name: os.fsencode(row[name]) for name in PATHS if row[name] is not None}


def shown(path: str) -> str:
    """A path, whose bytes need not be text, for the reader."""
    return os.fsencode(path).decode(errors="backslashreplace")


def check_image(record: Record, encoded: bytes) -> None:
    """Refuse an image that changed after it was listed.

    Raises:
        RequestError: it did.
    """
    if record.image_digest and digest_of(encoded) != record.image_digest:
        raise _changed(record.image)


def check_mask_file(record: Record) -> None:
    """Refuse a mask that changed after it was listed.

    Raises:
        RequestError: it did.
    """
    if record.mask and record.mask_digest and (mask := hash_file(record.mask)) and mask.digest != record.mask_digest:
        raise _changed(record.mask)


def _changed(path: str) -> RequestError:
    return RequestError(
        f"{path}: changed after the data set was listed; run again (should this come back, remove {memory()}, where "
        "the content of files is remembered)"
    )
