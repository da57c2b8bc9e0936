"""Paths in jobs that were submitted: what lies in a session of Ray is lost with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from amn_ray.core.errors import RequestError
from amn_ray.platform import submitted


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The copy of a working directory, in which Ray runs a job."""
    session = tmp_path / "ray" / "session_2026-01-01_00-00-00_000000_1"
    folder = session / "runtime_resources" / "working_dir_files" / "_ray_pkg_0f"
    folder.mkdir(parents=True)
    (tmp_path / "ray" / "session_latest").symlink_to(session)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("store", ["outputs", "./outputs", "../outputs", "a/../outputs"])
def test_a_store_in_the_copy_of_the_working_directory_is_refused(copy: Path, store: str) -> None:
    with pytest.raises(RequestError, match=rf"^store={store}: would be in .*absolute path") as told:
        submitted.check_places({"store": store}, "store")
    assert "\n" not in str(told.value)


def test_also_by_its_absolute_path_and_through_the_link_to_the_last_session(copy: Path, tmp_path: Path) -> None:
    for store in (copy / "outputs", tmp_path / "ray" / "session_latest" / "outputs"):
        with pytest.raises(RequestError, match="Ray's session"):
            submitted.check_places({"store": str(store)}, "store")


def test_elsewhere_a_store_is_accepted(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy / "linked").symlink_to(tmp_path)  # out of the session
    for store in (str(tmp_path / "outputs"), "s3://bucket/prefix", "linked/outputs", f"file://{tmp_path}/outputs"):
        submitted.check_places({"store": store}, "store")
    monkeypatch.chdir(tmp_path)
    submitted.check_places({"store": "outputs"}, "store")
    (tmp_path / "session_notes").mkdir()  # somebody's folder
    submitted.check_places({"store": "session_notes/outputs"}, "store")


def test_what_is_only_read_may_lie_in_the_copy(copy: Path, tmp_path: Path) -> None:
    (copy / "images").mkdir()
    submitted.check_places({"store": "outputs", "images": "images", "out": str(tmp_path / "out")}, "out")


@pytest.mark.parametrize("key", ["images", "dataset.root", "backbone.weights"])
def test_what_is_read_and_is_not_in_the_copy_is_refused_with_an_absolute_path(copy: Path, key: str) -> None:
    with pytest.raises(RequestError, match=rf"^{key}=photos/mine: not found in {copy}.*absolute path"):
        submitted.check_places({key: "photos/mine"}, "store")


@pytest.mark.parametrize("value", [None, "pretrained"])
def test_weights_that_are_no_file_are_no_path(copy: Path, value: str | None) -> None:
    submitted.check_places({"backbone.weights": value}, "store")


@pytest.mark.parametrize("config", ["", "{}", '{"runtime_env": null}', '{"runtime_env": {"working_dir": "gcs://x"}}'])
def test_a_job_without_variables_of_its_own(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(submitted.JOB_CONFIG, config)
    assert submitted.variables() == {}


def test_the_variables_of_a_jobs_own_environment_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"RAY_DATA_DISABLE_PROGRESS_BARS": "0"}
    monkeypatch.setenv(submitted.JOB_CONFIG, json.dumps({"runtime_env": {"env_vars": variables}}))
    assert submitted.variables() == variables
    submitted.leave()
    assert submitted.variables() == {}


def test_a_submitted_job_tells_where_a_relative_store_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    submitted.check_places({"store": "outputs"}, "store")
    assert not capsys.readouterr().out, "on a terminal everybody knows"
    monkeypatch.setenv(submitted.JOB_CONFIG, "{}")
    submitted.check_places({"store": "outputs"}, "store")
    assert f"{tmp_path}/outputs" in capsys.readouterr().out
