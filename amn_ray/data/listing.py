"""Which images a data set has: listed in a process of its own, so that the driver's memory does not grow with them.

The annotations of COCO alone take gigabytes once they are parsed. The driver gets a `Summary`; the records themselves
are listed again on a worker where a table is built (see records.py).
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

from amn_ray.core.errors import RequestError, RunError
from amn_ray.core.places import local_path
from amn_ray.data.digests import digests
from amn_ray.data.registry import kind_of
from amn_ray.data.source import DatasetConfig, Listing, Record, Source

NOT_CONTENT = {
    "name", "classes", "allow_unlabelled", "max_bad_fraction", "rows_per_shard",
    "root", "train", "val", "annotations", "masks", "train_list", "evaluate_list", "val_list", "num_train", "num_val",
    "numbering", "encoding", "separator", "mask_pattern",
}  # fmt: skip
"""Settings that do not say how files are read, only where they are, what is checked, and how a table is cut. (What they
select is in the records, and the classes are in a summary as the source found them.)"""
OF_MASKS = {"mask_values", "palette"}
"""Settings that say how masks are read."""


@dataclass(frozen=True)
class Summary:
    """One split of a data set, in a few numbers."""

    config: DatasetConfig
    split: str
    classes: Sequence[str]
    """Of the labels 1…N."""
    rows: int
    masks: int
    """Images with ground truth."""
    evaluated: int
    """Those of them that count in the scores; the others count only in the scores of all."""
    unlabelled: int
    """Images with K = 0."""
    unknown_classes: Mapping[str, int]
    warnings: Sequence[str]
    digest: str
    """Of ids, labels and the content of the images' files; the masks do not count."""
    truth_digest: str
    """Of the masks: their ids, annotations, the content of their files, which of them are evaluated, and what was found
    out about reading them."""

    @property
    def modules(self) -> list[str]:
        """That of the source; see core.settings.chosen_modules."""
        return [] if type(self.config) is DatasetConfig else [kind_of(self.config).source.__module__]

    def identity(self) -> dict[str, Any]:
        """What decides the content of the image table: how files are read, ids, labels and what the files hold.

        Not where they are, nor what the data set is called, nor when a file was written.
        """
        settings = {key: value for key, value in asdict(self.config).items() if key not in NOT_CONTENT | OF_MASKS}
        return settings | {"split": self.split, "classes": list(self.classes), "records": self.digest}

    def truth_identity(self) -> dict[str, Any]:
        """What decides the content of the table of ground truth, besides the images."""
        settings = {key: value for key, value in asdict(self.config).items() if key in OF_MASKS}
        return settings | {"records": self.truth_digest}


def open_source(config: DatasetConfig) -> Source:
    """The source that reads this kind of data set.

    Raises:
        RequestError: its root or class list is wrong.
    """
    return kind_of(config).source(config)


def list_content(source: Source, split: str) -> Listing:
    """A listing whose records know what their files hold.

    Raises:
        RequestError: see Source.
    """
    listing = source.listing(split)
    known = digests(path for record in listing.records for path in (record.image, record.mask) if path)
    listing.records = [
        replace(record, image_digest=known.get(record.image, ""), mask_digest=known.get(record.mask or "", ""))
        for record in listing.records
    ]
    return listing


def summarise(config: DatasetConfig, source: Source, split: str, listing: Listing) -> Summary:
    """What the driver is told of a listing, whose files' content is known."""
    images = hashlib.sha256(type(config).__name__.encode())
    masks = hashlib.sha256(json.dumps(listing.reading, sort_keys=True).encode())
    for record in listing.records:
        images.update(json.dumps((record.image_id, record.labels, record.image_digest)).encode())
        if record.mask is not None:
            masks.update(json.dumps(_of_mask(record)).encode())
    return Summary(
        config=config,
        split=split,
        classes=source.classes,
        rows=len(listing.records),
        masks=sum(record.mask is not None for record in listing.records),
        evaluated=sum(record.mask is not None and record.evaluated for record in listing.records),
        unlabelled=sum(not record.labels for record in listing.records),
        unknown_classes=dict(listing.unknown_classes),
        warnings=tuple(listing.warnings),
        digest=images.hexdigest(),
        truth_digest=masks.hexdigest(),
    )


def _of_mask(record: Record) -> tuple[object, ...]:
    return (record.image_id, record.mask_digest, record.annotations, record.evaluated)


def list_splits(config: DatasetConfig, *, needs_val: bool = True) -> dict[str, Summary]:
    """`train`, and `val` if the data set has one: listed and checked, not yet decoded.

    Args:
        config: of the data set.
        needs_val: whether somebody is going to use `val`; else a fault in it is no more than a warning.

    Raises:
        RequestError: the data set's root, lists or labels are wrong.
        RunError: the process that lists them died, as it does where memory is short.
    """
    # Not multiprocessing, whose processes import the job's main module (and with it Ray) before they do anything.
    paths = [str(Path(__file__).parent.parent.parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "amn_ray.data"],
        input=pickle.dumps((config, needs_val)),
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    if done.returncode != 0:
        raise RunError(f"dataset={config.name}: listing its images failed with exit code {done.returncode}")
    told = pickle.loads(done.stdout)
    if isinstance(told, RequestError):
        raise told
    return told


def _shared(train: Listing, val: Listing) -> list[str]:
    """A sentence if images are in both splits, whatever they are called there."""
    trained = {record.image_digest: record.image for record in train.records if record.image_digest}
    both = [record for record in val.records if record.image_digest in trained]
    if not both:
        return []
    return [
        f"{len(both)} of {len(val.records)} images of val are also in train, such as {both[0].image} "
        f"({trained[both[0].image_digest]}), so scores on them say little of new images; take them out of one of the "
        "two (the column split, dataset.val_list, dataset.val)"
    ]


def placed(config: DatasetConfig) -> DatasetConfig:
    """With an absolute `root`: workers may have another working directory."""
    root = getattr(config, "root", None)
    settings: dict[str, Any] = {"root": local_path(root, "dataset.root")} if root else {}
    return replace(config, **settings)


def list_here(config: DatasetConfig, needs_val: bool) -> dict[str, Summary] | RequestError:
    """What `list_splits` returns or raises, by this process."""
    found: dict[str, Summary] = {}
    try:
        config = placed(config)
        source = open_source(config)
        train = list_content(source, "train")
        found["train"] = summarise(config, source, "train", train)
        val = list_content(source, "val")
        val.warnings += _shared(train, val)
        found["val"] = summarise(config, source, "val", val)
    except RequestError as error:
        if needs_val or "train" not in found:
            return error
        warning = f"there are no images to evaluate the segmentation network on, which until=segmenter needs: {error}"
        return {"train": replace(found["train"], warnings=(*found["train"].warnings, warning))}
    return {split: summary for split, summary in found.items() if split == "train" or summary.rows}
