"""Doubles that tests send to workers. They must be importable there, so they live in the package."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from amn_ray.core.errors import RequestError
from amn_ray.data.registry import register_dataset
from amn_ray.data.shapes import Shapes, ShapesConfig
from amn_ray.data.source import Record


class Breakable:
    """A mapper that doubles `value`, keeps a record of its rows, and breaks where it is told to."""

    def __init__(
        self,
        log: str,
        fail_at: str | None = None,
        after: str | None = None,
        kill_once_at: str | None = None,
        kill_at: str | None = None,
        mistake_at: str | None = None,
        seconds: float = 0,
    ) -> None:
        self.log = Path(log)
        self.fail_at = fail_at
        self.after = after
        self.kill_once_at = kill_once_at
        self.kill_at = kill_at
        self.mistake_at = mistake_at
        self.seconds = seconds

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`image_id`, `value` -> `image_id`, `double`."""
        ids = batch.column("image_id").to_pylist()
        if self.fail_at in ids:
            self._wait()
            raise RuntimeError("broken on purpose")
        if self.mistake_at in ids:
            raise RequestError(f"mend image {self.mistake_at}")
        if self.kill_at in ids:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kill_once_at in ids and not (self.log / "killed").exists():
            (self.log / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds)
        with (self.log / f"calls-{os.getpid()}").open("a") as stream:
            stream.writelines(f"{name}\n" for name in ids)
        return pa.table({"image_id": ids, "double": pc.multiply(batch.column("value"), 2)})

    def _wait(self) -> None:
        """Until the folder `after` holds a finished shard."""
        deadline = time.monotonic() + 30
        while self.after and not list(Path(self.after).glob("*.parquet")) and time.monotonic() < deadline:
            time.sleep(0.1)


@dataclass(frozen=True)
class Counted:
    """A training worker that writes down when it starts."""

    worker: Callable[[dict], None]
    log: str

    def __call__(self, settings: dict) -> None:
        """See training.driver.train."""
        with open(self.log, "a") as stream:
            stream.write("started\n")
        self.worker(settings)


@dataclass(frozen=True)
class Recorded:
    """A probe that writes down each number that it reports."""

    probe: Callable[..., dict[str, float]]
    log: str

    def __call__(self, *arguments: Any) -> dict[str, float]:
        """See training.job.Probe."""
        found = self.probe(*arguments)
        with open(self.log, "a") as stream:
            stream.writelines(f"{value}\n" for value in found.values())
        return found


@dataclass(frozen=True)
class DiesOnce:
    """A probe that kills its process at the end of an epoch, before this epoch's checkpoint."""

    log: str
    """A file that counts the calls."""
    at: int
    """The call at which it does, from 1."""

    def __call__(self, *arguments: Any) -> dict[str, float]:
        """See training.job.Probe."""
        with open(self.log, "a") as stream:
            stream.write("called\n")
        if len(Path(self.log).read_text().splitlines()) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        return {}


@dataclass(kw_only=True)
class FatalConfig(ShapesConfig):
    """See Fatal."""

    fatal: str = ""
    """The image that ends the process which reads it."""


class Fatal(Shapes):
    """Drawn images, and one that a decoder in C dies of."""

    config: FatalConfig

    def image(self, record: Record) -> bytes:
        """See Source."""
        if record.image_id == self.config.fatal:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().image(record)


register_dataset("fatal", FatalConfig, Fatal, recipe="shapes")
