"""One makes it, the others wait; and nobody waits for the dead. Owners are real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from amn_ray import claims
from amn_ray.artifacts import Store
from amn_ray.claims import claimed

BUILDER = """
import sys, time
from pathlib import Path
from amn_ray.artifacts import Store
from amn_ray.claims import claimed
root, name = Path(sys.argv[1]), sys.argv[2]
made = root / "made"
with claimed(Store.open(str(root)), "cam-1", is_done=made.exists, on_wait=lambda: print("waits", flush=True)):
    if not made.exists():
        with (root / "builders").open("a") as stream:
            stream.write(name + "\\n")
        print("builds", flush=True)
        time.sleep(float(sys.argv[3]))
        made.touch()
"""


def builder(root: Path, name: str, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, str(root), name, str(seconds)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE)


def write_claim(root: Path, **owner: object) -> Path:
    folder = root / "claims"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "cam-1.0"
    path.write_text(json.dumps({"machine": claims._machine(), "pid": os.getpid(), "started": 0, **owner}))
    return path


def acquire(root: Path) -> bool:
    """Whether the claim could be had without waiting for anybody."""
    waited = []
    with claimed(Store.open(str(root)), "cam-1", is_done=lambda: False, on_wait=lambda: waited.append(1)):
        return not waited


def test_of_four_processes_one_builds_and_the_others_wait_for_it(tmp_path: Path) -> None:
    processes = [builder(tmp_path, str(number), 1.5) for number in range(4)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert len((tmp_path / "builders").read_text().split()) == 1
    assert sum("builds" in output for output in outputs) == 1
    assert not list((tmp_path / "claims").iterdir()), "released"


def test_a_builder_killed_with_9_is_replaced_at_once(tmp_path: Path) -> None:
    first = builder(tmp_path, "first", 60)
    assert first.stdout is not None
    assert first.stdout.readline() == "builds\n"
    second = builder(tmp_path, "second", 0)
    assert second.stdout is not None
    assert second.stdout.readline() == "waits\n"
    first.kill()
    first.wait()
    started = time.monotonic()
    assert "builds" in second.communicate(timeout=60)[0]
    assert time.monotonic() - started < claims.EXPIRY_S / 4
    assert (tmp_path / "builders").read_text().split() == ["first", "second"]


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
        for _ in range(10):
            os.utime(path)
            time.sleep(0.2)
        ended.set()

    owner = threading.Thread(target=touch)
    owner.start()
    assert not acquire(tmp_path)
    assert ended.is_set(), "it was taken while its owner lived"
    owner.join()


def test_who_takes_over_too_late_gives_way_to_the_new_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between “0 has expired” and “1 is mine” others may have taken over, ended, and released both numbers."""
    path = write_claim(tmp_path, started=12345.0)
    create, looked = claims._create, []

    def slow(folder: Path, name: str, number: int) -> claims.Claim | None:
        if number == 1 and len(looked) <= 3:
            path.unlink()
            create(folder, name, 0)  # a new owner, alive
        return create(folder, name, number)

    def is_done() -> bool:
        looked.append(sorted(item.name for item in path.parent.iterdir()))
        return len(looked) > 6

    monkeypatch.setattr(claims, "_create", slow)
    monkeypatch.setattr(claims, "POLL_S", 0.01)
    assert claims._acquire(path.parent, "cam-1", is_done, lambda: None) is None
    assert looked[-1] == ["cam-1.0"], "only the new owner's claim is left"


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
        assert not list((tmp_path / "claims").iterdir())
