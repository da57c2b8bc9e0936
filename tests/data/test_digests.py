"""What files hold, by digests: read once, remembered, and read again as soon as one may have changed."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from amn_ray.data import digests
from amn_ray.data.folder import FolderConfig
from amn_ray.data.listing import list_content, open_source, summarise
from tests.conftest import encode


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "amn-ray" / "content.sqlite"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read."""
    read: list[str] = []
    hash_file = digests.hash_file

    def counted(path: str) -> digests.Hashed | None:
        read.append(path)
        return hash_file(path)

    monkeypatch.setattr(digests, "hash_file", counted)
    return read


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as settled at once."""
    monkeypatch.setattr(digests, "SETTLED_NS", -1)


def truth(root: Path) -> dict[str, object]:
    """What the masks of a folder's training images are."""
    config = FolderConfig(root=str(root))
    source = open_source(config)
    return summarise(config, source, "train", list_content(source, "train")).truth_identity()


def write_mask(root: Path, value: int) -> int:
    """A flat mask of `p`, whose size in bytes does not depend on its value; returns that size."""
    mask = np.zeros((20, 28), np.uint8)
    mask[5:15, 5:15] = value
    return (root / "masks/p.png").write_bytes(encode(mask, "BMP"))


def test_a_digest_is_the_sha256_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert digests.digests([str(tmp_path / "abc"), str(tmp_path / "none")]) == {
        str(tmp_path / "abc"): expected,
        str(tmp_path / "none"): "",
    }
    assert digests.digest_of(b"abc") == expected


@pytest.mark.usefixtures("settled")
def test_a_file_is_read_once(tmp_path: Path, reads: list[str]) -> None:
    files = [str(tmp_path / str(number)) for number in range(20)]
    for path in files:
        Path(path).write_text(path)
    first = digests.digests(files)
    assert sorted(reads) == sorted(files)
    assert digests.digests(files) == first
    assert len(reads) == len(files)


def test_a_file_that_has_just_been_written_is_read_again(tmp_path: Path, reads: list[str]) -> None:
    (tmp_path / "a").write_text("a")
    for _ in range(2):
        digests.digests([str(tmp_path / "a")])
    assert len(reads) == 2


def test_a_file_of_some_seconds_is_remembered(tmp_path: Path, reads: list[str]) -> None:
    """The real limit, by the real clock."""
    path = tmp_path / "a"
    path.write_text("a")
    time.sleep(digests.SETTLED_NS / 1e9 + 0.2)
    for _ in range(2):
        digests.digests([str(path)])
    assert len(reads) == 1


@pytest.mark.usefixtures("settled")
def test_a_change_is_noticed_whatever_its_size_and_time(folder: Path, reads: list[str]) -> None:
    size = write_mask(folder, 2)
    times = (folder / "masks/p.png").stat()
    before = truth(folder)
    assert write_mask(folder, 1) == size
    os.utime(folder / "masks/p.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    reads.clear()
    assert truth(folder) != before
    assert reads == [str(folder / "masks/p.png")]
    write_mask(folder, 2)
    assert truth(folder) == before


def unwritable(cache: Path) -> None:
    cache.parent.parent.write_text("a file where the folder should be")


def damaged(cache: Path) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_bytes(b"no database" * 1000)


def cut_short(cache: Path) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(cache) as database:
        database.execute(digests._TABLE)
        database.executemany(
            "INSERT INTO files VALUES (?, ?, ?)", [(str(n).encode(), "x" * 99, "") for n in range(999)]
        )
    database.close()
    cache.write_bytes(cache.read_bytes()[:9000])


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("spoil", [damaged, cut_short])
def test_a_damaged_memory_is_begun_anew(
    tmp_path: Path, cache: Path, reads: list[str], spoil: Callable[[Path], None]
) -> None:
    (tmp_path / "a").write_text("a")
    expected = {str(tmp_path / "a"): digests.digest_of(b"a")}
    spoil(cache)
    for _ in range(2):
        assert digests.digests([str(tmp_path / "a")]) == expected
    assert len(reads) == 1


@pytest.mark.usefixtures("settled")
def test_a_cache_folder_that_cannot_be_written_costs_time_only(tmp_path: Path, cache: Path, reads: list[str]) -> None:
    (tmp_path / "a").write_text("a")
    unwritable(cache)
    for _ in range(2):
        assert digests.digests([str(tmp_path / "a")]) == {str(tmp_path / "a"): digests.digest_of(b"a")}
    assert len(reads) == 2


def test_without_a_home_nothing_is_remembered_and_nothing_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it returns for a user without a home
    (tmp_path / "a").write_text("a")
    assert digests.memory() is None
    assert digests.digests([str(tmp_path / "a")]) == {str(tmp_path / "a"): digests.digest_of(b"a")}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_processes_remember_at_the_same_time(tmp_path: Path, cache: Path) -> None:
    files = [str(tmp_path / f"f{number}") for number in range(300)]
    for path in files:
        Path(path).write_text(path)
    code = (
        "import sys; from amn_ray.data import digests; digests.SETTLED_NS = -1; digests.TELL_EVERY = 0\n"
        "found = digests.digests(sys.argv[1:])\n"
        "assert all(found[path] == digests.digest_of(path.encode()) for path in sys.argv[1:])"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, *files], stderr=subprocess.PIPE) for _ in range(2)]
    for process in started:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    with sqlite3.connect(cache) as database:
        known = dict(database.execute("SELECT path, digest FROM files"))
    database.close()
    assert known == {path.encode(): digests.digest_of(path.encode()) for path in files}


def test_long_reading_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(digests, "TELL_EVERY", -1.0)
    for name in "ab":
        (tmp_path / name).write_text(name)
    digests.digests([str(tmp_path / name) for name in "ab"])
    told = capsys.readouterr()
    assert not told.out  # it is the pipe to the driver
    assert "2 of 2 files read" in told.err
