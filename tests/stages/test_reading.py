"""Reading the files of a split by shards: what is bad is named, what ends the process is found, and all is there."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amn_ray.core.artifacts import TABLE, Artifact, Store
from amn_ray.core.errors import RequestError, RunError
from amn_ray.data.images import BadFile
from amn_ray.data.listing import Summary
from amn_ray.data.pixels import DEFAULT
from amn_ray.data.records import list_records
from amn_ray.data.shapes import ShapesConfig
from amn_ray.data.source import Record, Source
from amn_ray.stages.images.infer import SCHEMA, ReadImage
from amn_ray.stages.reading import (
    MAX_TRIES,
    TRIES,
    BadImage,
    Reading,
    ReadShards,
    Row,
    check_bad,
    defects_of,
    reading,
    review_table,
)
from amn_ray.testing import FatalConfig
from tests.photographs import train

FATAL = "train_00005"


def summary(fatal: str = FATAL) -> Summary:
    return train(FatalConfig(name="fatal", num_train=12, size=32, rows_per_shard=4, fatal=fatal))


@pytest.fixture
def output(tmp_path: Path) -> Artifact:
    return Store.open(str(tmp_path)).artifact("images", 1, {}, {})


@dataclass(frozen=True)
class ReadId:
    """Rows that hold an id: `none` makes no row, `bad` is bad, and `fatal` ends the process."""

    bad: str = ""
    none: str = ""
    fatal: str = ""
    files: ClassVar[str] = "masks"

    def path(self, record: Record) -> str:
        return record.mask or record.image_id

    def __call__(self, source: Source, record: Record) -> Row | None:
        if record.image_id == self.fatal:
            os.kill(os.getpid(), signal.SIGSEGV)
        with defects_of(record):
            if record.image_id == self.bad:
                raise ValueError("is odd")
        return None if record.image_id == self.none else {"image_id": record.image_id}


IDS = pa.schema({"image_id": pa.string()})


# --- Bad files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("is\n  odd"), "^photos/x.png: is odd$"),
        (KeyError(), "^photos/x.png: KeyError$"),
        (OSError(13, "Permission denied"), "^photos/x.png: .*Permission denied$"),
        (BadFile("mask: is odd"), r"^photos/x.png: mask: is odd \(masks/x.png\)$"),
    ],
)
def test_whatever_fails_names_the_file(error: Exception, told: str) -> None:
    with pytest.raises(BadImage, match=told), defects_of(Record("x", (), "photos/x.png", "masks/x.png")):
        raise error


@pytest.mark.parametrize("error", [RequestError("changed"), RunError("lost"), MemoryError()])
def test_what_is_no_fault_of_the_file_is_not_blamed_on_it(error: Exception) -> None:
    with pytest.raises(type(error)), defects_of(Record("x", (), "photos/x.png")):
        raise error


def test_paths_are_told_readably_and_drawn_images_by_their_ids() -> None:
    with pytest.raises(BadImage, match=r"^f\\xfcr\.png: odd$"), defects_of(Record("f", (), os.fsdecode(b"f\xfcr.png"))):
        raise ValueError("odd")
    with pytest.raises(BadImage, match=r"^train_1: mask is odd$"), defects_of(Record("train_1", (), "", "")):
        raise ValueError("mask is odd")


@pytest.mark.parametrize("skip_bad", [True, False])
def test_a_bad_file_is_left_out_or_refused_and_no_row_is_no_fault(output: Artifact, skip_bad: bool) -> None:
    source = list_records(summary(), output)
    read = ReadShards(source, output, ReadId(bad="train_00001", none="train_00002"), IDS, skip_bad=skip_bad)
    if skip_bad:
        assert read({"id": np.array([0])}).column("image_id").to_pylist() == ["train_00000", "train_00003"]
    else:
        with pytest.raises(
            RequestError,
            match=r"^train_00001: is odd; mend or remove it, or set dataset\.max_bad_fraction .* of masks$",
        ):
            read({"id": np.array([0])})


def test_more_bad_files_than_are_allowed_are_refused() -> None:
    config = ShapesConfig(max_bad_fraction=0.25)
    check_bad(config, "masks", [], 0)
    check_bad(config, "masks", ["b: is odd"], 4)
    with pytest.raises(
        RequestError,
        match=r"^2 of 4 masks are bad, dataset\.max_bad_fraction=0\.25 allows fewer; the first: b: is odd$",
    ):
        check_bad(config, "masks", ["b: is odd", "c: is odd"], 4)


# --- Files that end the process --------------------------------------------------------------------------------------


@pytest.mark.parametrize("skip_bad", [True, False])
def test_a_second_try_reads_what_the_first_one_died_of_in_another_process(output: Artifact, skip_bad: bool) -> None:
    read = ReadShards(list_records(summary(), output), output, ReadImage(DEFAULT), SCHEMA, skip_bad=skip_bad)
    output.write(f"{TRIES}/1", b"1")  # the first one's
    if skip_bad:
        assert read({"id": np.array([1])}).column("image_id").to_pylist() == [
            "train_00004",
            "train_00006",
            "train_00007",
        ]
    else:
        with pytest.raises(RequestError, match=rf"{FATAL}: reading it ends the process \(SIGSEGV\); mend or remove it"):
            read({"id": np.array([1])})


def test_what_ends_the_process_is_named_readably_and_the_next_is_read() -> None:
    fatal = Record("b", (1,), "photos/b.png", os.fsdecode(b"masks/\xfc.png"))
    with reading(None, ReadId(fatal="b"), in_doubt=True) as read:  # type: ignore[arg-type]
        with pytest.raises(BadImage, match=r"^masks/\\xfc\.png: reading it ends the process \(SIGSEGV\)$"):
            read(fatal)
        assert read(Record("c", (1,), "photos/c.png")) == {"image_id": "c"}


def test_tries_have_an_end(output: Artifact) -> None:
    read = ReadShards(list_records(summary(fatal=""), output), output, ReadImage(DEFAULT), SCHEMA, skip_bad=True)
    for _ in range(MAX_TRIES):
        assert read({"id": np.array([2])}).num_rows == 4
    with pytest.raises(RunError, match=rf"reads the images train_00008 to train_00011 died {MAX_TRIES} times"):
        read({"id": np.array([2])})


# --- Whether all is there --------------------------------------------------------------------------------------------


@pytest.fixture
def written(output: Artifact) -> Callable[..., Reading]:
    """Write these rows, as workers might have, and ask what they lack."""
    source = list_records(summary(fatal=""), output)

    def write(*ids: int, read_row: ReadId) -> Reading:
        Path(output.at(TABLE)).mkdir(parents=True)
        if ids:
            table = pa.table({"image_id": [f"train_{number:05d}" for number in ids]})
            pq.write_table(table, Path(output.at(TABLE)) / "0.parquet")
        return review_table(source, output, read_row, 3)

    return write


def test_a_table_lacks_what_is_bad_or_makes_no_row(written: Callable[..., Reading]) -> None:
    rows = [number for number in range(12) if number not in (1, 2, 5)]
    read_row = ReadId(bad="train_00001", none="train_00002", fatal=FATAL)
    told = ["train_00001: is odd", f"{FATAL}: reading it ends the process (SIGSEGV)"]
    assert written(*rows, read_row=read_row) == Reading(9, told, [])


def test_a_table_without_any_row_lacks_all(written: Callable[..., Reading]) -> None:
    with pytest.raises(RunError, match="holds 0 rows, 0 different, and lacks 11"):
        written(read_row=ReadId(none="train_00002"))


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([*range(12), 3], "holds 13 rows, 12 different, and lacks 0"),
        (range(11), "holds 11 rows, 11 different, and lacks 1"),
    ],
)
def test_a_row_that_is_there_twice_or_not_at_all_is_another_pipelines_doing(
    written: Callable[..., Reading], rows: Sequence[int], told: str
) -> None:
    with pytest.raises(RunError, match=f"{told}, so another pipeline wrote to it"):
        written(*rows, read_row=ReadId())
