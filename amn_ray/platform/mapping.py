"""Maps one table to another on Ray Data, as all inference stages do.

Reading, decoding, the network or CRF, and writing overlap in one streaming execution. Ray Data's row checkpoints record
finished shards, so that a restart continues without losing or repeating a row.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.data.checkpoint import CheckpointConfig

from amn_ray.core.artifacts import Artifact
from amn_ray.core.console import log, time_left
from amn_ray.core.errors import RunError, unwrap_worker_errors
from amn_ray.core.tables import Table
from amn_ray.platform import ray_internals
from amn_ray.platform.cluster import LIGHT_TASK_CPUS, Cluster, Resources
from amn_ray.platform.memory import RETRIES, report_killed_workers
from amn_ray.platform.pacing import paced

PROGRESS = "progress"
PROGRESS_S = 30
"""Seconds between two progress messages."""
BATCH = 16
"""Rows per call of a mapper."""
_PENDING = f"{ray_internals.PENDING_CHECKPOINT_SUFFIX}.parquet"


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
    ids: Collection[str] | None = None,
    rows_per_block: int | None = None,
) -> dict[str, Any]:
    """Map `mapper(**settings)` over the rows of one artifact's table, into the table of another one.

    Args:
        cluster: where it runs.
        source: the table to read.
        columns: those of its columns that `mapper` needs, besides `image_id`.
        mapper: a class; its instances turn a pyarrow.Table batch into one with the same `image_id`s.
        settings: the arguments of its constructor; with on="networks" also `threads`, for PyTorch.
        output: the table to write; rows that it already has are kept.
        on: what the mapper runs on: `networks` are actors with a GPU or some of the CPUs, `cpus` are actors with one
            CPU, `tasks` are tasks with one CPU, for mappers that are cheap to construct.
        ids: the rows of the source to map, all of them if None.
        rows_per_block: how many rows are mapped and written together, and lost together if a process dies; None: those
            of a shard of the source.

    Returns:
        `rows`, the number of rows of the output; and in `metrics` the rows per second of this run (0 if no rows
        remained).

    Raises:
        RequestError: raised by the mapper.
        RunError: raised by the mapper, its process was killed, or rows are missing or duplicated at the end.
    """
    cluster.connect()
    resources = None
    if on == "networks":
        resources = cluster.map_share()
        settings = {**settings, "threads": resources.threads}
    elif on == "cpus":
        resources = cluster.cpu_share()
    wanted = None if ids is None or len(ids) == source.fresh_table().count() else frozenset(ids)
    work = partial(
        _map_remaining, cluster, source, columns, mapper, settings, output, resources, wanted, rows_per_block
    )
    speed = cluster.resumed(output.stage, work, progress=output.fresh_table().count)
    return {"rows": output.fresh_table().count(), "metrics": {"images_per_second": speed}}


def _map_remaining(
    cluster: Cluster,
    source: Artifact,
    columns: Sequence[str],
    mapper: type,
    settings: Mapping[str, Any],
    output: Artifact,
    resources: Resources | None,
    wanted: frozenset[str] | None,
    rows_per_block: int | None,
) -> float:
    """The work of map_table on all rows of the source, or on the `wanted` ones; it resumes when it is called again."""
    gc.collect()  # actors of a failed dataset live as long as its exception, and hold their CPUs
    table_in, table_out = source.fresh_table(), output.fresh_table()
    before, expected = table_out.count(), table_in.count() if wanted is None else len(wanted)
    if before >= expected:  # a run wrote all rows and died before it wrote the manifest
        cluster.run_remote(check_rows, table_in, table_out, wanted)
        output.remove(PROGRESS)
        return 0
    output.check_claim()
    started = time.monotonic()
    light = {"num_cpus": LIGHT_TASK_CPUS}
    max_concurrency = cluster.light_tasks()
    with (
        _row_checkpoints(output),
        report_progress(output.stage, table_out, expected),
        report_killed_workers(
            output.stage, f"{resources.setting if resources else 'cluster.cpus'}, or dataset.max_side"
        ),
        unwrap_worker_errors(),
    ):
        rows = paced(
            ray.data.read_parquet(
                table_in.files,
                filesystem=table_in.fs,
                columns=["image_id", *columns],
                file_extensions=None,  # else a path with a ? has no extension, and its rows are skipped
                override_num_blocks=len(table_in.files),
                concurrency=max_concurrency,
                **light,
            )
        )
        if before or wanted is not None:
            # DEFAULT: not within the resources of a study's trial, if this is one.
            listing = ray.remote(scheduling_strategy="DEFAULT", **light)(_finished_ids)
            _delete_doubtful(Table(output.fs, output.at(PROGRESS)))
            done = listing.remote(Table(output.fs, output.at(PROGRESS)))
            chosen = None if wanted is None else ray.put(pa.array(sorted(wanted), pa.string()))
            rows = rows.map_batches(
                _remaining,
                fn_kwargs={"done": done, "wanted": chosen},
                batch_size=None,
                batch_format="pyarrow",
                concurrency=max_concurrency,
                **light,
            )
        if rows_per_block is not None:
            rows = ray_internals.in_small_blocks(rows, rows_per_block, LIGHT_TASK_CPUS)
        if resources is None:
            mapped = rows.map_batches(
                partial(_map, mapper, dict(settings)),
                batch_size=min(BATCH, rows_per_block or BATCH),
                batch_format="pyarrow",
                num_cpus=Resources(1, cpus=1).reserved_cpus,
                ray_remote_args_fn=tasks_of_tries,
            )
        else:
            mapped = rows.map_batches(
                mapper,
                fn_constructor_kwargs=dict(settings),
                batch_size=min(BATCH, rows_per_block or BATCH),
                batch_format="pyarrow",
                compute=pool(cluster, resources, max(len(table_in.files), expected // (rows_per_block or expected))),
                num_cpus=resources.reserved_cpus,
                num_gpus=resources.gpus or None,
                ray_remote_args_fn=actors_of_tries,
            )
        mapped.write_parquet(
            table_out.path,
            filesystem=table_out.fs,
            compression="zstd",
            ray_remote_args=light,
            concurrency=max_concurrency,
        )
    seconds = time.monotonic() - started
    cluster.run_remote(check_rows, table_in, table_out, wanted)
    output.remove(PROGRESS)
    return (expected - before) / seconds


def pool(cluster: Cluster, resources: Resources, num_pieces: int) -> ActorPoolStrategy:
    """The actors of a stage: no more than `num_pieces`, since each takes seconds to start.

    On a cluster, it does not wait for lost nodes, and uses nodes that join if `resources.may_grow`.
    """
    wanted = min(resources.count, num_pieces)
    if cluster.is_own:
        return ActorPoolStrategy(size=wanted)
    return ActorPoolStrategy(min_size=1, initial_size=wanted, max_size=num_pieces if resources.may_grow else wanted)


def actors_of_tries() -> dict[str, int]:
    """Options of Ray Data's actors: by default they retry a batch that kills their process without limit."""
    return {"max_task_retries": RETRIES}


def tasks_of_tries() -> dict[str, int]:
    """The same for tasks."""
    return {"max_retries": RETRIES}


def check_rows(source: Table, made: Table, wanted: Iterable[str] | None = None) -> None:
    """Check that every row of `source`, or every `wanted` one of them, is in `made` exactly once.

    Raises:
        RunError: it is not.
    """
    expected, found = source.all_ids() if wanted is None else sorted(wanted), made.all_ids()
    if found != expected:
        raise RunError(
            f"{made.path}: holds {len(found)} rows ({len(set(found))} different), expected {len(expected)}; "
            "make sure that every node sees this store, delete this folder and run again"
        )


def numbers(
    count: int, num_blocks: int, max_concurrency: int | None, num_cpus: float = LIGHT_TASK_CPUS
) -> ray.data.Dataset:
    """A dataset with the column `id` = 0…count−1, read by `max_concurrency` tasks of `num_cpus`.

    `ray.data.range` reserves a whole CPU per task, which a node with one CPU does not have beside a worker.
    """
    source = ray_internals.range_source(count)
    return ray.data.read_datasource(
        source, concurrency=max_concurrency, num_cpus=num_cpus, override_num_blocks=num_blocks
    )


def _map(mapper: type, settings: dict[str, Any], batch: pa.Table) -> pa.Table:
    return mapper(**settings)(batch)


@contextmanager
def report_progress(step: str, table: Table, total: int) -> Iterator[None]:
    """Log the number of written rows and the remaining time every half minute."""
    ended = threading.Event()
    started, before = time.monotonic(), table.count()

    def log_progress() -> None:
        while not ended.wait(PROGRESS_S):
            done = table.count()
            if before < done < total:
                speed = (done - before) / (time.monotonic() - started)
                log(step, f"{done}/{total} images, {speed:.1f} images/s, {time_left((total - done) / speed)} left")

    watcher = threading.Thread(target=log_progress, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _delete_doubtful(progress: Table) -> None:
    """Delete final checkpoints that still have a pending twin: Ray will remove their data.

    Object stores copy instead of renaming, and a retried task writes again. Call this before reading finished rows and
    before Ray removes pending ones.
    """
    names = set(progress.files)
    for name in names:
        final = f"{name.removesuffix(_PENDING)}.parquet"
        if name.endswith(_PENDING) and final in names:
            progress.fs.delete_file(final)


def _finished_ids(progress: Table) -> pa.Array:
    """The ids of all rows that earlier runs have finished."""
    final = [path for path in progress.files if not path.endswith(_PENDING)]
    shards = [pq.read_table(path, columns=["image_id"], filesystem=progress.fs, partitioning=None) for path in final]
    return pa.concat_tables(shards).column(0).combine_chunks() if shards else pa.array([], pa.string())


def _remaining(batch: pa.Table, done: ray.ObjectRef, wanted: ray.ObjectRef | None) -> Iterator[pa.Table]:
    """The remaining rows of those that are wanted, if any."""
    remaining = batch.filter(pc.invert(pc.is_in(batch.column("image_id"), value_set=ray.get(done))))
    if wanted is not None:
        remaining = remaining.filter(pc.is_in(remaining.column("image_id"), value_set=ray.get(wanted)))
    if remaining.num_rows:
        yield remaining


@contextmanager
def _row_checkpoints(output: Artifact) -> Iterator[None]:
    context = DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(
        id_column="image_id",
        checkpoint_path=output.at(PROGRESS),
        override_filesystem=output.fs,
        checkpoint_manager_cls=ray_internals.Cleaner,
        delete_checkpoint_on_success=False,  # but only after the rows were counted
    )
    try:
        yield
    finally:
        context.checkpoint_config = None
