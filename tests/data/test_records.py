"""Records in a file, from which workers read their shards; and files that are no longer what was listed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from amn_ray.core.artifacts import Store
from amn_ray.core.errors import RequestError
from amn_ray.core.folders import Folder
from amn_ray.data.coco import CocoConfig
from amn_ray.data.folder import FolderConfig
from amn_ray.data.listing import Summary, list_content, open_source, summarise
from amn_ray.data.records import RECORDS, check_image, check_mask_file, list_records, records_of, shown
from amn_ray.data.source import DatasetConfig, Record
from tests.coco_shapes import build
from tests.conftest import encode, noise


@pytest.fixture
def output(tmp_path: Path) -> Folder:
    return Store.open(str(tmp_path / "store")).folder("images")


def listed(config: DatasetConfig) -> tuple[Summary, list[Record]]:
    source = open_source(config)
    listing = list_content(source, "train")
    return summarise(config, source, "train", listing), listing.records


@pytest.mark.parametrize("kind", ["folder", "coco"])
def test_workers_read_the_records_that_were_listed_shard_by_shard(
    folder: Path, tmp_path: Path, output: Folder, kind: str
) -> None:
    if kind == "folder":
        config: DatasetConfig = FolderConfig(root=str(folder), rows_per_shard=2)
    else:
        root = build(tmp_path / "coco", num_train=3, num_val=1, size=32)
        config = CocoConfig(root=str(root), rows_per_shard=2)
    summary, records = listed(config)
    source = list_records(summary, output)
    assert source.classes == summary.classes
    assert list(records_of(output, [0])) == records[:2]
    assert list(records_of(output, np.array([1, 0]))) == [records[2], *records[:2]]
    with pq.ParquetFile(output.at(RECORDS), filesystem=output.fs) as file:
        assert file.num_row_groups == 2


def test_paths_that_are_no_text_come_back_as_they_are(folder: Path, output: Folder) -> None:
    images = os.fsencode(folder / "images")
    os.rename(images + b"/p.png", images + b"/caf\xe9.png")
    (folder / "labels.csv").write_text("image,labels\ncafé.png,nut\nq.png,nut\n")
    (folder / "masks/p.png").unlink()
    summary, records = listed(FolderConfig(root=str(folder), classes=["nut", "bolt"]))
    list_records(summary, output)
    assert list(records_of(output, [0])) == records
    assert os.fsencode(records[0].image) == images + b"/caf\xe9.png"
    assert shown(records[0].image).endswith(r"images/caf\xe9.png")


@pytest.mark.parametrize("changed", ["images/p.png", "masks/p.png"])
def test_a_set_that_is_no_longer_what_the_driver_was_told_is_refused(
    folder: Path, output: Folder, changed: str
) -> None:
    summary, _ = listed(FolderConfig(root=str(folder), name="parts"))
    pixels = noise(20, 28, seed=9) if "images" in changed else np.zeros((20, 28), np.uint8)
    (folder / changed).write_bytes(encode(pixels))
    with pytest.raises(RequestError, match="dataset=parts: its files changed while they were listed; run again"):
        list_records(summary, output)


def test_an_image_that_changes_after_it_was_listed_is_noticed(folder: Path) -> None:
    _, (record, *_) = listed(FolderConfig(root=str(folder)))
    check_image(record, Path(record.image).read_bytes())
    with pytest.raises(RequestError, match=r"images/p\.png: changed after the data set was listed; run again"):
        check_image(record, encode(noise(20, 28, seed=99)))
    check_image(replace(record, image_digest=""), b"of a drawn image nothing is known")


def test_a_mask_that_changes_after_it_was_listed_is_noticed(folder: Path) -> None:
    _, (record, _, without) = listed(FolderConfig(root=str(folder)))
    check_mask_file(record)
    check_mask_file(without)
    (folder / "masks/p.png").write_bytes(encode(np.zeros((20, 28), np.uint8)))
    with pytest.raises(RequestError, match=r"masks/p\.png: changed after the data set was listed; run again"):
        check_mask_file(record)
