"""The look at AMN after each epoch: the right number, and no influence on the training."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from amn_ray.core.artifacts import Artifact, Store
from amn_ray.data.images import MASK_SCHEMA, decode_image, decode_mask, encode_mask, mask_row
from amn_ray.data.maps import hard_labels, modulate
from amn_ray.data.shapes import Shapes, ShapesConfig
from amn_ray.data.transforms import resize_label
from amn_ray.evaluation.confusion import confusion_matrix, mean_iou
from amn_ray.nn.config import BackboneConfig
from amn_ray.stages.amn.config import AmnConfig
from amn_ray.stages.amn.model import AmnNet, amn_maps
from amn_ray.tuning.probe import AmnProbe, AmnWatch

CONFIG = AmnConfig(
    backbone=BackboneConfig(name="resnet18", weights=None, batchnorm="batch"), precision="fp32", epochs=2, batch_size=4,
    crop=64, scale=[1.0, 1.2], scales=[1.0, 1.5], lr_backbone=1e-3, lr_head=1e-3,
)  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """Images with ground truth, and seeds that are the ground truth with an undefined border."""
    store = Store.open(str(tmp_path_factory.mktemp("probe")))
    source = Shapes(ShapesConfig(num_train=8, num_val=1, size=48))
    images, seeds = store.artifact("images", 1, {}, {}), store.artifact("crf", 1, {}, {})
    rows, masks = [], []
    for record in source.listing("train").records:
        image, mask_HW = source.load(record)
        assert mask_HW is not None
        rows.append(
            {"image_id": record.image_id, "image": image, "labels": record.labels, "mask": encode_mask(mask_HW)}
        )
        seed_HW = mask_HW.copy()
        seed_HW[:, :8] = 255
        masks.append(mask_row(record.image_id, seed_HW))
    for artifact, table, content, schema in ((images, "rows", rows, None), (seeds, "masks", masks, MASK_SCHEMA)):
        Path(artifact.at(table)).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(content, schema=schema), artifact.at(f"{table}/0.parquet"))
    images.commit(config={}, inputs={}, seconds=0, result={"rows": 8, "classes": source.classes})
    return {"images": images, "seed": seeds}


def probe_of(tables: dict[str, Artifact]) -> AmnProbe:
    return AmnProbe(CONFIG, tables["images"], tables["seed"], tables["images"].table("rows").ids())


def test_the_probe_is_the_best_miou_of_single_scale_maps_on_the_stored_grid(tables: dict[str, Artifact]) -> None:
    torch.manual_seed(3)
    model = AmnNet(CONFIG, 5).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = probe_of(tables)(model, CPU, 0, 1)["probe_miou"]

    maps, truths = [], []
    for image_id in tables["images"].table("rows").ids():
        row = tables["images"].table("rows").take([image_id], ["image", "labels", "mask"])[0]
        seed = tables["seed"].table("masks").take([image_id], ["mask"])[0]["mask"]
        one_scale = AmnConfig(**{**CONFIG.__dict__, "scales": [1.0]})
        with torch.no_grad():
            (made,) = amn_maps(
                model, [decode_image(row["image"])], [row["labels"]], num_classes=5, config=one_scale, device=CPU
            )
        h, w = made.shape[1:]
        truth, seed_hw = (resize_label(decode_mask(mask), h, w) for mask in (row["mask"], seed))
        maps.append((modulate(made, seed_hw) if row["labels"] else made, np.array([0, *row["labels"]])))
        truths.append(truth)
    miou = []
    for tau in np.linspace(0, 1, 101):
        total = np.zeros((6, 6), np.int64)
        for (made, labels), truth in zip(maps, truths, strict=True):
            total += confusion_matrix(truth, labels[hard_labels(made, tau)], 5)
        miou.append(mean_iou(total))
    assert found == pytest.approx(np.nanmax(miou), abs=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_workers_share_the_images_and_all_report_the_whole(
    tables: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AmnNet(CONFIG, 5).eval()
    alone = probe_of(tables)(model, CPU, 0, 1)
    parts: list[torch.Tensor] = []
    barrier = threading.Barrier(2)

    def all_reduce(confusion: torch.Tensor) -> None:
        parts.append(confusion.clone())
        barrier.wait()
        confusion.copy_(parts[0] + parts[1])
        barrier.wait()

    monkeypatch.setattr("torch.distributed.all_reduce", all_reduce)
    results: list[dict[str, float]] = []
    workers = [
        threading.Thread(target=lambda rank=rank: results.append(probe_of(tables)(model, CPU, rank, 2)))
        for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == [alone, alone]
    assert not torch.equal(parts[0], parts[1])


def test_only_images_that_select_are_looked_at(tables: dict[str, Artifact], tmp_path: Path) -> None:
    score = Store.open(str(tmp_path)).artifact("score", 1, {}, {})
    Path(score.at("images")).mkdir(parents=True)
    rows = [{"image_id": f"{number:03}", "truth": None if number % 2 else [0]} for number in range(400)]
    schema = pa.schema({"image_id": pa.string(), "truth": pa.list_(pa.int16())})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), score.at("images/0.parquet"))
    probe = AmnWatch().probe(CONFIG, {**tables, "cam_score": score})
    assert probe is not None
    selecting = [f"{number:03}" for number in range(0, 400, 2)][::5]
    assert set(probe.ids) <= set(selecting)
    assert len(probe.ids) == min(64, len(selecting))
