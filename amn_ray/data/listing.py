"""Which images a data set has: listed in a process of its own, so that the driver's memory does not grow with them.

The annotations of COCO alone take gigabytes once they are parsed. The driver gets a `Summary`; the records themselves
are listed again on a worker when the image table is built.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from amn_ray.artifacts import local_path
from amn_ray.data.coco import Coco, CocoConfig
from amn_ray.data.folder import Folder, FolderConfig
from amn_ray.data.shapes import Shapes, ShapesConfig
from amn_ray.data.source import DatasetConfig, Listing, Source
from amn_ray.data.voc import Voc, VocConfig
from amn_ray.errors import RequestError, RunError

SOURCES: Mapping[type, type] = {ShapesConfig: Shapes, VocConfig: Voc, CocoConfig: Coco, FolderConfig: Folder}


@dataclass(frozen=True)
class Summary:
    """One split of a data set, in a few numbers."""

    config: DatasetConfig
    split: str
    classes: Sequence[str]
    """Of the labels 1…N."""
    rows: int
    evaluated: int
    """Images with ground truth."""
    unlabelled: int
    """Images with K = 0."""
    unknown_classes: Mapping[str, int]
    warnings: Sequence[str]
    digest: str
    """Of names, labels, annotations and the sizes of all files."""

    def identity(self) -> dict[str, Any]:
        """What decides the table's content: settings, names, labels and the sizes of all files, but not their place."""
        settings = {key: value for key, value in asdict(self.config).items() if key != "root"}
        return settings | {"split": self.split, "classes": list(self.classes), "records": self.digest}


def open_source(config: DatasetConfig) -> Source:
    """The source that reads this kind of data set.

    Raises:
        RequestError: its root or class list is wrong.
    """
    return SOURCES[type(config)](config)


def summarise(config: DatasetConfig, source: Source, split: str, listing: Listing) -> Summary:
    """What the driver is told of a listing."""
    digest = hashlib.sha256()
    for record in listing.records:
        entry = (record.image_id, record.labels, _size(record.image), _size(record.mask), record.annotations)
        digest.update(json.dumps(entry).encode())
    return Summary(
        config=config,
        split=split,
        classes=source.classes,
        rows=len(listing.records),
        evaluated=sum(record.mask is not None for record in listing.records),
        unlabelled=sum(not record.labels for record in listing.records),
        unknown_classes=dict(listing.unknown_classes),
        warnings=tuple(listing.warnings),
        digest=digest.hexdigest(),
    )


def list_splits(config: DatasetConfig) -> dict[str, Summary]:
    """`train`, and `val` if the data set has one: listed and checked, not yet read.

    Raises:
        RequestError: the data set's root, lists or labels are wrong.
        RunError: the process that lists them died, as it does where memory is short.
    """
    # Not multiprocessing, whose processes import the job's main module (and with it Ray) before they do anything.
    paths = [str(Path(__file__).parent.parent.parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "amn_ray.data"],
        input=pickle.dumps(config),
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    if done.returncode != 0:
        raise RunError(f"dataset={config.name}: listing its images failed with exit code {done.returncode}")
    told = pickle.loads(done.stdout)
    if isinstance(told, RequestError):
        raise told
    return told


def placed(config: DatasetConfig) -> DatasetConfig:
    """With an absolute `root`: workers may have another working directory."""
    root = getattr(config, "root", None)
    settings: dict[str, Any] = {"root": local_path(root, "dataset.root")} if root else {}
    return replace(config, **settings)


def list_here(config: DatasetConfig) -> dict[str, Summary] | RequestError:
    """What `list_splits` returns or raises, by this process."""
    try:
        config = placed(config)
        source = open_source(config)
        found = {split: summarise(config, source, split, source.listing(split)) for split in ("train", "val")}
    except RequestError as error:
        return error
    return {split: summary for split, summary in found.items() if split == "train" or summary.rows}


def _size(path: str | None) -> int | None:
    return Path(path).stat().st_size if path else None
