"""One makes it, the others wait; and nobody waits for the dead. Owners are real processes."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from amn_ray.core.artifacts import Artifact, Store
from amn_ray.core.errors import RunError
from amn_ray.core.folders import Folder
from amn_ray.platform import claims
from amn_ray.platform.claims import claimed

BUILDER = """
import sys, time
from amn_ray.core.artifacts import Store
from amn_ray.platform.claims import claimed
store, name = Store.open(sys.argv[1]), sys.argv[2]
done = lambda: store.exists("made")
with claimed(store, "cam-1", is_done=done, on_wait=lambda: print("waits", flush=True)):
    if not done():
        store.folder("builders").write(name, b"")
        print("builds", flush=True)
        time.sleep(float(sys.argv[3]))
        store.write("made", b"")
"""


def builder(url: str, name: str, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, url, name, str(seconds)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE)


def builders(store: Folder) -> list[str]:
    return [entry.base_name for entry in store.folder("builders").entries()]


def write_claim(root: Path, **owner: object) -> Path:
    folder = root / "claims"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "cam-1.1.another"
    path.write_text(json.dumps({"machine": claims.machine(), "pid": os.getpid(), "started": 0, **owner}))
    return path


def acquire(root: Path) -> bool:
    """Whether the claim could be had without waiting for anybody."""
    waited = []
    with claimed(Store.open(str(root)), "cam-1", is_done=lambda: False, on_wait=lambda: waited.append(1)):
        return not waited


@pytest.mark.parametrize("kind", ["directory", "s3"])
def test_of_four_processes_one_builds_and_the_others_wait_for_it(tmp_path: Path, bucket: str, kind: str) -> None:
    url = str(tmp_path) if kind == "directory" else f"{bucket}/claims-test"
    processes = [builder(url, str(number), 1.5) for number in range(4)]
    outputs = [process.communicate(timeout=200)[0] for process in processes]
    store = Store.open(url)
    assert [process.returncode for process in processes] == [0] * 4
    assert len(builders(store)) == 1
    assert sum("builds" in output for output in outputs) == 1
    assert not store.folder("claims").entries(), "released"


def test_a_builder_killed_with_9_is_replaced_at_once(tmp_path: Path) -> None:
    first = builder(str(tmp_path), "first", 60)
    assert first.stdout is not None
    assert first.stdout.readline() == "builds\n"
    second = builder(str(tmp_path), "second", 0)
    assert second.stdout is not None
    assert second.stdout.readline() == "waits\n"
    first.kill()
    first.wait()
    started = time.monotonic()
    assert "builds" in second.communicate(timeout=200)[0]
    assert time.monotonic() - started < claims.EXPIRY_S / 4
    assert builders(Store.open(str(tmp_path))) == ["first", "second"]


def test_a_claim_of_a_process_that_is_gone_is_not_waited_for(tmp_path: Path) -> None:
    write_claim(tmp_path, started=12345.0)  # our pid, but another process had it
    assert acquire(tmp_path)


def test_a_claim_of_another_machine_expires_without_a_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "EXPIRY_S", 0.6)
    monkeypatch.setattr(claims, "POLL_S", 0.05)
    path = write_claim(tmp_path, machine=["elsewhere", ""])
    ended = threading.Event()

    def touch() -> None:
        for number in range(10):  # what changes is the content: not every file system tells times
            path.write_text(json.dumps({"machine": ["elsewhere", ""], "pid": 1, "started": 0, "alive": number}))
            os.utime(path, (1, 1))
            time.sleep(0.2)
        ended.set()

    owner = threading.Thread(target=touch)
    owner.start()
    assert not acquire(tmp_path)
    assert ended.is_set(), "it was taken while its owner lived"
    owner.join()


def test_nobody_begins_while_another_is_choosing_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have looked at the numbers before ours was there, and then be about to take a smaller one."""
    monkeypatch.setattr(claims, "POLL_S", 0.01)
    path = write_claim(tmp_path, machine=["elsewhere", ""]).rename(tmp_path / "claims" / "cam-1.0.another")
    began = threading.Event()

    def want() -> None:
        with claimed(Store.open(str(tmp_path)), "cam-1", is_done=lambda: False, on_wait=lambda: None):
            began.set()

    waiting = threading.Thread(target=want)
    waiting.start()
    assert not began.wait(0.5)
    path.unlink()
    assert began.wait(5)
    waiting.join()


def test_an_owner_that_was_taken_for_dead_while_it_waited_draws_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "POLL_S", 0.01)
    path = write_claim(tmp_path, machine=["elsewhere", ""])
    queue = claims.Queue(Store.open(str(tmp_path)).folder("claims"), "cam-1")
    waiting = threading.Thread(target=queue.wait_for_turn, args=(lambda: False, lambda: None))
    waiting.start()
    while len(list(path.parent.iterdir())) < 2:
        time.sleep(0.01)
    next(other for other in path.parent.iterdir() if other != path).unlink()
    time.sleep(0.1)
    path.unlink()
    waiting.join(5)
    assert len(queue.tickets()) == 1
    queue.leave()
    assert not queue.tickets()


def test_a_builder_that_fails_leaves_no_claim(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    with (
        pytest.raises(RuntimeError, match="broken"),
        claimed(store, "cam-1", is_done=lambda: False, on_wait=lambda: None),
    ):
        raise RuntimeError("broken")
    assert acquire(tmp_path)


def test_what_is_done_needs_no_claim(tmp_path: Path) -> None:
    with claimed(Store.open(str(tmp_path)), "cam-1", is_done=lambda: True, on_wait=lambda: None):
        assert not (tmp_path / "claims").exists()


def expires(root: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a claim is waited for until it expires (soon), and is not taken at once."""
    monkeypatch.setattr(claims, "EXPIRY_S", 0.3)
    monkeypatch.setattr(claims, "POLL_S", 0.02)
    started = time.monotonic()
    return not acquire(root) and time.monotonic() - started > 0.3


GONE = 2**22 + 1
"""No process has this id: it is above what Linux gives."""


def test_a_host_of_the_same_name_is_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, _, namespace = claims.machine() or ["", "", ""]
    write_claim(tmp_path, machine=[host, "another boot", namespace], pid=GONE)
    assert expires(tmp_path, monkeypatch)


def test_a_machine_that_cannot_be_told_from_others_takes_no_claim_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "machine", lambda: None)
    write_claim(tmp_path, pid=GONE)
    assert expires(tmp_path, monkeypatch)


@pytest.mark.parametrize("hides", [psutil.NoSuchProcess(1), psutil.AccessDenied(1)])
def test_a_living_owner_that_proc_hides_keeps_its_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hides: psutil.Error
) -> None:
    """/proc is mounted with `hidepid` on many clusters, and the owner is another user's process."""
    write_claim(tmp_path, pid=12345)

    def refuse(pid: int, signal: int) -> None:
        raise PermissionError

    def hidden(pid: int | None = None) -> psutil.Process:
        raise hides

    monkeypatch.setattr(os, "kill", refuse)
    monkeypatch.setattr(psutil, "Process", hidden)
    assert expires(tmp_path, monkeypatch)


def test_an_owner_lives_on_when_the_clock_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_claim(tmp_path, started=claims._started(os.getpid()))
    create_time, boot_time = psutil.Process.create_time, psutil.boot_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: create_time(self) + 86400)
    monkeypatch.setattr(psutil, "boot_time", lambda: boot_time() + 86400)
    assert expires(tmp_path, monkeypatch)


@pytest.fixture
def paused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Artifact, list[float]]]:
    """An artifact that its owner makes, and the seconds that it was asleep for when it looks at its clock."""
    store, asleep, now = Store.open(str(tmp_path)), [0.0], claims._now
    monkeypatch.setattr(claims, "_now", lambda: now() + asleep[0])
    with claimed(store, "cam-1", is_done=lambda: False, on_wait=lambda: None) as check:
        artifact = replace(store.artifact("cam", 1, {}, {}), check=check)
        artifact.write("weights", b"1")
        yield artifact, asleep


def commit(artifact: Artifact) -> None:
    artifact.commit(config={}, inputs={}, code={}, seconds=0, result={})


def test_an_owner_commits_and_deletes_also_after_a_pause_in_which_nobody_came(
    paused: tuple[Artifact, list[float]],
) -> None:
    artifact, asleep = paused
    asleep[0] = 3600
    artifact.remove("weights")
    commit(artifact)
    assert artifact.complete


def test_an_owner_that_lost_its_claim_in_a_pause_neither_commits_nor_deletes(
    paused: tuple[Artifact, list[float]], tmp_path: Path
) -> None:
    artifact, _ = paused
    (ticket,) = (tmp_path / "claims").iterdir()
    ticket.unlink()  # as another run does that has waited for long enough
    (tmp_path / "claims" / "cam-1.2.another").write_text("{}")
    for change in (artifact.remove, commit):
        with pytest.raises(RunError, match=r"^cam-1: this process was paused.* for more than 60 seconds"):
            change(artifact) if change is commit else change()
    assert artifact.exists("weights")
    assert not artifact.complete


def test_an_owner_that_slept_too_long_gives_up_while_another_is_about_to_take_its_claim(
    paused: tuple[Artifact, list[float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, asleep = paused
    other = tmp_path / "claims" / "cam-1.2.another"
    other.write_text("{}")
    commit(artifact)  # in time, although somebody waits
    asleep[0] = claims.EXPIRY_S + 1
    with pytest.raises(RunError, match="paused"):
        artifact.remove("weights")


def test_a_lost_claim_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "TOUCH_S", 0.02)
    with claimed(Store.open(str(tmp_path)), "cam-1", is_done=lambda: False, on_wait=lambda: None):
        (ticket,) = (tmp_path / "claims").iterdir()
        before = ticket.read_bytes()
        deadline = time.monotonic() + 60
        while ticket.read_bytes() == before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert ticket.read_bytes() != before, "it lives"
        ticket.unlink()
        time.sleep(0.2)
        assert not ticket.exists()


def test_an_artifact_leaves_the_check_of_its_claim_behind_when_it_travels(paused: tuple[Artifact, list[float]]) -> None:
    artifact, _ = paused
    there = pickle.loads(pickle.dumps(artifact))
    assert there == artifact
    assert there.check is None
    assert artifact.check is not None
