"""What a data set is: what its files hold, and not where they are, what they are called or when they were written."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from amn_ray.core.errors import RequestError
from amn_ray.data import digests
from amn_ray.data.coco import CocoConfig
from amn_ray.data.folder import FolderConfig
from amn_ray.data.listing import Summary, list_content, list_here, open_source, summarise
from amn_ray.data.pixels import DEFAULT
from amn_ray.stages.images import stage
from amn_ray.stages.images.infer import load_row
from tests.coco_shapes import build
from tests.conftest import encode, noise


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


def train(root: Path, **settings: object) -> Summary:
    config = FolderConfig(root=str(root), **settings)  # type: ignore[arg-type]
    source = open_source(config)
    return summarise(config, source, "train", list_content(source, "train"))


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
    before = train(folder).identity()
    assert write_mask(folder, 1) == size
    os.utime(folder / "masks/p.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    reads.clear()
    assert train(folder).identity() != before
    assert reads == [str(folder / "masks/p.png")]
    write_mask(folder, 2)
    assert train(folder).identity() == before


def test_a_changed_image_or_label_is_another_data_set(folder: Path) -> None:
    before = train(folder).identity()
    (folder / "images/p.png").write_bytes(encode(noise(20, 28, seed=99)))
    changed = train(folder).identity()
    assert changed != before
    labels = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(labels.replace("p.png,nut", "p.png,bolt"))
    assert train(folder).identity() != changed


def test_a_set_that_was_copied_renamed_or_touched_is_the_same(folder: Path, tmp_path: Path) -> None:
    before = train(folder)
    copied = shutil.copytree(folder, tmp_path / "another name", copy_function=shutil.copyfile)
    assert train(copied).identity() == before.identity()
    for path in copied.rglob("*"):
        os.utime(path, (1, 1))
    assert train(copied, name="of another name", rows_per_shard=3, max_bad_fraction=0.5).identity() == before.identity()
    assert train(copied, classes=["bolt", "nut"]).identity() == before.identity()


@pytest.mark.parametrize(
    "settings", [{"exif": "ignore"}, {"white": 4095.0}, {"max_side": 100}, {"classes": ["nut", "bolt"]}]
)
def test_how_files_are_read_is_part_of_what_a_data_set_is(folder: Path, settings: dict[str, object]) -> None:
    assert train(folder, **settings).identity() != train(folder).identity()


def test_what_a_source_found_out_about_reading_is_part_of_what_a_data_set_is(folder: Path) -> None:
    source = open_source(FolderConfig(root=str(folder)))
    listing = list_content(source, "train")
    plain = summarise(FolderConfig(), source, "train", listing)
    listing.reading["values"] = "binary"
    assert summarise(FolderConfig(), source, "train", listing).identity() != plain.identity()


def test_masks_whose_categories_were_numbered_anew_are_other_masks(tmp_path: Path) -> None:
    """Their files, and the labels of all images, are as they were."""
    root = build(tmp_path / "coco", num_train=4, num_val=1, size=48)
    (root / "masks").mkdir()
    for path in (root / "train2014").iterdir():
        (root / f"masks/{path.stem}.png").write_bytes(encode(np.zeros((48, 48), np.uint8)))

    def identity(root: Path) -> object:
        config = CocoConfig(root=str(root), masks="masks", mask_values="category_ids")
        source = open_source(config)
        return summarise(config, source, "train", list_content(source, "train")).identity()

    copied = shutil.copytree(root, tmp_path / "copied")
    assert identity(copied) == identity(root)
    changed = shutil.copytree(root, tmp_path / "changed")
    annotations = changed / "annotations/instances_train2014.json"
    content = json.loads(annotations.read_text())
    for entry in content["categories"]:
        entry["id"] += 100
    for entry in content["annotations"]:
        entry["category_id"] += 100
    annotations.write_text(json.dumps(content))
    assert identity(changed) != identity(root)


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


def test_what_changes_after_it_was_listed_is_not_stored(folder: Path) -> None:
    source = open_source(FolderConfig(root=str(folder)))
    record = list_content(source, "train").records[0]
    assert load_row(source, record, DEFAULT)["image_id"] == "p"
    write_mask(folder, 1)
    with pytest.raises(RequestError, match=r"masks/p\.png: changed after the data set was listed; run again"):
        load_row(source, record, DEFAULT)
    record = list_content(source, "train").records[0]
    (folder / "images/p.png").write_bytes(encode(noise(20, 28, seed=99)))
    with pytest.raises(RequestError, match=r"images/p\.png: changed"):
        load_row(source, record, DEFAULT)


def test_a_table_that_lacks_images_is_not_reused_where_none_may_be_lacking(folder: Path) -> None:
    made = {"bad_images": ["p.png: is not an image"]}
    allowing = train(folder, max_bad_fraction=0.5)
    stage.check_reuse(allowing, made)
    strict = replace(allowing, config=FolderConfig(root=str(folder)))
    with pytest.raises(RequestError, match="1 of 3 images are bad"):
        stage.check_reuse(strict, made)


def test_a_val_split_that_nobody_needs_may_be_faulty(folder: Path) -> None:
    (folder / "images/s.png").unlink()
    error = list_here(FolderConfig(root=str(folder)), needs_val=True)
    assert isinstance(error, RequestError)
    assert "s.png does not exist" in str(error)
    found = list_here(FolderConfig(root=str(folder)), needs_val=False)
    assert isinstance(found, dict)
    assert list(found) == ["train"]
    assert any("until=deeplab" in told and "s.png does not exist" in told for told in found["train"].warnings)
