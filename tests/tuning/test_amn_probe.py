"""The look at AMN after each epoch: the right number, and no influence on the training."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ray.tune.integration.ray_train import TuneReportCallback

from amn_ray.core.artifacts import TABLE, Artifact, Store
from amn_ray.core.errors import RequestError
from amn_ray.data.images import MASK_SCHEMA, decode_image, decode_mask, mask_row
from amn_ray.data.listing import Summary
from amn_ray.data.maps import hard_labels, modulate
from amn_ray.data.shapes import Shapes, ShapesConfig
from amn_ray.data.transforms import resize_label
from amn_ray.evaluation.confusion import confusion_matrix, mean_iou
from amn_ray.nn.config import BackboneConfig
from amn_ray.platform.hardware import Hardware
from amn_ray.recipe.plan import Plan, make_plan
from amn_ray.stages.amn.config import AmnConfig, AmnMapsConfig
from amn_ray.stages.amn.model import AmnNet, amn_maps
from amn_ray.stages.score.infer import SCHEMA as SCORES
from amn_ray.tuning.amn_probe import AmnProbe, AmnWatch
from tests.composed import configured

CONFIG = AmnConfig(
    backbone=BackboneConfig(name="resnet18", weights=None, batchnorm="batch"), precision="fp32", epochs=2, batch_size=4,
    crop=64, scale=[1.0, 1.2], lr_backbone=1e-3, lr_head=1e-3,
)  # fmt: skip
MAPS = AmnMapsConfig(scales=[1.0, 1.5], precision="fp32")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """Images, ground truth, and seeds that are the ground truth with an undefined border."""
    store = Store.open(str(tmp_path_factory.mktemp("probe")))
    source = Shapes(ShapesConfig(num_train=8, num_val=1, size=48))
    images, truth, seeds = (store.artifact(stage, 1, {}, {}) for stage in ("images", "truth", "crf"))
    rows, masks, refined = [], [], []
    for record in source.listing("train").records:
        rows.append({"image_id": record.image_id, "image": source.image(record), "labels": record.labels})
        mask_HW = source.mask(record)
        masks.append(mask_row(record.image_id, mask_HW))
        seed_HW = mask_HW.copy()
        seed_HW[:, :8] = 255
        refined.append(mask_row(record.image_id, seed_HW))
    for artifact, content, schema in ((images, rows, None), (truth, masks, MASK_SCHEMA), (seeds, refined, MASK_SCHEMA)):
        put(artifact, content, schema)
    images.commit(config={}, inputs={}, code={}, seconds=0, result={"rows": 8, "classes": source.classes})
    return {"images": images, "truth": truth, "refined": seeds}


def put(artifact: Artifact, rows: list[dict], schema: pa.Schema | None) -> None:
    Path(artifact.at(TABLE)).mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), artifact.at(f"{TABLE}/0.parquet"))


def probe_of(tables: dict[str, Artifact]) -> AmnProbe:
    return AmnProbe(MAPS, tables["images"], tables["truth"], tables["refined"], tables["images"].table().ids())


def test_the_probe_is_the_best_miou_of_single_scale_maps_on_the_stored_grid(tables: dict[str, Artifact]) -> None:
    torch.manual_seed(3)
    model = AmnNet(CONFIG, 5).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = probe_of(tables)(model, CPU, 0, 1)["probe_miou"]

    maps, truths = [], []
    one_scale = dataclasses.replace(MAPS, scales=[1.0])
    for image_id in tables["images"].table().ids():
        row = tables["images"].table().take([image_id], ["image", "labels"])[0]
        masks = [tables[name].table().take([image_id], ["mask"])[0]["mask"] for name in ("truth", "refined")]
        with torch.no_grad():
            (made,) = amn_maps(
                model, [decode_image(row["image"])], [row["labels"]], num_classes=5, config=one_scale, device=CPU
            )
        h, w = made.shape[1:]
        truth, seed_hw = (resize_label(decode_mask(mask), h, w) for mask in masks)
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


def planned(store: Store, until: str, activation: str = "amn") -> Plan:
    images = {
        split: Summary(
            config=ShapesConfig(), split=split, classes=["cat"], rows=8, masks=8, evaluated=8, unlabelled=0,
            unknown_classes={}, warnings=(), digest=split, truth_digest=split,
        )
        for split in ("train", "val")
    }  # fmt: skip
    config = dataclasses.replace(configured(f"until={until}", f"activation={activation}"), amn_maps=MAPS)
    return make_plan(config, images, store, Hardware(has_bf16=False))


def test_only_images_that_select_are_looked_at(tables: dict[str, Artifact], tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    score = store.artifact("score", 1, {}, {})
    image = {"truth": [0], "predicted": [0], "counts": np.ones(2, np.int32).tobytes()}
    rows = [
        {"image_id": f"{number:03}", "evaluated": number < 390} | ({} if number % 2 else image) for number in range(400)
    ]
    put(score, rows, SCORES)
    seeds = store.artifact("crf", 1, {}, {})
    trained = [row["image_id"] for row in rows if row["image_id"] != "010"]  # one without a seed
    put(seeds, [{"image_id": image_id, "mask": b"", "present": []} for image_id in trained], MASK_SCHEMA)
    watch = AmnWatch(planned(store, "amn_maps"))
    probe = watch.probe("amn", CONFIG, {**tables, "refined": seeds, "maps_score": score})
    assert probe is not None
    assert (probe.config.scales, probe.config.precision) == (MAPS.scales, "fp32")
    assert (probe.images, probe.truth, probe.seeds) == (tables["images"], tables["truth"], seeds)
    selecting = [f"{number:03}" for number in range(0, 390, 2)][::5]
    selecting.remove("010")
    assert set(probe.ids) <= set(selecting)
    assert len(probe.ids) == min(64, len(selecting))
    assert watch.probe("irn", CONFIG, {**tables, "maps_score": score}) is None, "another training"
    assert watch.probe("amn", CONFIG, tables) is None, "no ground truth"


def test_only_epochs_of_amn_with_a_probe_reach_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[dict[str, float]]] = []
    monkeypatch.setattr(TuneReportCallback, "__init__", lambda self: None)  # it asks for the study that it is in
    monkeypatch.setattr(TuneReportCallback, "after_report", lambda self, context, metrics, _: told.append(metrics))
    watch = AmnWatch(planned(Store.open(str(tmp_path)), "amn_maps"))
    assert not watch.callbacks("classifier")
    (callback,) = watch.callbacks("amn")
    for report in ({"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.4, "probe_miou": 0.25}):
        callback.after_report(None, [report], None)
    assert told == [[{"probe_miou": 0.25, "objective": 0.25, "epoch": 2}]]


@pytest.mark.parametrize(("until", "activation"), [("amn", "amn"), ("pseudo_masks", "none")])
def test_trials_without_maps_of_amn_cannot_be_watched(tmp_path: Path, until: str, activation: str) -> None:
    with pytest.raises(RequestError, match=r"study.asha: watches the training of AMN"):
        AmnWatch(planned(Store.open(str(tmp_path)), until, activation))
