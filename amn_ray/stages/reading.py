"""Robust reading of the files of a split, shard by shard, into the tables of images and truth.

A bad file is reported and left out, if that is allowed. A file that crashes the process that reads it is found by
reading its shard again in a separate process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from amn_ray.core.artifacts import TABLE, Artifact
from amn_ray.core.errors import RequestError, RunError, unwrap_worker_errors
from amn_ray.data.in_subprocess import Died, apart
from amn_ray.data.listing import Summary
from amn_ray.data.records import RECORDS, list_records, records_of, shown
from amn_ray.data.source import DatasetConfig, Record, Source
from amn_ray.platform.cluster import LIGHT_TASK_CPUS, Cluster
from amn_ray.platform.mapping import numbers, report_progress
from amn_ray.platform.memory import report_killed_workers

TRIES = "tries"
"""Folder with a file per shard: the number of attempts. Removed with the records."""
MAX_TRIES = 5
READER_CPUS = 0.5
"""CPUs reserved by a task that reads and checks a shard."""
Row = dict[str, object]


class BadImage(Exception):
    """An image or mask that cannot be used; the message names the file and the defect."""


class SparedImage(BadImage):
    """One that nothing depends on: it is left out and reported, whatever `dataset.max_bad_fraction`."""


@dataclass(frozen=True)
class Reading:
    """The outcome of reading the files of a split."""

    rows: int
    problems: list[str]
    """The defect of each file without a row."""
    spared: list[str]
    """The same for files that nothing depends on."""

    def warnings(self, files: str) -> list[str]:
        """Sentences that name and count what was left out; `files`: images or masks."""
        found = []
        if self.problems:
            found.append(f"{len(self.problems)} bad {files} are left out; the first: {self.problems[0]}")
        if self.spared:
            found.append(
                f"{len(self.spared)} {files} of images that are not evaluated cannot be used, and scores of all images "
                f"do without them; the first: {self.spared[0]}"
            )
        return found


class ReadRow(Protocol):
    """Makes the rows of a table from records."""

    @property
    def files(self) -> str:
        """What it reads: images or masks."""
        ...

    def path(self, record: Record) -> str:
        """The file of a record that it reads; without a file, the image's id."""
        ...

    def __call__(self, source: Source, record: Record) -> Row | None:
        """The row of a record; None if it has none.

        Raises:
            BadImage: the file cannot be used.
            RequestError: it is not what was listed, so the table would not match its fingerprint.
        """
        ...


@contextmanager
def defects_of(record: Record, kind: type[BadImage] = BadImage) -> Iterator[None]:
    """Turn any exception into a defect of the record's files: the libraries that read them raise anything.

    Raises:
        BadImage: of this kind; it names the image, and the mask if that is the defective one.
    """
    try:
        yield
    except (RequestError, RunError, MemoryError):
        raise
    except Exception as error:
        message = " ".join(str(error).split()) or type(error).__name__
        if record.mask and message.startswith("mask"):
            message += f" ({shown(record.mask)})"
        raise kind(f"{shown(record.image or record.image_id)}: {message}") from error


def read_table(
    summary: Summary,
    output: Artifact,
    cluster: Cluster,
    read_row: ReadRow,
    schema: pa.Schema,
    *,
    total: int,
    counted: int,
) -> Reading:
    """Write the table of a split.

    Args:
        summary: the split.
        output: where the table is written.
        cluster: where the files are read.
        read_row: reads a record.
        schema: of the table.
        total: the number of files to read, an upper bound of the rows.
        counted: how many of them are not spared if they are bad, of which `dataset.max_bad_fraction` allows a share.

    Raises:
        RequestError: more files are bad than `dataset.max_bad_fraction` allows.
        RunError: another pipeline wrote the same table.
    """
    # After a crash some shards are missing: start over rather than repair.
    output.remove()
    root = getattr(summary.config, "root", None)
    if root is not None:
        cluster.check_everywhere(_missing_root, root, working_only=True)
    source = cluster.run_remote(list_records, summary, output, ends=True)
    num_shards = math.ceil(summary.rows / summary.config.rows_per_shard)
    read = ReadShards(source, output, read_row, schema, skip_bad=summary.config.max_bad_fraction > 0)
    shards = numbers(num_shards, num_shards, None, READER_CPUS)
    with (
        report_killed_workers(output.stage, "dataset.rows_per_shard, or dataset.max_side"),
        unwrap_worker_errors(),
        report_progress(output.stage, output.fresh_table(), total),
    ):
        shards.map_batches(read, batch_size=None, num_cpus=READER_CPUS).write_parquet(
            output.at(TABLE),
            filesystem=output.fs,
            compression="zstd",
            row_group_size=16,  # training reads single rows
            ray_remote_args={"num_cpus": LIGHT_TASK_CPUS},
            concurrency=cluster.light_tasks(),
        )
    found = cluster.run_remote(review_table, source, output, read_row, num_shards)
    check_bad(summary.config, read_row.files, found.problems, counted)
    for done in (RECORDS, TRIES):
        output.remove(done)
    return found


def check_bad(config: DatasetConfig, files: str, problems: Sequence[str], total: int) -> None:
    """Reject a table if more of `total` images or masks have `problems` than `dataset.max_bad_fraction` allows.

    Raises:
        RequestError: it does.
    """
    allowed = config.max_bad_fraction
    if len(problems) > allowed * total:
        raise RequestError(
            f"{len(problems)} of {total} {files} are bad, dataset.max_bad_fraction={allowed} allows fewer; the first: "
            f"{problems[0]}"
        )


def _missing_root(root: str) -> str | None:
    return None if Path(root).exists() else f"has no dataset.root={root}; mount it at the same path on all nodes"


@contextmanager
def reading(source: Source, read_row: ReadRow, *, in_doubt: bool) -> Iterator[Callable[[Record], Row | None]]:
    """`read_row` for a source; if `in_doubt` whether a file crashes its process, in a separate one."""
    read = partial(read_row, source)
    if not in_doubt:
        yield read
        return
    with apart(read) as call:

        def read_apart(record: Record) -> Row | None:
            try:
                return call(record)
            except Died as error:
                path = shown(read_row.path(record))
                raise BadImage(f"{path}: reading it ends the process ({error})") from error

        yield read_apart


class ReadShards:
    """Shard numbers -> rows of the table."""

    def __init__(
        self, source: Source, output: Artifact, read_row: ReadRow, schema: pa.Schema, *, skip_bad: bool
    ) -> None:
        self.source = source
        self.output = output
        self.read_row = read_row
        self.schema = schema
        self.skip_bad = skip_bad

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        """`id` -> a table of the schema; bad files are left out if that is allowed.

        Raises:
            RequestError: a bad file, unless `skip_bad`.
            RunError: reading a shard crashed too many processes.
        """
        return pa.Table.from_pylist(list(self._rows(batch["id"])), schema=self.schema)

    def _rows(self, shards: Iterable[int]) -> Iterator[dict[str, Any]]:
        for shard in shards:
            with reading(self.source, self.read_row, in_doubt=self._tries(shard) > 0) as read:
                for record in records_of(self.output, [shard]):
                    try:
                        row = read(record)
                    except BadImage as problem:
                        if not (self.skip_bad or isinstance(problem, SparedImage)):
                            raise RequestError(
                                f"{problem}; mend or remove it, or set dataset.max_bad_fraction to leave out a share "
                                f"of {self.read_row.files}"
                            ) from problem
                    else:
                        if row is not None:
                            yield row

    def _tries(self, shard: int) -> int:
        """The number of earlier attempts at the shard: Ray retries forever after a process died."""
        name = f"{TRIES}/{shard}"
        before = int(self.output.read(name)) if self.output.exists(name) else 0
        if before == MAX_TRIES:
            records = list(records_of(self.output, [shard]))
            raise RunError(
                f"the process that reads the {self.read_row.files} {records[0].image_id} to {records[-1].image_id} "
                f"died {before} times; check that there is enough memory, or lower dataset.rows_per_shard"
            )
        self.output.write(name, str(before + 1).encode())
        return before


def review_table(source: Source, output: Artifact, read_row: ReadRow, num_shards: int) -> Reading:
    """The content of the written table, and what it lacks.

    Raises:
        RunError: rows are duplicated, or one is missing although its file has no defect.
    """
    table = output.fresh_table()
    ids = table.all_ids()
    good = set(ids)
    problems, spared, missing = list[str](), list[str](), list[str]()
    with reading(source, read_row, in_doubt=True) as read:
        for record in records_of(output, range(num_shards)):
            if record.image_id not in good:
                try:
                    row = read(record)
                except SparedImage as problem:
                    spared.append(str(problem))
                except BadImage as problem:
                    problems.append(str(problem))
                else:
                    if row is not None:
                        missing.append(record.image_id)
    if missing or len(ids) > len(good):
        raise RunError(
            f"{table.path}: holds {len(ids)} rows, {len(good)} different, and lacks {len(missing)}, so another "
            "pipeline wrote to it at the same time; run again when it has finished"
        )
    return Reading(len(good), problems, spared)
