"""Reading and checking one shard of records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from amn_ray.artifacts import Artifact
from amn_ray.data.content import digest_of, hash_file, memory
from amn_ray.data.images import NOT_AN_IMAGE, check_mask, decode_image, encode_mask
from amn_ray.data.listing import Summary, list_content, open_source, summarise
from amn_ray.data.source import Record, Source
from amn_ray.errors import RequestError, RunError

RECORDS = "records.parquet"
"""What is to be read: a row per image, a row group per shard. It is removed once the table is there."""
RECORD_SCHEMA = pa.schema(
    {
        "image_id": pa.string(),
        "labels": pa.list_(pa.int16()),
        "image": pa.string(),
        "mask": pa.string(),
        "annotations": pa.large_string(),
        "image_digest": pa.string(),
        "mask_digest": pa.string(),
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
    listing = list_content(source, summary.split)
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
        RequestError: they are not what was listed, so the table would not be what its name says.
    """
    try:
        image, mask_HW = source.load(record)
        _check_content(record, image)
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
        for record in records_of(self.output, shards):
            try:
                yield load_row(self.source, record)
            except BadImage as problem:
                if not self.skip_bad:
                    raise RequestError(
                        f"{problem}; mend or remove it, or set dataset.max_bad_fraction to skip a share of such images"
                    ) from problem


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
    for record in records_of(output, range(num_shards)):
        if record.image_id not in good:
            try:
                load_row(source, record)
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
