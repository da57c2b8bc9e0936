"""Tables mapped on a real Ray: nothing lost, nothing twice, whatever died."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from amn_ray.core.artifacts import TABLE, Artifact, Store
from amn_ray.core.errors import RequestError, RunError
from amn_ray.platform import mapping
from amn_ray.platform.cluster import Cluster, ClusterConfig, Resources
from amn_ray.testing import Breakable

ROWS = 40
ONE = Resources(1, cpus=1)


@pytest.fixture
def places(tmp_path: Path) -> tuple[Artifact, Artifact]:
    """An input table of eight shards, and an empty output, in a folder whose name is not to matter."""
    store = Store.open(f"{tmp_path}/a #%20?b")
    source, output = store.artifact("in", 1, {}, {}), store.artifact("out", 1, {}, {})
    folder = Path(source.at(TABLE))
    folder.mkdir(parents=True)
    for shard in range(8):
        ids = [f"{index:03d}" for index in range(5 * shard, 5 * shard + 5)]
        pq.write_table(pa.table({"image_id": ids, "value": list(range(5))}), folder / f"{shard}.parquet")
    source.commit(config={}, inputs={}, code={}, seconds=0, result={"rows": ROWS})
    return source, output


class Dealt(Cluster):
    """The cluster of all tests, which gives these resources to actors."""

    def __init__(self, resources: Resources) -> None:
        super().__init__(ClusterConfig())
        self.resources = resources

    def cpu_share(self) -> Resources:
        return self.resources


def run(
    cluster: Cluster,
    places: tuple[Artifact, Artifact],
    resources: Resources | None,
    rows_per_block: int | None = None,
    **settings: Any,
) -> float:
    """In actors with these resources or, with None, in tasks; returns the rows per second."""
    source, output = places
    if resources is None:
        result = mapping.map_table(cluster, source, ["value"], Breakable, settings, output, on="tasks")
    else:
        result = mapping.map_table(
            Dealt(resources), source, ["value"], Breakable, settings, output, on="cpus", rows_per_block=rows_per_block
        )
    assert result["rows"] == ROWS
    return result["metrics"]["images_per_second"]


def calls(folder: Path) -> list[str]:
    """The ids of all rows that were ever mapped, in any run."""
    return sorted(name for path in folder.glob("calls-*") for name in path.read_text().split())


@pytest.mark.parametrize("resources", [ONE, None])
def test_every_row_is_mapped_once(
    cluster: Cluster, places: tuple[Artifact, Artifact], tmp_path: Path, resources: Resources | None
) -> None:
    assert run(cluster, places, resources, log=str(tmp_path)) > 0
    table = places[1].fresh_table()
    assert table.ids() == [f"{index:03d}" for index in range(ROWS)]
    assert table.column("double")["003"] == 6
    assert len(calls(tmp_path)) == ROWS


@pytest.mark.parametrize("rows_per_block", [None, 2])
def test_shards_are_read_and_written_also_while_models_hold_all_processors(
    cluster: Cluster, places: tuple[Artifact, Artifact], tmp_path: Path, rows_per_block: int | None
) -> None:
    resources = Resources(2, cpus=ray.cluster_resources()["CPU"] / 2)
    assert run(cluster, places, resources, rows_per_block, log=str(tmp_path)) > 0
    assert len(calls(tmp_path)) == ROWS


def test_a_run_that_died_between_its_last_row_and_its_manifest_maps_nothing_again(
    cluster: Cluster, places: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    run(cluster, places, ONE, log=str(tmp_path))
    assert run(cluster, places, ONE, log=str(tmp_path)) == 0
    assert len(calls(tmp_path)) == ROWS
    assert places[1].fresh_table().all_ids() == [f"{index:03d}" for index in range(ROWS)]


def test_a_run_that_died_goes_on_without_losing_or_repeating_rows(
    cluster: Cluster, places: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    with pytest.raises(Exception, match="broken on purpose"):
        run(cluster, places, ONE, log=str(tmp_path), fail_at="031", after=places[1].at("progress"))
    finished = places[1].fresh_table().ids()
    assert 0 < len(finished) < ROWS
    # A crash while an object store renames leaves the record of a shard twice: that shard is made again, not lost.
    record = next(path for path in Path(places[1].at("progress")).glob("*.parquet") if "pending" not in path.name)
    shutil.copy(record, record.with_suffix(".pending.parquet"))
    doubtful = pq.read_table(record).column("image_id").to_pylist()
    # Also where models hold all processors, so that nothing else that the stage needs may wait for one.
    run(cluster, places, Resources(2, cpus=ray.cluster_resources()["CPU"] / 2), log=str(tmp_path))
    rows = places[1].fresh_table().read(["double"])
    assert rows.column("image_id").to_pylist() == [f"{index:03d}" for index in range(ROWS)]
    made = Counter(calls(tmp_path))
    assert all(made[name] == 1 + (name in doubtful) for name in finished), "a finished row was made again"


@pytest.mark.parametrize("rows_per_block", [None, 2])
def test_an_actor_that_is_killed_loses_no_row(
    cluster: Cluster, places: tuple[Artifact, Artifact], tmp_path: Path, rows_per_block: int | None
) -> None:
    run(cluster, places, ONE, rows_per_block, log=str(tmp_path), kill_once_at="022")
    assert (tmp_path / "killed").exists()
    assert places[1].fresh_table().all_ids() == [f"{index:03d}" for index in range(ROWS)]
    if rows_per_block is not None:
        assert len(places[1].fresh_table().files) > 12, "in more pieces than the eight shards that were read"


def test_only_the_rows_that_are_asked_for_are_mapped(
    cluster: Cluster, places: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    source, output = places
    ids = ["003", "021", "022"]
    settings = {"log": str(tmp_path)}
    result = mapping.map_table(cluster, source, ["value"], Breakable, settings, output, on="tasks", ids=ids)
    assert result["rows"] == 3
    assert output.fresh_table().all_ids() == calls(tmp_path) == ids
    again = mapping.map_table(cluster, source, ["value"], Breakable, settings, output, on="tasks", ids=ids)
    assert again["metrics"]["images_per_second"] == 0
    assert calls(tmp_path) == ids


@pytest.mark.parametrize("resources", [replace(ONE, setting="cluster.map_actors"), None])
def test_rows_that_kill_whoever_maps_them_end_the_stage_after_a_few_tries_and_not_never(
    cluster: Cluster,
    places: tuple[Artifact, Artifact],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    resources: Resources | None,
) -> None:
    monkeypatch.setattr(mapping, "RETRIES", 1)
    setting = resources.setting if resources else "cluster.cpus"
    with pytest.raises(
        RunError, match=rf"^out: a worker was killed by a signal again and again.* lower {setting}"
    ) as told:
        run(cluster, places, resources, log=str(tmp_path), kill_at="022")
    assert "\n" not in str(told.value)


def test_a_users_mistake_comes_back_from_the_worker_as_itself(
    cluster: Cluster, places: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=r"^mend image 007$"):
        run(cluster, places, None, log=str(tmp_path), mistake_at="007")
