"""What the stages hand to each other: fingerprinted folders of Parquet tables and weights.

An artifact is the folder `<store>/<stage>/<fingerprint>/`. The fingerprint is a hash of everything that decides
its content, and `manifest.json` is written last and atomically: **a folder without a manifest does not exist**. A
stage whose manifest is there is never run again, which is how pipelines resume and how runs share work.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import posixpath
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.fs

from amn_ray.core.errors import RequestError
from amn_ray.core.folders import Folder, flush
from amn_ray.core.places import first_line, locate, without_secrets
from amn_ray.core.provenance import git_commit, versions
from amn_ray.core.tables import Table

MANIFEST = "manifest.json"
TABLE = "rows"
"""The folder of an artifact's table, if it is one."""
MODEL = "model.safetensors"
"""The file of an artifact's weights, if it holds some."""


def fingerprint(*parts: Any) -> str:
    """The first 16 hex digits of the SHA-256 of the parts' canonical JSON; dataclasses count as dicts."""
    text = json.dumps([_plain(part) for part in parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


@dataclass(frozen=True)
class Store(Folder):
    """Where artifacts live: a directory, or any URL that pyarrow or fsspec opens (`s3://bucket/prefix`)."""

    @classmethod
    def open(cls, url: str, key: str = "store") -> Store:
        """Open a place to write to, and probe it; `key` is the setting that named it.

        Raises:
            RequestError: the store cannot be created or written to.
        """
        try:
            store = cls(*locate(url, key))
            store.fs.create_dir(store.path, recursive=True)
            # os.access lies for root and for network mounts; only a write tells.
            probe = f".probe-{time.time_ns()}"
            store.write(probe, b"probe")
            store.remove(probe)
        except OSError as error:
            raise _refused(url, key, "written", error) from error
        return store

    @classmethod
    def reading(cls, url: str, key: str = "store") -> Store:
        """Open a place to read from, whether there is something or not; `key` is the setting that named it.

        Raises:
            RequestError: the store cannot be asked.
        """
        store = cls(*locate(url, key))
        try:
            store.exists()
        except OSError as error:
            raise _refused(url, key, "read", error) from error
        return store

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, pa.fs.LocalFileSystem)

    def artifact(self, stage: str, version: int, config: Any, inputs: Mapping[str, Artifact]) -> Artifact:
        """The artifact that `stage` makes of `config` and `inputs`, whether it exists yet or not."""
        sources = {name: item.fingerprint for name, item in inputs.items()}
        digest = fingerprint(stage, version, config, sources)
        return Artifact(self.fs, posixpath.join(self.path, stage, digest), stage, digest)


@dataclass(frozen=True)
class Artifact(Folder):
    """One fingerprinted folder of the store."""

    stage: str
    fingerprint: str
    check: Callable[[], None] | None = field(default=None, compare=False, repr=False)
    """Called before the artifact is committed or anything in it removed; raises if another process makes it now. It
    stays in the process that has the claim."""

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "check": None}

    def check_claim(self) -> None:
        """Before it is changed for good.

        Raises:
            RunError: the claim was lost.
        """
        if self.check is not None:
            self.check()

    def remove(self, name: str = "") -> None:
        """See Folder; not if the claim was lost."""
        self.check_claim()
        super().remove(name)

    @property
    def complete(self) -> bool:
        return self.exists(MANIFEST)

    def manifest(self) -> dict[str, Any]:
        return json.loads(self.read(MANIFEST))

    def commit(
        self, *, config: Any, inputs: Mapping[str, Artifact], seconds: float, result: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write the manifest, which makes the artifact exist; `result` is what the stage returned.

        Raises:
            RunError: the claim was lost.
        """
        manifest = {
            "stage": self.stage,
            "fingerprint": self.fingerprint,
            "config": _plain(config),
            "inputs": {name: item.fingerprint for name, item in inputs.items()},
            "seconds": round(seconds, 2),
            "versions": versions(),
            "git_commit": git_commit(),
            **result,
        }
        if isinstance(self.fs, pa.fs.LocalFileSystem):
            self._flush_all()
        self.check_claim()
        self.write(MANIFEST, json.dumps(manifest, indent=2).encode())
        return manifest

    def _flush_all(self) -> None:
        """What a manifest vouches for is on the disk before it."""
        for info in self.fs.get_file_info(pa.fs.FileSelector(self.path, recursive=True, allow_not_found=True)):
            if info.type == pa.fs.FileType.File:
                flush(info.path)

    def table(self) -> Table:
        """The artifact's table, opened (and its index read) once per process."""
        return _open_table(self)

    def fresh_table(self) -> Table:
        """The artifact's table as it is now, for whoever watches it grow."""
        return Table(self.fs, self.at(TABLE))


@lru_cache(maxsize=16)
def _open_table(artifact: Artifact) -> Table:
    return artifact.fresh_table()


def _refused(url: str, key: str, done: str, error: OSError) -> RequestError:
    return RequestError(
        f"{key}={without_secrets(url)}: cannot be {done} ({first_line(error, url)}); give a directory or URL that you "
        "have the right to, and for an object store its credentials (s3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
        "AWS_ENDPOINT_URL)"
    )
