"""Artifacts: fingerprinted folders of Parquet tables and weights, which stages pass to each other.

An artifact is the folder `<store>/<stage>/<fingerprint>/`. The fingerprint is a hash of everything that determines
its content, and `manifest.json` is written last and atomically: **a folder without a manifest does not exist**. A
stage whose artifact exists does not run again: this is how pipelines resume and how runs share work. Every commit has
an id and records the ids of its inputs; an artifact whose inputs have been rebuilt since is stale.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import posixpath
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.fs

from amn_ray.core.errors import RequestError, RunError
from amn_ray.core.folders import Folder, flush
from amn_ray.core.places import first_line, locate, without_secrets
from amn_ray.core.provenance import git_commit, versions
from amn_ray.core.tables import Table

MANIFEST = "manifest.json"
TABLE = "rows"
"""The folder of an artifact's table, if it has one."""
NEXT = "next"
"""The file that names the folder of the new content while an artifact is rebuilt."""
FORMAT = 2
"""The format number of manifests; version 0.1 wrote none."""
MODEL = "model.safetensors"
"""The file of an artifact's weights, if it has any."""


def new_id() -> str:
    """A unique id for a commit: a rebuilt artifact has the same fingerprint, but another id."""
    return uuid.uuid4().hex[:16]


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
        """Open a location for writing and check that it is writable; `key` is the setting that names it.

        Raises:
            RequestError: the store cannot be created or written to.
        """
        try:
            store = cls(*locate(url, key))
            store.fs.create_dir(store.path, recursive=True)
            # os.access is unreliable for root and on network mounts; only a write is a real test.
            probe = f".probe-{time.time_ns()}"
            store.write(probe, b"probe")
            store.remove(probe)
        except OSError as error:
            raise _inaccessible(url, key, "written", error) from error
        return store

    @classmethod
    def reading(cls, url: str, key: str = "store") -> Store:
        """Open a location for reading, which need not exist; `key` is the setting that names it.

        Raises:
            RequestError: the store cannot be reached.
        """
        store = cls(*locate(url, key))
        try:
            store.exists()
        except OSError as error:
            raise _inaccessible(url, key, "read", error) from error
        return store

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, pa.fs.LocalFileSystem)

    def artifact(self, stage: str, version: int, config: Any, inputs: Mapping[str, Artifact]) -> Artifact:
        """The artifact that `stage` builds from `config` and `inputs`; it need not exist yet."""
        sources = {name: item.fingerprint for name, item in inputs.items()}
        digest = fingerprint(stage, version, config, sources)
        return Artifact(self.fs, posixpath.join(self.path, stage, digest), stage, digest)


@dataclass(frozen=True)
class Artifact(Folder):
    """One fingerprinted folder of the store; `path` is where its content is.

    That is the folder itself or, after a rebuild, the subfolder that the manifest names.
    """

    stage: str
    fingerprint: str
    check: Callable[[], None] | None = field(default=None, compare=False, repr=False)
    """Called before a commit or a removal; raises if another process has taken over the claim. It is not pickled, so it
    stays in the process that holds the claim."""

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "check": None}

    def check_claim(self) -> None:
        """Check that this process still holds the claim, before an irreversible change.

        Raises:
            RunError: the claim was lost.
        """
        if self.check is not None:
            self.check()

    def remove(self, name: str = "") -> None:
        """See Folder; refused if the claim was lost."""
        self.check_claim()
        super().remove(name)

    @property
    def home(self) -> Folder:
        """The folder that is named after the fingerprint."""
        return Folder(self.fs, self.path if self.name == self.fingerprint else posixpath.dirname(self.path))

    @property
    def complete(self) -> bool:
        return self.home.exists(MANIFEST)

    def manifest(self) -> dict[str, Any]:
        """The manifest.

        Raises:
            RequestError: it was written by a newer version.
        """
        manifest = json.loads(self.home.read(MANIFEST))
        if manifest.get("format", 1) > FORMAT:
            raise RequestError(
                f"{self.home.url}/{MANIFEST}: was written by a newer version of amn-ray (format {manifest['format']}, "
                f"this version supports up to {FORMAT}); use that version, or another store"
            )
        return manifest

    def current(self, input_ids: Mapping[str, str], since: float = 0) -> dict[str, Any] | None:
        """The manifest if the artifact exists and none of its inputs has been rebuilt since; else None.

        Args:
            input_ids: the ids of its inputs, by the stage's names for them.
            since: it must have been committed at this time (time.time()) or later.
        """
        if not self.complete:
            return None
        manifest = self.manifest()
        if manifest.get("format", 1) < FORMAT:  # it does not record its inputs
            return None
        is_current = manifest["input_ids"] == input_ids and manifest["committed"] >= since
        return manifest if is_current else None

    def opened(self) -> Artifact:
        """The artifact with the content path from its manifest, if there is one."""
        home = self.home
        if not self.complete:
            return self
        return dataclasses.replace(self, path=posixpath.join(home.path, self.manifest().get("content", "")).rstrip("/"))

    def successor(self) -> Artifact:
        """The artifact to rebuild into: a subfolder that replaces this content on commit. A rebuild can be resumed."""
        home = self.home
        if not home.exists(NEXT):
            home.write(NEXT, new_id().encode())
        return dataclasses.replace(self, path=posixpath.join(home.path, home.read(NEXT).decode()))

    def commit(
        self, *, config: Any, inputs: Mapping[str, Artifact], code: Mapping[str, str], seconds: float,
        result: Mapping[str, Any],
    ) -> dict[str, Any]:  # fmt: skip
        """Write the manifest, which makes the artifact exist.

        Args:
            config: the settings that affect the result.
            inputs: the artifacts that it was built from.
            code: digests of the modules that produced it (see core.code).
            seconds: how long it took.
            result: what the stage returned.

        Raises:
            RunError: the claim was lost, or the result has a key that the manifest itself has.
        """
        home = self.home
        manifest = {
            "format": FORMAT,
            "id": new_id(),
            "stage": self.stage,
            "fingerprint": self.fingerprint,
            "content": "" if self.path == home.path else self.name,
            "config": _plain(config),
            "inputs": {name: item.fingerprint for name, item in inputs.items()},
            "input_ids": {name: item.manifest()["id"] for name, item in inputs.items()},
            "seconds": round(seconds, 2),
            "committed": time.time(),
            "versions": versions(),
            "git_commit": git_commit(),
            "code": dict(code),
        }
        if taken := manifest.keys() & result.keys():
            raise RunError(f"{self.stage}: returned {min(taken)}, which every manifest has; give it another name")
        manifest |= result
        if isinstance(self.fs, pa.fs.LocalFileSystem):
            self._flush_all()
        self.check_claim()
        home.write(MANIFEST, json.dumps(manifest, indent=2).encode())
        if self.path != home.path:
            for entry in home.entries():  # the old content
                if entry.base_name not in (MANIFEST, self.name):
                    home.remove(entry.base_name)
        return manifest

    def _flush_all(self) -> None:
        """Write all files to disk before the manifest says that they exist."""
        for info in self.fs.get_file_info(pa.fs.FileSelector(self.path, recursive=True, allow_not_found=True)):
            if info.type == pa.fs.FileType.File:
                flush(info.path)

    def part(self, name: str) -> Artifact:
        """A folder of this artifact with a table or weights of its own, while it is made."""
        return dataclasses.replace(self, path=self.at(name))

    def table(self) -> Table:
        """The artifact's table, opened (and its index read) once per process."""
        return _open_table(self)

    def fresh_table(self) -> Table:
        """The artifact's table without a cache, to watch it grow."""
        return Table(self.fs, self.at(TABLE))


@lru_cache(maxsize=16)
def _open_table(artifact: Artifact) -> Table:
    return artifact.fresh_table()


@lru_cache(maxsize=16)
def common_ids(*artifacts: Artifact) -> tuple[str, ...]:
    """The ids of the rows that the tables of all these artifacts have, sorted."""
    first, *others = (artifact.table() for artifact in artifacts)
    return tuple(image_id for image_id in first.ids() if all(image_id in table for table in others))


def _inaccessible(url: str, key: str, action: str, error: OSError) -> RequestError:
    return RequestError(
        f"{key}={without_secrets(url)}: cannot be {action} ({first_line(error, url)}); give a directory or URL that "
        "you may access, and for an object store its credentials (s3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
        "AWS_ENDPOINT_URL)"
    )
