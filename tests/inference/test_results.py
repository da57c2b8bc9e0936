"""What people take home: mask files, predictions on new images, a model. On a run whose network has random weights."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from amn_ray.core.artifacts import MODEL, TABLE, Artifact, Store
from amn_ray.core.errors import RequestError
from amn_ray.core.events import RunBegan, RunEnded
from amn_ray.core.folders import Folder
from amn_ray.core.settings import flat
from amn_ray.data.images import MASK_SCHEMA, BadFile, decode_image, decode_mask, mask_row
from amn_ray.data.maps import SCHEMA as MAPS
from amn_ray.data.maps import full_size, to_row
from amn_ray.data.pixels import DEFAULT, Pixels
from amn_ray.data.transforms import resize_image
from amn_ray.inference.photographs import find
from amn_ray.inference.predict import PredictConfig, _claim, _content, _present
from amn_ray.inference.segmenter import (
    LONGEST,
    ImageModel,
    Segmenter,
    Settings,
    _load_pyfunc,
    mask_of,
    write_model,
)  # fmt: skip
from amn_ray.nn.config import BackboneConfig
from amn_ray.nn.weights import to_bytes
from amn_ray.platform.cluster import Cluster
from amn_ray.platform.tracking import Tracker
from amn_ray.platform.tracking_config import TrackingConfig
from amn_ray.recipe import records as runs
from amn_ray.recipe.records import Recorder
from amn_ray.stages.crf.config import PredictionCrfConfig
from amn_ray.stages.crf.model import refined_prediction
from amn_ray.stages.deeplabv2.config import DeepLabConfig, DeepLabPredictionsConfig
from amn_ray.stages.deeplabv2.model import DeepLabNet, predict
from tests.conftest import ROOT, SECRET, encode, noise

Job = Callable[..., tuple[int, str]]
NETWORK = DeepLabConfig(backbone=BackboneConfig(name="resnet18", weights=None), scales=[1.0, 0.5], precision="fp32")
CRF = PredictionCrfConfig(iterations=3)
PREDICTIONS = DeepLabPredictionsConfig(scales=[1.0, 0.5], precision="fp32")
OPENER = "amn_ray.stages.deeplabv2.infer:open_network"
SETTINGS = Settings(OPENER, dataclasses.asdict(NETWORK), dataclasses.asdict(PREDICTIONS), CRF, ["nut", "bolt"], DEFAULT)
RECORDED = {
    "choices.prediction_refinement": "crf",
    "choices.maps": "cam",
    "choices.activation": "none",
    "choices.boundaries": "irn",
    "choices.segmenter": "deeplabv2",
    "segmenter.backbone.name": "resnet18",
    "maps.threshold": 0.5,
    **flat(DeepLabPredictionsConfig(scales=[1.0, 0.5]), "predictions."),
    **flat(CRF, "predictions_refined."),
}
"""Of a run's settings, those that are used."""


@pytest.fixture(scope="module")
def weights() -> bytes:
    torch.manual_seed(0)
    model = DeepLabNet(NETWORK.backbone, len(SETTINGS.classes), PREDICTIONS.scales)
    torch.nn.init.normal_(model.head.branches[0].weight, std=0.5)
    return to_bytes(model, {})[0]


def put(artifact: Artifact, rows: list[dict], schema: pa.Schema | None = None) -> None:
    folder = Path(artifact.at(TABLE))
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "0.parquet")


def commit(artifact: Artifact, config: object, inputs: dict[str, Artifact] | None = None, **result: object) -> None:
    artifact.commit(config=config, inputs=inputs or {}, code={}, seconds=0, result={"rows": 2, **result})


def record(folder: Folder, artifacts: dict[str, Artifact], **settings: object) -> None:
    recorder = Recorder(folder, lambda: "none")
    recorder.notify(RunBegan(settings=RECORDED | {key.replace("__", "."): value for key, value in settings.items()}))
    recorder.notify(RunEnded(artifacts=artifacts, scores={}, manifests={}, summary={}))


@pytest.fixture
def finished(tmp_path: Path, weights: bytes) -> Store:
    """The store of a run with two images, their maps, pseudo-masks, and a segmentation network."""
    store = Store.open(str(tmp_path / "store"))
    stages = {
        "images": "images", "classifier": "classifier", "maps": "cam", "pseudo_masks": "walk", "segmenter": "deeplabv2",
        "predictions": "deeplabv2_predictions", "predictions_refined": "prediction_crf",
    }  # fmt: skip
    made = {step: store.artifact(stage, 1, {}, {}) for step, stage in stages.items()}
    images = made["images"]
    sizes = {"a": (6, 9), "b": (12, 5)}
    put(images, [{"image_id": name, "height": h, "width": w} for name, (h, w) in sizes.items()])
    commit(images, {"split": "train"}, classes=SETTINGS.classes)
    left = np.zeros((1, 2, 3), np.float32)
    left[0, :, 0] = 1
    put(made["maps"], [to_row("a", [2], left), to_row("b", [], np.zeros((0, 3, 2), np.float32))], MAPS)
    rng = np.random.default_rng(0)
    masks = [mask_row(name, rng.choice([0, 1, 2, 255], size).astype(np.uint8)) for name, size in sizes.items()]
    put(made["pseudo_masks"], masks, MASK_SCHEMA)
    for step in ("classifier", "segmenter"):
        made[step].write(MODEL, weights)
    for step, artifact in made.items():
        if step != "images":
            commit(artifact, NETWORK if step == "segmenter" else {}, {"images": images})
    record(runs.folder(store).folder("one"), made)
    return store


def test_exported_masks_are_palette_files_with_the_stored_values(job: Job, finished: Store, tmp_path: Path) -> None:
    out = tmp_path / "masks"
    assert job("export", f"store={finished.path}", "step=pseudo_masks", f"out={out}")[0] == 0
    stored = runs.find(finished, None, "pseudo_masks").artifacts["pseudo_masks"].table().column("mask")
    for name in ("a", "b"):
        with Image.open(out / "SegmentationClass" / f"{name}.png") as image:
            assert image.mode == "P"
            np.testing.assert_array_equal(np.asarray(image), decode_mask(stored[name]))
            colours = np.asarray(image.convert("RGB"))
            assert (colours[np.asarray(image) == 1] == [128, 0, 0]).all()
            assert (colours[np.asarray(image) == 255] == [224, 224, 192]).all()
    assert (out / "ImageSets/Segmentation/train.txt").read_text() == "a\nb\n"
    about = {"run": "one", "step": "pseudo_masks", "split": "train", "supervision": "image-level labels"}
    assert json.loads((out / "about.json").read_text()).items() >= about.items()


def test_export_takes_the_last_run_that_made_the_step(job: Job, finished: Store, tmp_path: Path) -> None:
    later = runs.folder(finished).folder("prepared")
    record(later, {"images": runs.find(finished, "one", "pseudo_masks").artifacts["images"]})
    assert job("export", f"store={finished.path}", "step=pseudo_masks", f"out={tmp_path}/masks")[0] == 0
    assert (tmp_path / "masks/SegmentationClass/a.png").exists()


def test_exported_maps_are_cut_at_their_threshold_at_the_size_of_the_image(
    job: Job, finished: Store, tmp_path: Path
) -> None:
    assert job("export", f"store={finished.path}", "step=maps", f"out={tmp_path}/masks")[0] == 0
    mask = decode_mask((tmp_path / "masks/SegmentationClass/a.png").read_bytes())
    assert mask.shape == (6, 9)
    # Cell 0 of three covers columns 0-2; half way to the centre of cell 1, the map falls to one half.
    np.testing.assert_array_equal(mask, np.where(np.arange(9) < 3, 2, 0)[None].repeat(6, 0))
    assert not decode_mask((tmp_path / "masks/SegmentationClass/b.png").read_bytes()).any()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["step=amn_maps"], ["step=amn_maps", "images, classifier, maps, pseudo_masks", "until amn_maps"]),
        (["step=pseudo_masks", "split=val"], ["split=val", "train"]),
        (["step=pseudo_masks", "run=two"], ["run=two", "one"]),
        (["step=nonsense"], ["nonsense", "pseudo_masks"]),
        (["step=classifier"], ["step=classifier", "makes neither masks nor maps"]),
        (["step=images"], ["step=images", "makes neither masks nor maps"]),
        ([], ["step is not set"]),
        (["step=pseudo_masks", "store=nowhere"], ["nowhere", "no finished run"]),
    ],
)
def test_an_impossible_export_is_refused(
    job: Job, finished: Store, tmp_path: Path, overrides: list[str], words: list[str]
) -> None:
    code, err = job("export", f"store={finished.path}", f"out={tmp_path}/masks", *overrides)
    assert code == 2
    assert all(word in err for word in words), err
    assert not (tmp_path / "masks").exists()
    assert not Path("nowhere").exists()


def test_a_folder_that_is_not_empty_is_written_to_only_when_asked(job: Job, finished: Store, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/mine.txt").write_text("precious")
    arguments = ("export", f"store={finished.path}", "step=pseudo_masks", f"out={tmp_path}/masks")
    code, err = job(*arguments)
    assert code == 2
    assert "not empty" in err
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["mine.txt"]
    assert job(*arguments, "overwrite=true")[0] == 0
    assert (tmp_path / "masks/mine.txt").read_text() == "precious"
    assert (tmp_path / "masks/SegmentationClass/a.png").exists()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Images of many shapes, one broken, two of one stem, and a file that is none."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for name, (height, width) in {"plain.png": (40, 56), "dot.png": (1, 1), "more/line.png": (3, 700)}.items():
        (folder / name).write_bytes(encode(noise(height, width, seed=width)))
    (folder / "huge.jpg").write_bytes(encode(np.tile(noise(30, 40), (100, 100, 1)), "JPEG"))
    (folder / "cut.jpg").write_bytes(encode(noise(50, 50), "JPEG")[:400])
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_predictions_are_written_for_every_readable_image_and_the_others_are_named(
    job: Job, cluster: Cluster, finished: Store, pictures: Path, tmp_path: Path, weights: bytes
) -> None:
    out = tmp_path / "out"
    arguments = ("predict", f"store={finished.path}", f"images={pictures}", f"out={out}")
    code, err = job(*arguments)
    assert code == 1
    assert "1 of 5 files" in err
    assert "cut.jpg" in err
    assert "notes.txt" not in err  # it is no photograph that is missed
    masks = {str(path.relative_to(out / "masks")): path for path in (out / "masks").rglob("*.*")}
    assert masks.keys() == {"plain.png", "dot.png", "more/line.png", "huge.png"}
    image_HWC = decode_image((pictures / "plain.png").read_bytes())
    logits = Segmenter(SETTINGS, weights).logits(image_HWC).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(
        decode_mask(masks["plain.png"].read_bytes()), mask_of(image_HWC, logits, SETTINGS.crf)
    )
    for name, path in masks.items():
        with Image.open(path) as mask, Image.open(next(pictures.rglob(f"{path.stem}.*"))) as image:
            assert mask.mode == "P"
            assert mask.size == image.size
        with Image.open((out / "overlays" / name).with_suffix(".jpg")) as overlay:
            assert overlay.size == image.size

    # What is there is not made again; the broken files are told again.
    stamps = {name: path.stat().st_mtime_ns for name, path in masks.items()}
    masks["dot.png"].unlink()
    code, err = job(*arguments)
    assert code == 1
    assert masks["dot.png"].exists()
    assert {n: p.stat().st_mtime_ns for n, p in masks.items() if n != "dot.png"} == {
        n: stamp for n, stamp in stamps.items() if n != "dot.png"
    }


def test_impossible_predictions_are_refused(job: Job, finished: Store, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "sidecars").mkdir()
    (tmp_path / "sidecars/a.json").write_text("{}")
    refused = [
        ("missing", "not found"),
        ("empty", "contains no image"),
        ("sidecars", "only a.json"),
        ("sidecars/a.json", "not an image"),
    ]
    for images, words in refused:
        code, err = job("predict", f"store={finished.path}", f"images={tmp_path}/{images}", f"out={tmp_path}/out")
        assert code == 2
        assert words in err
    (tmp_path / "good").mkdir()
    (tmp_path / "good/a.png").write_bytes(encode(noise(5, 5)))
    code, err = job("predict", f"store={finished.path}", f"images={tmp_path}/good", f"out={tmp_path}/good/out")
    assert code == 2
    assert "lies in images" in err
    assert [path.name for path in (tmp_path / "good").iterdir()] == ["a.png"]
    for key in ("store", "images", "out"):
        places = {"store": finished.path, "images": tmp_path / "good", "out": tmp_path / "out"} | {key: "foo://x"}
        code, err = job("predict", *(f"{name}={place}" for name, place in places.items()))
        assert code == 2
        assert f"{key}=foo://x" in err
    nobody = f"s3://KEY:{SECRET}@bucket/x?endpoint_override=127.0.0.1:1&scheme=http&region=us-east-1"
    code, err = job("predict", f"store={finished.path}", f"images='{nobody}'", f"out={tmp_path}/out")
    assert code == 2
    assert "images=s3://***@bucket/x" in err
    assert "cannot be read" in err
    assert SECRET not in err
    (tmp_path / "full/masks").mkdir(parents=True)
    (tmp_path / "full/masks/a.png").write_text("precious")
    for more in ([], ["overwrite=true"]):
        code, err = job("predict", f"store={finished.path}", f"images={tmp_path}/good", f"out={tmp_path}/full", *more)
        assert code == 2
        assert "not empty" in err
    assert (tmp_path / "full/masks/a.png").read_text() == "precious"
    assert not (tmp_path / "full/predict.json").exists()
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out/predict.json").write_text('{"predictions": "another"}')
    code, err = job("predict", f"store={finished.path}", f"images={tmp_path}/good", f"out={tmp_path}/out")
    assert code == 2
    assert "another run" in err
    assert not (tmp_path / "out/masks").exists()


def test_a_mask_belongs_to_its_image_also_when_others_come(tmp_path: Path) -> None:
    def masks(*images: str, overwrite: bool = False) -> dict[str, str]:
        settings = PredictConfig(images="x", out=str(tmp_path), overwrite=overwrite)
        return _claim(Store.open(str(tmp_path), "out"), "network", settings, dict.fromkeys(images, "digest"))

    assert masks("a.jpg") == {"a.jpg": "a"}
    assert masks("a.jpg", "a.png", "b.png") == {"a.jpg": "a", "a.png": "a.png", "b.png": "b"}
    assert masks("a.png") == {"a.png": "a.png"}
    assert masks("b.jpg") == {"b.jpg": "b.jpg"}  # b.png, whose mask is there, may come back
    assert masks("a.png", "b.jpg", overwrite=True) == {"a.png": "a", "b.jpg": "b"}


def test_an_image_that_was_replaced_is_segmented_again(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "in" / name).write_bytes(encode(noise(8, 8)))

    def left() -> set[str]:
        """Masks that are not there; those are then made."""
        out = Store.open(str(tmp_path / "out"), "out")
        settings = PredictConfig(images="x", out=str(tmp_path / "out"))
        masks = _claim(out, "network", settings, _content(find(str(tmp_path / "in"))))
        missing = set(masks.values()) - _present(out)
        for name in missing:
            out.write(f"masks/{name}.png", b"a mask")
            out.write(f"overlays/{name}.jpg", b"an overlay")
        return missing

    assert left() == {"a", "b"}
    image = tmp_path / "in" / "a.png"
    before = image.stat()
    os.utime(image)
    assert left() == set()
    image.write_bytes(encode(noise(8, 8, seed=1)))
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert left() == {"a"}
    assert left() == set()


def test_a_segmenter_is_the_networks_largest_logits_and_the_crf(weights: bytes) -> None:
    image_HWC = noise(45, 70)
    segmenter = Segmenter(SETTINGS, weights)
    (expected,) = predict(segmenter.network.model, [image_HWC], device=torch.device("cpu"), precision="fp32")
    logits = segmenter.logits(image_HWC)
    np.testing.assert_array_equal(logits, expected)
    plain = full_size(logits, 45, 70).argmax(0)
    np.testing.assert_array_equal(mask_of(image_HWC, logits, None), plain)
    refined = refined_prediction(image_HWC, full_size(logits, 45, 70), SETTINGS.crf)
    np.testing.assert_array_equal(mask_of(image_HWC, logits, SETTINGS.crf), refined)
    assert len(np.unique(plain)) > 1


def test_large_images_are_segmented_at_a_smaller_size(weights: bytes) -> None:
    image_HWC = np.tile(noise(4, 8), (32, 2 * LONGEST // 8, 1))
    segmenter = Segmenter(SETTINGS, weights)
    logits = segmenter.logits(image_HWC)
    half = resize_image(image_HWC, 64, LONGEST)
    np.testing.assert_array_equal(logits, segmenter.logits(half))
    mask = mask_of(image_HWC, logits, None)
    assert mask.shape == (128, 2 * LONGEST)
    np.testing.assert_array_equal(mask[1::2, 1::2], mask_of(half, logits, None))


def test_a_network_of_photographs_that_were_scaled_down_sees_all_at_that_scale(weights: bytes) -> None:
    settings = dataclasses.replace(SETTINGS, pixels=Pixels(max_side=32))
    segmenter = Segmenter(settings, weights)
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.fromarray(noise(48, 96)).save(stream, "PNG", exif=exif)  # 96x48 when upright
    image_HWC = settings.read(stream.getvalue()).rgb
    assert image_HWC.shape == (96, 48, 3), "the file's own size"
    small = decode_image(stream.getvalue(), settings.pixels)  # what the network was trained on
    assert small.shape == (32, 16, 3)
    logits = segmenter.logits(image_HWC)
    np.testing.assert_array_equal(logits, segmenter.logits(small))
    mask = mask_of(image_HWC, logits, SETTINGS.crf, settings.longest)
    np.testing.assert_array_equal(mask, mask_of(small, logits, SETTINGS.crf).repeat(3, 0).repeat(3, 1))
    predicted = decode_mask(ImageModel(segmenter).predict(pd.DataFrame({"image": [stream.getvalue()]}))["mask"][0])
    np.testing.assert_array_equal(predicted, mask)


def test_photographs_are_predicted_with_the_white_of_the_training(weights: bytes) -> None:
    grey = noise(20, 30)[..., 0].astype(np.uint16)
    twelve = encode(grey * 16)
    settings = dataclasses.replace(SETTINGS, pixels=Pixels(white=16 * 255))
    np.testing.assert_array_equal(settings.read(twelve).rgb, np.repeat(grey[..., None], 3, 2))
    stream = io.BytesIO()
    Image.fromarray(grey.astype(np.float32)).save(stream, "TIFF")
    with pytest.raises(BadFile, match=r"has values up to .* white was 1 "):
        SETTINGS.read(stream.getvalue())
    assert SETTINGS.read(twelve).rgb.max() <= 16  # a dark photograph, as far as one can tell


def test_exported_masks_have_the_size_of_the_file_where_images_were_scaled_down(
    job: Job, finished: Store, tmp_path: Path
) -> None:
    run = runs.find(finished, None, "pseudo_masks")
    images = run.artifacts["images"]
    images.remove(TABLE)
    sizes = {"a": (6, 9), "b": (12, 5)}
    rows = [
        {"image_id": name, "height": h, "width": w, "file_height": 3 * h, "file_width": 3 * w}
        for name, (h, w) in sizes.items()
    ]
    put(images, rows)
    commit(images, {"split": "train"}, classes=SETTINGS.classes, pixels=dataclasses.asdict(Pixels(max_side=12)))
    for step in ("pseudo_masks", "maps"):
        assert job("export", f"store={finished.path}", f"step={step}", f"out={tmp_path}/{step}")[0] == 0
    stored = run.artifacts["pseudo_masks"].table().column("mask")
    for name in sizes:
        mask = decode_mask((tmp_path / f"pseudo_masks/SegmentationClass/{name}.png").read_bytes())
        np.testing.assert_array_equal(mask, decode_mask(stored[name]).repeat(3, 0).repeat(3, 1))
    mask = decode_mask((tmp_path / "maps/SegmentationClass/a.png").read_bytes())
    np.testing.assert_array_equal(mask, np.where(np.arange(27) < 9, 2, 0)[None].repeat(18, 0))


def test_ground_truth_is_exported_under_the_list_of_its_split(job: Job, finished: Store, tmp_path: Path) -> None:
    """Only images with a mask have a row there."""
    made = dict(runs.find(finished, "one", "images").artifacts)
    images, truth = finished.artifact("images", 1, "val", {}), finished.artifact("truth", 1, "val", {})
    put(images, [{"image_id": name, "height": 2, "width": 3} for name in "cde"])
    commit(images, {"split": "val"}, classes=SETTINGS.classes)
    mask_HW = np.array([[0, 1, 2], [255, 0, 1]], np.uint8)
    put(truth, [mask_row("d", mask_HW)], MASK_SCHEMA)
    commit(truth, {}, {"images": images})
    record(runs.folder(finished).folder("two"), made | {"images_val": images, "truth_val": truth})
    assert job("export", f"store={finished.path}", "step=truth_val", f"out={tmp_path}/out")[0] == 0
    assert (tmp_path / "out/ImageSets/Segmentation/val.txt").read_text() == "d\n"
    np.testing.assert_array_equal(decode_mask((tmp_path / "out/SegmentationClass/d.png").read_bytes()), mask_HW)


def test_a_network_is_loaded_with_the_settings_of_its_run(finished: Store) -> None:
    (run,) = runs.every(finished)
    assert Settings.of(run) == SETTINGS, "its precision is that of the training, unless it has its own"
    folder = runs.folder(finished).folder("other")
    record(folder, dict(run.artifacts), predictions__precision="bf16", choices__prediction_refinement="none")
    (other,) = runs.named(finished, ["other"])
    predictions = {**SETTINGS.predictions, "precision": "bf16"}
    assert Settings.of(other) == dataclasses.replace(SETTINGS, predictions=predictions, crf=None)


def test_a_network_that_cannot_be_loaded_is_refused(finished: Store) -> None:
    (run,) = runs.every(finished)
    foreign = finished.artifact("unet", 1, {}, {})
    foreign.write(MODEL, b"")
    commit(foreign, {})
    record(runs.folder(finished).folder("foreign"), {**run.artifacts, "segmenter": foreign})
    with pytest.raises(RequestError, match=r"the run foreign trained unet, which cannot be loaded here"):
        Settings.of(runs.named(finished, ["foreign"])[0])
    record(runs.folder(finished).folder("short"), {"images": run.artifacts["images"]})
    with pytest.raises(RequestError, match=r"predict: the run short made images only; .* until segmenter"):
        Settings.of(runs.named(finished, ["short"])[0])


def test_a_model_without_crf_takes_the_largest_logit(tmp_path: Path, weights: bytes) -> None:
    settings = dataclasses.replace(SETTINGS, crf=None)
    write_model(tmp_path, settings, weights)
    model = _load_pyfunc(str(tmp_path))
    assert model.segmenter.settings == settings
    encoded = encode(noise(20, 30))
    logits = full_size(model.segmenter.logits(decode_image(encoded)), 20, 30)
    predicted = model.predict(pd.DataFrame({"image": [encoded]}))["mask"][0]
    np.testing.assert_array_equal(decode_mask(predicted), logits.argmax(0))


def test_a_model_is_loaded_where_ray_is_not_installed() -> None:
    """Only what the logged model requires is there (tracking.MODEL_PACKAGES)."""
    program = (
        "import sys; sys.modules |= dict.fromkeys(('ray', 'mlflow', 'hydra', 'omegaconf'));"
        "from amn_ray.inference.segmenter import Segmenter; import amn_ray.stages.deeplabv2.model"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory, weights: bytes) -> tuple[str, str]:
    """(tracking URI, model URI) of a model that was logged and registered."""
    folder = tmp_path_factory.mktemp("models")
    tracker = Tracker(TrackingConfig(experiment="models"), Store.open(str(folder / "store")))
    with tracker.run("segmenter", "f", {}) as run:
        for _ in range(2):  # it is logged once
            run.model(
                lambda data: write_model(data, SETTINGS, weights),
                register="parts",
                alias="champion",
                packages=["timm"],
                metadata={"supervision": "image-level labels"},
            )
    assert len(tracker.client.search_model_versions("name='parts'")) == 1
    return tracker.uri, tracker.client.get_run(run.run_id).data.tags["model_uri"]


def expected_mask(encoded: bytes, weights: bytes) -> np.ndarray:
    image_HWC = decode_image(encoded)
    return mask_of(image_HWC, Segmenter(SETTINGS, weights).logits(image_HWC), SETTINGS.crf)


def test_the_logged_model_predicts_masks_and_holds_no_pickle(logged: tuple[str, str], weights: bytes) -> None:
    uri, model = logged
    mlflow.set_tracking_uri(uri)
    encoded = [encode(noise(33, 20)), encode(noise(20, 33, seed=1), "JPEG")]
    for address in (model, "models:/parts@champion"):
        masks = mlflow.pyfunc.load_model(address).predict(pd.DataFrame({"image": encoded}))["mask"]
        for one, mask in zip(encoded, masks, strict=True):
            np.testing.assert_array_equal(decode_mask(mask), expected_mask(one, weights))
    folder = Path(mlflow.artifacts.download_artifacts(model))
    database = Path(uri.removeprefix("sqlite:///"))
    assert folder.is_relative_to(database.parent), "a model lies in the store, whatever the working directory is"
    files = list(folder.rglob("*"))
    assert {"model.safetensors", "settings.json", "segmenter.py"} <= {path.name for path in files}
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".pt", ".pth")]
    version = MlflowClient(uri).get_model_version_by_alias("parts", "champion")
    assert int(version.version) == 1


@pytest.fixture
def server(logged: tuple[str, str], tmp_path: Path) -> Iterator[str]:
    """The address of `mlflow models serve`."""
    uri, model = logged
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["models", "serve", "-m", model, "-h", "127.0.0.1", "-p", str(port), "--env-manager", "local", "-w", "1"]
    environment = {"MLFLOW_TRACKING_URI": uri, "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    log = (tmp_path / "serve.txt").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *command], env=environment, stdout=log, stderr=log, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, (tmp_path / "serve.txt").read_text()[-3000:]
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2)
            break
        except OSError:
            time.sleep(0.3)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(30)


def test_a_served_model_answers_with_the_mask(server: str, weights: bytes) -> None:
    encoded = encode(noise(24, 31))
    body = {"dataframe_records": [{"image": base64.b64encode(encoded).decode()}]}
    request = urllib.request.Request(
        f"{server}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        (row,) = json.load(answer)["predictions"]
    np.testing.assert_array_equal(decode_mask(base64.b64decode(row["mask"])), expected_mask(encoded, weights))
