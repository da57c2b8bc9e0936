"""Table in, table out, on Ray Data: what all inference stages share.

Reading, decoding, the network or CRF, and writing overlap in one streaming execution. Ray Data's row checkpoints record
finished shards, so that a restart continues without losing or repeating a row.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.data._internal.datasource.range_datasource import RangeDatasource
from ray.data.checkpoint import CheckpointConfig, CheckpointManager
from ray.data.checkpoint.checkpoint_writer import PENDING_CHECKPOINT_SUFFIX

from amn_ray.core.artifacts import Artifact
from amn_ray.core.console import say, time_left
from amn_ray.core.errors import RunError, told_by_workers
from amn_ray.core.tables import Table
from amn_ray.platform.cluster import LIGHT_TASK_CPUS, Cluster, Share
from amn_ray.platform.memory import RETRIES, told_if_killed
from amn_ray.platform.pacing import paced

PROGRESS = "progress"
PROGRESS_S = 30
"""Seconds between two lines about progress."""
BATCH = 16
"""Rows per call of a mapper."""
_PENDING = f"{PENDING_CHECKPOINT_SUFFIX}.parquet"


On = Literal["networks", "cpus", "tasks"]
MAPPING_METRICS = ("images_per_second",)
"""Metrics of every stage that maps a table."""


def map_table(
    cluster: Cluster,
    source: Artifact,
    columns: Sequence[str],
    mapper: type,
    settings: Mapping[str, Any],
    output: Artifact,
    *,
    on: On,
) -> dict[str, Any]:
    """Map `mapper(**settings)` over the rows of one artifact's table, into the table of another one.

    Args:
        cluster: where it runs.
        source: the table to read.
        columns: those of its columns that `mapper` needs, besides `image_id`.
        mapper: a class; its instances turn a pyarrow.Table batch into one with the same `image_id`s.
        settings: the arguments of its constructor; with on="networks" also `threads`, for PyTorch.
        output: the table to write; rows that it already has are kept.
        on: what the mapper runs on: `networks` are actors with a GPU or a part of the CPUs, `cpus` are actors with one
            CPU, `tasks` are tasks with one CPU, for mappers that are constructed fast.

    Returns:
        `rows`, and as `metrics` the rows per second of this run (0 if no rows remained).

    Raises:
        RequestError: raised by the mapper.
        RunError: raised by the mapper, its process was killed, or rows are missing or duplicated at the end.
    """
    cluster.connect()
    share = None
    if on == "networks":
        share = cluster.map_share()
        settings = {**settings, "threads": share.threads}
    elif on == "cpus":
        share = cluster.cpu_share()
    work = partial(_map_rest, cluster, source, columns, mapper, settings, output, share)
    speed = cluster.patiently(output.stage, work, progress=output.fresh_table().count)
    return {"rows": source.manifest()["rows"], "metrics": {"images_per_second": speed}}


def _map_rest(
    cluster: Cluster,
    source: Artifact,
    columns: Sequence[str],
    mapper: type,
    settings: Mapping[str, Any],
    output: Artifact,
    share: Share | None,
) -> float:
    """The work of map_table; it resumes when it is called again."""
    gc.collect()  # actors of a failed dataset live as long as its error, and hold their CPUs
    table_in, table_out = source.fresh_table(), output.fresh_table()
    before, expected = table_out.count(), table_in.count()
    if before >= expected:  # a run wrote all rows and died before its manifest
        cluster.run_remote(check_rows, table_in, table_out)
        output.remove(PROGRESS)
        return 0
    output.check_claim()
    started = time.monotonic()
    light = {"num_cpus": LIGHT_TASK_CPUS}
    at_once = cluster.light_tasks()
    with (
        _row_checkpoints(output),
        told_progress(output.stage, table_out, expected),
        told_if_killed(output.stage, f"{share.setting if share else 'cluster.cpus'}, or dataset.max_side"),
        told_by_workers(),
    ):
        rows = paced(
            ray.data.read_parquet(
                table_in.files,
                filesystem=table_in.fs,
                columns=["image_id", *columns],
                file_extensions=None,  # else a path that holds ? has none, and its rows are left out
                override_num_blocks=len(table_in.files),
                concurrency=at_once,
                **light,
            )
        )
        if before:
            # DEFAULT: not within the resources of a study's trial, if this is one.
            listing = ray.remote(scheduling_strategy="DEFAULT", **light)(_done)
            _forget_doubtful(Table(output.fs, output.at(PROGRESS)))
            done = listing.remote(Table(output.fs, output.at(PROGRESS)))
            rows = rows.map_batches(
                _left, fn_kwargs={"done": done}, batch_size=None, batch_format="pyarrow", concurrency=at_once, **light
            )
        if share is None:
            made = rows.map_batches(
                partial(_map, mapper, dict(settings)),
                batch_size=BATCH,
                batch_format="pyarrow",
                num_cpus=Share(1, cpus=1).reserved_cpus,
                ray_remote_args_fn=tasks_of_tries,
            )
        else:
            made = rows.map_batches(
                mapper,
                fn_constructor_kwargs=dict(settings),
                batch_size=BATCH,
                batch_format="pyarrow",
                compute=pool(cluster, share, len(table_in.files)),
                num_cpus=share.reserved_cpus,
                num_gpus=share.gpus or None,
                ray_remote_args_fn=actors_of_tries,
            )
        made.write_parquet(
            table_out.path, filesystem=table_out.fs, compression="zstd", ray_remote_args=light, concurrency=at_once
        )
    seconds = time.monotonic() - started
    cluster.run_remote(check_rows, table_in, table_out)
    output.remove(PROGRESS)
    return (expected - before) / seconds


def pool(cluster: Cluster, share: Share, num_pieces: int) -> ActorPoolStrategy:
    """The actors of a stage: not more than pieces of work, since each takes seconds to start.

    On a cluster, lost nodes are not waited for, and nodes that join are used if `share.may_grow`.
    """
    wanted = min(share.count, num_pieces)
    if cluster.is_own:
        return ActorPoolStrategy(size=wanted)
    return ActorPoolStrategy(min_size=1, initial_size=wanted, max_size=num_pieces if share.may_grow else wanted)


def actors_of_tries() -> dict[str, int]:
    """Options of Ray Data's actors, which otherwise retry without end what kills their process."""
    return {"max_task_retries": RETRIES}


def tasks_of_tries() -> dict[str, int]:
    """The same for tasks."""
    return {"max_retries": RETRIES}


def check_rows(source: Table, made: Table) -> None:
    """Check that every row of `source` is in `made` exactly once.

    Raises:
        RunError: it is not.
    """
    expected, found = source.all_ids(), made.all_ids()
    if found != expected:
        raise RunError(
            f"{made.path}: holds {len(found)} rows ({len(set(found))} different), expected {len(expected)}; "
            "make sure that every node sees this store, delete this folder and run again"
        )


def numbers(count: int, num_blocks: int, at_once: int | None, num_cpus: float = LIGHT_TASK_CPUS) -> ray.data.Dataset:
    """A dataset with the column `id` = 0…count−1, read by `at_once` tasks of `num_cpus`.

    `ray.data.range` reserves a whole CPU per task, which a node with one CPU does not have beside a worker.
    """
    source = RangeDatasource(n=count, block_format="arrow", column_name="id")
    return ray.data.read_datasource(source, concurrency=at_once, num_cpus=num_cpus, override_num_blocks=num_blocks)


def _map(mapper: type, settings: dict[str, Any], batch: pa.Table) -> pa.Table:
    return mapper(**settings)(batch)


@contextmanager
def told_progress(step: str, table: Table, total: int) -> Iterator[None]:
    """Log every half minute how many rows are written and the remaining time."""
    ended = threading.Event()
    started, before = time.monotonic(), table.count()

    def tell() -> None:
        while not ended.wait(PROGRESS_S):
            done = table.count()
            if before < done < total:
                speed = (done - before) / (time.monotonic() - started)
                say(step, f"{done}/{total} images, {speed:.1f} images/s, {time_left((total - done) / speed)} left")

    watcher = threading.Thread(target=tell, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _forget_doubtful(progress: Table) -> None:
    """Delete final checkpoints that still have a pending twin: Ray will remove their data.

    Object stores copy instead of renaming, and a retried task writes again. To be called before finished rows are read,
    and before Ray removes pending ones.
    """
    names = set(progress.files)
    for name in names:
        final = f"{name.removesuffix(_PENDING)}.parquet"
        if name.endswith(_PENDING) and final in names:
            progress.fs.delete_file(final)


def _done(progress: Table) -> pa.Array:
    """The ids of all rows that earlier runs have finished."""
    whole = [path for path in progress.files if not path.endswith(_PENDING)]
    shards = [pq.read_table(path, columns=["image_id"], filesystem=progress.fs, partitioning=None) for path in whole]
    return pa.concat_tables(shards).column(0).combine_chunks() if shards else pa.array([], pa.string())


def _left(batch: pa.Table, done: ray.ObjectRef) -> Iterator[pa.Table]:
    """The remaining rows, if any."""
    left = batch.filter(pc.invert(pc.is_in(batch.column("image_id"), value_set=ray.get(done))))
    if left.num_rows:
        yield left


class _Cleaner(CheckpointManager):
    """Removes what a dead run left half written, and nothing else.

    Ray's own class would also drop finished rows, in actors that need a CPU each, while the models hold all CPUs.
    """

    def load_checkpoint(
        self, data_file_dir: str | None = None, data_file_filesystem: pa.fs.FileSystem | None = None
    ) -> tuple[None, int]:
        """See ray.data's CheckpointManager."""
        self._clean_pending_checkpoints(data_file_dir, data_file_filesystem)
        return None, 0


@contextmanager
def _row_checkpoints(output: Artifact) -> Iterator[None]:
    context = DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(
        id_column="image_id",
        checkpoint_path=output.at(PROGRESS),
        override_filesystem=output.fs,
        checkpoint_manager_cls=_Cleaner,
        delete_checkpoint_on_success=False,  # only once the rows have been counted
    )
    try:
        yield
    finally:
        context.checkpoint_config = None
