"""The images stage on a real Ray: a file whose decoder ends the process is one bad image, told by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from amn_ray.core.artifacts import TABLE, Artifact, Store
from amn_ray.core.errors import RequestError
from amn_ray.data.folder import FolderConfig
from amn_ray.data.listing import Summary
from amn_ray.platform.cluster import Cluster
from amn_ray.stages.images.stage import IMAGES
from amn_ray.stages.stage import Context
from amn_ray.testing import FatalConfig
from tests.photographs import train

FATAL = "train_00005"


def summary(**settings: float) -> Summary:
    return train(FatalConfig(name="fatal", num_train=12, size=32, rows_per_shard=4, fatal=FATAL, **settings))


def artifact(folder: Path, described: Summary) -> Artifact:
    return Store.open(str(folder)).artifact(IMAGES.name, IMAGES.version, IMAGES.identity(described), {})


def test_an_image_that_kills_its_reader_is_skipped_and_listed_or_refused(cluster: Cluster, tmp_path: Path) -> None:
    described = summary(max_bad_fraction=0.2)
    output = artifact(tmp_path, described)
    told = IMAGES.run(described, {}, output, Context(cluster=cluster))
    assert told["rows"] == 11
    assert told["bad_images"] == [f"{FATAL}: reading it ends the process (SIGSEGV)"]
    assert [info.base_name for info in output.entries()] == [TABLE]
    described = summary()
    with pytest.raises(RequestError, match=rf"{FATAL}: reading it ends the process"):
        IMAGES.run(described, {}, artifact(tmp_path, described), Context(cluster=cluster))
    assert not output.exists()


def test_a_table_that_lacks_images_is_not_reused_where_none_may_be_lacking(folder: Path) -> None:
    made = {"bad_images": ["p.png: is not an image"]}
    IMAGES.check_reuse(train(FolderConfig(root=str(folder), max_bad_fraction=0.5)), made)
    with pytest.raises(RequestError, match="1 of 3 images are bad"):
        IMAGES.check_reuse(train(FolderConfig(root=str(folder))), made)
