"""Fingerprints, manifests and tables, on real files."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amn_ray.core import artifacts, folders, provenance
from amn_ray.core.artifacts import Artifact, Store, fingerprint
from amn_ray.core.errors import RequestError
from amn_ray.core.places import locate, without_secrets
from amn_ray.core.tables import Table
from amn_ray.stages.crf.config import CrfConfig


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def commit(artifact: Artifact, **inputs: Artifact) -> str:
    """Its id."""
    return artifact.commit(config={}, inputs=inputs, code={}, seconds=1, result={"rows": 0})["id"]


def test_a_fingerprint_depends_on_stage_version_configuration_and_inputs(store: Store) -> None:
    base = store.artifact("crf", 1, CrfConfig(), {})
    variants = [
        store.artifact("crf", 1, CrfConfig(), {}),
        store.artifact("cam", 1, CrfConfig(), {}),
        store.artifact("crf", 2, CrfConfig(), {}),
        store.artifact("crf", 1, replace(CrfConfig(), conf_fg=0.31), {}),
        store.artifact("crf", 1, CrfConfig(), {"maps": base}),
    ]
    assert variants[0] == base
    assert len({variant.fingerprint for variant in variants}) == 5
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


def test_an_artifact_without_manifest_does_not_exist(store: Store) -> None:
    artifact = store.artifact("cam", 1, {}, {})
    artifact.write("model.safetensors", b"weights")
    assert not artifact.complete
    commit(artifact)
    assert artifact.complete
    assert artifact.manifest()["rows"] == 0
    assert {
        "format",
        "id",
        "versions",
        "git_commit",
        "code",
        "config",
        "inputs",
        "input_ids",
        "seconds",
    } <= artifact.manifest().keys()


def test_a_write_leaves_nothing_but_the_file(store: Store) -> None:
    artifact = store.artifact("cam", 1, {}, {})
    artifact.write("x", b"1")
    artifact.write("x", b"22")
    assert artifact.read("x") == b"22"
    assert [path.name for path in Path(artifact.path).iterdir()] == ["x"]


def test_a_file_is_written_whole_also_on_file_systems_that_do_not_rename_onto_one(tmp_path: Path) -> None:
    store = Store.open(f"memory://{tmp_path}")
    assert not store.is_local
    store.write("x", b"1")
    store.write("x", b"22")
    assert store.read("x") == b"22"
    assert [entry.base_name for entry in store.entries()] == ["x"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://KEY:SECRET@bucket/a", "s3://***@bucket/a"),
        ("http://user:SECRET@mlflow:5000", "http://***@mlflow:5000"),
        ("http://user:SEC@RET/x@mlflow:5000", "http://***@mlflow:5000"),
        ("abfs://a@b/c?client_secret=SECRET&x=1", "abfs://***@b/c?client_secret=***&x=1"),
        ("abfs://a/c?x=1&sas_token=SECRET", "abfs://a/c?x=1&sas_token=***"),
        ("s3://bucket/a?region=eu", "s3://bucket/a?region=eu"),
        ("cannot open s3://KEY:SECRET@bucket/a (no)", "cannot open s3://***@bucket/a (no)"),
    ],
)
def test_no_url_is_shown_with_its_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_a_store_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot be written"):
        Store.open(str(tmp_path / "file" / "store"))


def test_an_unknown_kind_of_url_is_refused() -> None:
    with pytest.raises(RequestError, match="store=nosuch://bucket"):
        Store.open("nosuch://bucket/prefix")


def test_rows_are_found_by_id_in_any_order_and_shard(tmp_path: Path) -> None:
    for shard, ids in enumerate([["d", "a"], ["c", "b", "e"]]):
        table = pa.table({"image_id": ids, "value": [ord(name) for name in ids]})
        pq.write_table(table, tmp_path / f"{shard}.parquet", row_group_size=2)
    table = Table(pa.fs.LocalFileSystem(), str(tmp_path))
    assert table.ids() == list("abcde")
    assert table.take(["e", "a", "e"], ["value"]) == [{"value": 101}, {"value": 97}, {"value": 101}]
    assert table.column("value")["c"] == 99
    assert [row["value"] for row in table.find(["e", "a"], ["value"])] == [101, 97]
    with pytest.raises(KeyError):
        table.take(["z"], ["value"])
    with pytest.raises(KeyError):
        table.find(["z"], ["value"])


def test_what_replaces_an_artifact_is_made_beside_it_and_is_there_at_its_commit(store: Store) -> None:
    artifact = store.artifact("cam", 1, {}, {})
    artifact.write("model.safetensors", b"old")
    first = commit(artifact)
    successor = artifact.successor()
    successor.write("model.safetensors", b"new")
    assert artifact.opened().read("model.safetensors") == b"old"
    assert artifact.manifest()["id"] == first
    second = commit(successor)
    assert second != first
    assert artifact.opened().read("model.safetensors") == b"new"
    assert {path.name for path in Path(artifact.path).iterdir()} == {"manifest.json", successor.name}
    third = artifact.successor()
    third.write("model.safetensors", b"newer")
    commit(third)
    assert artifact.opened().read("model.safetensors") == b"newer"
    assert {path.name for path in Path(artifact.path).iterdir()} == {"manifest.json", third.name}


def test_a_replacement_that_was_interrupted_goes_on(store: Store) -> None:
    artifact = store.artifact("cam", 1, {}, {})
    commit(artifact)
    artifact.successor().write("epoch", b"1")
    assert artifact.successor().read("epoch") == b"1"
    commit(artifact.successor())
    assert not artifact.successor().exists("epoch"), "the next replacement begins anew"


def test_an_artifact_is_current_while_its_inputs_are_those_that_it_was_made_of(store: Store) -> None:
    images = store.artifact("images", 1, {}, {})
    old = commit(images)
    maps = store.artifact("cam", 1, {}, {"images": images})
    assert maps.current({"images": old}) is None, "it is not there"
    commit(maps, images=images)
    assert maps.current({"images": old}) == maps.manifest()
    new = commit(images.successor())
    assert maps.current({"images": new}) is None
    assert maps.current({"images": old}, since=maps.manifest()["committed"] + 1) is None


def test_a_manifest_of_a_newer_format_is_refused_in_one_sentence(store: Store) -> None:
    artifact = store.artifact("cam", 1, {}, {})
    artifact.write("manifest.json", json.dumps({"format": 99}).encode())
    with pytest.raises(RequestError, match=r"manifest.json: was written by a newer version of amn-ray \(format 99"):
        artifact.manifest()


def test_an_index_finds_the_rows_that_the_shards_hold_without_opening_them(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    for shard, ids in enumerate([["d", "a"], ["c", "b", "e"]]):
        table = pa.table({"image_id": ids, "value": [ord(name) for name in ids]})
        pq.write_table(table, tmp_path / "rows" / f"{shard}.parquet", row_group_size=2)
    scanned = Table(pa.fs.LocalFileSystem(), str(tmp_path / "rows"))
    expected = dict(scanned._places)
    scanned.write_index()
    indexed = Table(pa.fs.LocalFileSystem(), str(tmp_path / "rows"))
    assert dict(indexed._places) == expected
    assert indexed.take(["e", "a"], ["value"]) == [{"value": 101}, {"value": 97}]
    assert "b" in indexed
    assert "z" not in indexed
    for path in (tmp_path / "rows").iterdir():
        path.unlink()
    assert Table(pa.fs.LocalFileSystem(), str(tmp_path / "rows")).ids() == list("abcde")


def test_an_artifact_travels_to_another_process(store: Store) -> None:
    artifact = store.artifact("cam", 1, {}, {})
    artifact.write("x", b"1")
    assert pickle.loads(pickle.dumps(artifact)).read("x") == b"1"


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_before_anybody_is_told(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, bool]] = []
    path, flush = Path(store.at("x")), folders.flush

    def seen(flushed: str) -> None:
        flush(flushed)
        events.append((Path(flushed).name, path.exists()))

    monkeypatch.setattr(folders, "flush", seen)
    store.write("x", b"1")
    (file, named), folder = events
    assert file.startswith("x.")
    assert not named
    assert folder == (path.parent.name, True)


def test_what_a_manifest_vouches_for_is_on_the_disk_before_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = store.artifact("cam", 1, {}, {})
    shards = Path(artifact.at("maps"))
    shards.mkdir(parents=True)
    (shards / "0.parquet").write_bytes(b"0")
    flushed: list[str] = []
    for module in (artifacts, folders):
        monkeypatch.setattr(module, "flush", lambda path: flushed.append(Path(path).name))
    commit(artifact)
    assert flushed[0] == "0.parquet"
    assert flushed[1].startswith("manifest.json.")


def test_a_package_that_was_not_installed_under_its_name_is_recorded_as_unknown(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        if name in ("pydensecrf2", "amn-ray"):
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(provenance, "version", missing)
    provenance.versions.cache_clear()
    artifact = store.artifact("cam", 1, {}, {})
    commit(artifact)
    provenance.versions.cache_clear()
    assert artifact.manifest()["versions"] == dict.fromkeys(provenance.PACKAGES, "1") | {
        "pydensecrf2": "unknown", "amn-ray": "unknown",
    }  # fmt: skip


def test_a_module_that_a_later_step_imports_is_missed_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    assert provenance.missing_modules() is None
    monkeypatch.setattr(provenance, "MODULES", ("numpy", "no_such_module", "nor_this"))
    assert provenance.missing_modules() == (
        "lacks the Python module(s) no_such_module, nor_this; install requirements.txt there"
    )


@pytest.mark.parametrize(
    "name", ["a#b", "a%20b", "a?b", "a b", "é猫", "Bob's", 'a"b', "a[b]*", "a\\b", "a:b", "{a}", "~a", "-a"]
)
def test_every_character_of_a_path_is_meant(tmp_path: Path, name: str) -> None:
    store = Store.open(f"{tmp_path}/{name}/")
    artifact = store.artifact("cam", 1, {}, {})
    commit(artifact)
    (Path(artifact.path) / "rows").mkdir()
    pq.write_table(pa.table({"image_id": ["x"], "value": [1]}), f"{artifact.path}/rows/0.parquet")
    table = artifact.table()
    assert table.find(["x"], ["value"]) == [{"image_id": "x", "value": 1}]
    assert table.take(["x"], ["value"]) == [{"value": 1}]
    assert table.column("value") == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///a%20b", "/a b"),
        ("file:///a b#c?d%", "/a b#c?d%"),
        ("file://localhost/a", "/a"),
        ("file:/a/../b/", "/b"),
        ("~/a", "/home-of-tests/a"),
        ("/a/~/b", "/a/~/b"),
    ],
)
def test_a_file_url_is_decoded_and_a_home_filled_in(monkeypatch: pytest.MonkeyPatch, url: str, path: str) -> None:
    monkeypatch.setenv("HOME", "/home-of-tests")
    assert locate(url)[1] == path


@pytest.mark.parametrize("url", ["", "file://host/a", "file:a", "s3:/bucket/a", "~nobody-here/a", "/a\udce9", "/a\0b"])
def test_what_is_no_place_is_refused(url: str) -> None:
    with pytest.raises(RequestError, match=r"^out=.*(empty|expected|home|UTF-8|null)"):
        locate(url, "out")


def test_a_place_on_the_web_is_shown_as_it_was_given_but_for_its_secrets() -> None:
    place = Store.reading("https://user:word@example.invalid/a.jpg?token=abc", "images")
    assert place.url == "https://***@example.invalid/a.jpg?token=***"


def test_a_place_to_read_from_is_not_made(tmp_path: Path) -> None:
    assert not Store.reading(f"{tmp_path}/typo").entries()
    assert not list(tmp_path.iterdir())


def test_what_version_01_made_is_made_anew(store: Store) -> None:
    artifact = store.artifact("backbone", 1, {}, {})
    artifact.write("manifest.json", json.dumps({"config": {}, "inputs": {}}).encode())
    artifact.write("backbone.safetensors", b"old")
    assert artifact.current({}) is None
    successor = artifact.successor()
    successor.write("backbone.safetensors", b"new")
    commit(successor)
    assert artifact.opened().read("backbone.safetensors") == b"new"
    assert artifact.current({}) is not None
