"""A small folder of photographs with masks, and the tables of a split, made in this process: no Ray is needed."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from amn_ray.core.artifacts import MANIFEST, TABLE, Artifact, Store
from amn_ray.core.errors import RequestError
from amn_ray.data.folder import FolderConfig
from amn_ray.data.images import encode_mask, turned
from amn_ray.data.listing import Summary, list_here
from amn_ray.data.records import list_records
from amn_ray.data.source import DatasetConfig
from amn_ray.stages.images import infer as images_infer
from amn_ray.stages.images.infer import ReadImage
from amn_ray.stages.images.stage import IMAGES
from amn_ray.stages.reading import ReadRow, ReadShards, review_table
from amn_ray.stages.stage import Stage
from amn_ray.stages.truth import infer as truth_infer
from amn_ray.stages.truth.infer import ReadMask
from amn_ray.stages.truth.stage import TRUTH


class Photographs:
    """A folder of photographs that share the class `nut`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("images", "masks"):
            (root / name).mkdir(parents=True)

    def add(self, name: str, content: bytes, mask_HW: np.ndarray | None = None) -> None:
        (self.root / "images" / name).write_bytes(content)
        if mask_HW is not None:
            (self.root / "masks" / name).with_suffix(".png").write_bytes(encode_mask(mask_HW))

    def config(self, **settings: Any) -> FolderConfig:
        names = sorted(path.name for path in (self.root / "images").iterdir())
        (self.root / "labels.csv").write_text("image,labels\n" + "".join(f"{name},nut\n" for name in names))
        return FolderConfig(root=str(self.root), **settings)


def lying(upright_HWC: np.ndarray, orientation: int) -> tuple[bytes, np.ndarray]:
    """The file of a photograph, and its pixels as they lie in it."""
    stored = turned_back(upright_HWC, orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(stored).save(stream, "PNG", exif=exif)
    return stream.getvalue(), stored


def turned_back(upright: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as they lie in the file of a photograph of this orientation."""
    return turned(upright, {6: 8, 8: 6}.get(orientation, orientation))


def train(config: DatasetConfig) -> Summary:
    found = list_here(config, needs_val=False)
    if isinstance(found, RequestError):
        raise found
    return found["train"]


def make_images(summary: Summary, store: Store) -> Artifact:
    """The image table of a split."""
    pixels = summary.config.pixels
    output, rows, problems = _made(IMAGES, summary, store, {}, ReadImage(pixels), images_infer.SCHEMA)
    known = {"classes": list(summary.classes), "pixels": dataclasses.asdict(pixels)}
    output.write(MANIFEST, json.dumps({"rows": rows, "bad_images": problems, **known}).encode())
    return output


def make_truth(summary: Summary, images: Artifact, store: Store) -> Artifact:
    """The masks of a split, whose images are there."""
    read_mask = ReadMask(images, summary.config.pixels, len(summary.classes))
    output, rows, problems = _made(TRUTH, summary, store, {"images": images}, read_mask, truth_infer.SCHEMA)
    output.write(MANIFEST, json.dumps({"rows": rows, "bad_masks": problems}).encode())
    return output


def _made(
    stage: Stage[Any], summary: Summary, store: Store, inputs: Mapping[str, Artifact], read_row: ReadRow, schema: Any
) -> tuple[Artifact, int, list[str]]:
    output = store.artifact(stage.name, stage.version, stage.identity(summary), inputs)
    output.remove()
    source = list_records(summary, output)
    shards = range(-(-summary.rows // summary.config.rows_per_shard))
    read = ReadShards(source, output, read_row, schema, skip_bad=summary.config.max_bad_fraction > 0)
    Path(output.at(TABLE)).mkdir(parents=True)
    for shard in shards:
        pq.write_table(read({"id": np.array([shard])}), Path(output.at(TABLE)) / f"{shard}.parquet")
    found = review_table(source, output, read_row, len(shards))
    return output, found.rows, found.problems


def rows_of(artifact: Artifact) -> dict[str, dict[str, Any]]:
    """The table's rows by image id."""
    table = artifact.fresh_table()
    columns = [name for name in table.columns if name != "image_id"]
    return {row["image_id"]: row for row in table.read(columns).to_pylist()}


def bad(artifact: Artifact) -> list[str]:
    """The defects that were found while the table was made."""
    manifest = artifact.manifest()
    return manifest["bad_images"] if "bad_images" in manifest else manifest["bad_masks"]


def latin_names(voc: Path) -> None:
    """Call the images `a` and `b` of a VOC folder `für` and `über`, in an encoding that is not UTF-8."""
    for folder, ending in (("JPEGImages", ".jpg"), ("Annotations", ".xml"), ("SegmentationClassAug", ".png")):
        for name, latin in (("a", b"f\xfcr"), ("b", b"\xfcber")):
            (voc / folder / f"{name}{ending}").rename(voc / folder / (os.fsdecode(latin) + ending))
    for name in ("train_aug", "train"):
        (voc / f"ImageSets/Segmentation/{name}.txt").write_text("für\nüber\n")
