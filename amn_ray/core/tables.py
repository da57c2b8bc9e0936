"""Parquet tables with one row per image, looked up by image id."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from amn_ray.core.folders import write_atomic

_INDEX = {"image_id": pa.string(), "file": pa.string(), "group": pa.int32(), "row": pa.int32()}


class Table:
    """A folder of Parquet shards with one row per image, looked up by `image_id`.

    Stages join their inputs by looking rows up: shards hold neighbouring images in every table, so the rows that one
    batch needs lie in one or two row groups, and no shuffle moves any data.
    """

    def __init__(self, fs: pa.fs.FileSystem, path: str) -> None:
        self.fs = fs
        self.path = path
        self._row_group = lru_cache(maxsize=4)(self._read_row_group)
        self._rows: dict[str, int] = {}

    def __reduce__(self) -> tuple[type[Table], tuple[pa.fs.FileSystem, str]]:
        return Table, (self.fs, self.path)  # without the caches of this process

    @property
    def files(self) -> list[str]:
        selector = pa.fs.FileSelector(self.path, allow_not_found=True)
        return sorted(item.path for item in self.fs.get_file_info(selector) if item.path.endswith(".parquet"))

    @property
    def columns(self) -> list[str]:
        """The names of its columns."""
        return pq.read_schema(self.files[0], filesystem=self.fs).names

    def count(self) -> int:
        """The number of rows in all complete shards; a shard that is being written is left out."""
        files = self.files
        for path in files:
            if path not in self._rows:  # a shard never changes
                with suppress(pa.ArrowInvalid, OSError), pq.ParquetFile(path, filesystem=self.fs) as shard:
                    self._rows[path] = shard.metadata.num_rows
        return sum(self._rows.get(path, 0) for path in files)

    def write_index(self) -> None:
        """Write the index of rows, so that readers need not open all shards; call it after the last row is written."""
        locations = [(image_id, posixpath.basename(path), group, row) for image_id, (path, group, row) in self._scan()]
        columns = list(zip(*locations, strict=True)) or [(), (), (), ()]
        table = pa.table(
            {name: pa.array(values, kind) for (name, kind), values in zip(_INDEX.items(), columns, strict=True)}
        )
        stream = pa.BufferOutputStream()
        pq.write_table(table, stream, compression="zstd")
        write_atomic(self.fs, self._index, stream.getvalue().to_pybytes())

    @property
    def _index(self) -> str:
        return f"{self.path}.index.parquet"

    @cached_property
    def _places(self) -> dict[str, tuple[str, int, int]]:
        """image_id -> (file, row group, row in the group)."""
        if self.fs.get_file_info(self._index).type == pa.fs.FileType.File:
            rows = pq.read_table(self._index, filesystem=self.fs, partitioning=None).to_pydict()
            files = [posixpath.join(self.path, name) for name in rows["file"]]
            return dict(zip(rows["image_id"], zip(files, rows["group"], rows["row"], strict=True), strict=True))
        return dict(self._scan())

    def _scan(self) -> Iterator[tuple[str, tuple[str, int, int]]]:
        """The same, read from the shards: image_id, (file, row group, row in the group)."""
        for path in self.files:
            with pq.ParquetFile(path, filesystem=self.fs) as shard:
                for group in range(shard.num_row_groups):
                    ids = shard.read_row_group(group, columns=["image_id"]).column(0).to_pylist()
                    yield from ((image_id, (path, group, row)) for row, image_id in enumerate(ids))

    def ids(self) -> list[str]:
        """All image ids, sorted."""
        return sorted(self._places)

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._places

    def all_ids(self) -> list[str]:
        """All image ids on disk, sorted; duplicates are kept."""
        ids: list[str] = []
        for path in self.files:
            with suppress(pa.ArrowInvalid, OSError), pq.ParquetFile(path, filesystem=self.fs) as shard:
                ids += shard.read(columns=["image_id"]).column(0).to_pylist()
        return sorted(ids)

    def find(self, ids: Sequence[str], columns: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of a few ids, in the given order, without reading the index of the whole table.

        Raises:
            KeyError: an id is not in the table.
        """
        from pyarrow import dataset  # imports pandas: a quarter of a second, which few processes need

        wanted = dataset.dataset(self.files, filesystem=self.fs, format="parquet").to_table(
            columns=["image_id", *columns], filter=dataset.field("image_id").isin(list(ids))
        )
        rows = {row["image_id"]: row for row in wanted.to_pylist()}
        return [rows[image_id] for image_id in ids]

    def column(self, name: str) -> dict[str, Any]:
        """One (small) column of the whole table by image id."""
        rows = self.read([name])
        return dict(zip(rows.column("image_id").to_pylist(), rows.column(name).to_pylist(), strict=True))

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Whole columns, with `image_id`, ordered by it."""
        shards = [
            pq.read_table(path, columns=["image_id", *columns], filesystem=self.fs, partitioning=None)
            for path in self.files
        ]
        return pa.concat_tables(shards).sort_by("image_id")

    def take(self, ids: Iterable[str], columns: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of `ids`, in the given order, as dicts of `columns`.

        Raises:
            KeyError: an id is not in the table.
        """
        names = tuple(columns)
        rows = []
        for image_id in ids:
            path, group, row = self._places[image_id]
            table = self._row_group(path, group, names)
            rows.append({name: table.column(name)[row].as_py() for name in names})
        return rows

    def _read_row_group(self, path: str, group: int, columns: tuple[str, ...]) -> pa.Table:
        with pq.ParquetFile(path, filesystem=self.fs) as shard:
            return shard.read_row_group(group, columns=list(columns))
