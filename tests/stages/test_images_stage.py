"""The images stage: a file whose decoder ends the process is one bad image, told by its name."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from amn_ray.core.artifacts import Artifact, Store
from amn_ray.core.errors import RequestError, RunError
from amn_ray.data.listing import Summary, open_source, summarise
from amn_ray.data.pixels import DEFAULT
from amn_ray.platform.cluster import Cluster
from amn_ray.stages.images import stage
from amn_ray.stages.images.apart import Died, apart
from amn_ray.stages.images.infer import MAX_TRIES, TRIES, Load, list_records
from amn_ray.testing import FatalConfig

FATAL = "train_00005"


def summary(fatal: str = FATAL, **settings: float) -> Summary:
    config = FatalConfig(name="fatal", num_train=12, size=32, rows_per_shard=4, fatal=fatal, **settings)
    source = open_source(config)
    return summarise(config, source, "train", source.listing("train"))


def artifact(folder: Path, described: Summary) -> Artifact:
    return Store.open(str(folder)).artifact(stage.NAME, stage.VERSION, described.identity(), {})


def half(number: int) -> float:
    if number == 13:
        os.kill(os.getpid(), signal.SIGSEGV)
    return 1 / (number - 2) if number < 13 else os._exit(3)


def test_a_function_goes_on_in_a_new_process_after_one_died() -> None:
    with apart(half) as call:
        assert call(4) == 0.5
        with pytest.raises(ZeroDivisionError):
            call(2)
        with pytest.raises(Died, match="SIGSEGV"):
            call(13)
        with pytest.raises(Died, match="exit code 3"):
            call(14)
        assert call(3) == 1


class NotThere:
    """What another process cannot load."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (4,)

    def __call__(self, item: object) -> None: ...


def test_a_process_that_does_not_start_is_no_fault_of_the_image() -> None:
    with apart(NotThere()) as call, pytest.raises(RunError, match=r"did not start \(exit code 4\)"):
        call("image")


@pytest.mark.parametrize("skip_bad", [True, False])
def test_a_second_try_reads_what_the_first_one_died_of_in_another_process(tmp_path: Path, skip_bad: bool) -> None:
    described = summary()
    output = artifact(tmp_path, described)
    load = Load(list_records(described, output), output, DEFAULT, skip_bad=skip_bad)
    output.write(f"{TRIES}/1", b"1")  # the first one's
    if skip_bad:
        assert load({"id": [1]}).column("image_id").to_pylist() == ["train_00004", "train_00006", "train_00007"]
    else:
        with pytest.raises(RequestError, match=rf"{FATAL}: reading it ends the process \(SIGSEGV\); mend or remove it"):
            load({"id": [1]})


def test_tries_have_an_end(tmp_path: Path) -> None:
    described = summary(fatal="")
    output = artifact(tmp_path, described)
    load = Load(list_records(described, output), output, DEFAULT, skip_bad=True)
    for _ in range(MAX_TRIES):
        assert load({"id": [2]}).num_rows == 4
    with pytest.raises(RunError, match=rf"train_00008 to train_00011 died {MAX_TRIES} times"):
        load({"id": [2]})


def test_an_image_that_kills_its_reader_is_skipped_and_listed_or_refused(cluster: Cluster, tmp_path: Path) -> None:
    described = summary(max_bad_fraction=0.2)
    output = artifact(tmp_path, described)
    told = stage.run(described, {}, output, cluster)
    assert told["rows"] == 11
    assert told["bad_images"] == [f"{FATAL}: reading it ends the process (SIGSEGV)"]
    assert [info.base_name for info in output.entries()] == [stage.TABLE]
    described = summary()
    with pytest.raises(RequestError, match=rf"{FATAL}: reading it ends the process"):
        stage.run(described, {}, artifact(tmp_path, described), cluster)
