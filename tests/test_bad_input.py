"""Every mistake of the issue's list: one clear sentence, exit code 2, and nothing half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from amn_ray.core.artifacts import Store
from amn_ray.platform.cluster import Cluster
from amn_ray.platform.tracking import Tracker
from amn_ray.platform.tracking_config import TrackingConfig
from tests.conftest import encode

Job = Callable[..., tuple[int, str]]


@pytest.fixture
def refused(job: Job, tmp_path: Path) -> Callable[..., str]:
    """Run a job that must end with code 2 and one sentence; returns the sentence."""

    def run(*overrides: str, name: str = "pipeline") -> str:
        code, err = job(name, f"store={tmp_path}/store", *overrides)
        assert code == 2, err
        sentence = [line for line in err.splitlines() if line.startswith("error:")]
        assert len(sentence) == 1
        assert "Traceback" not in err
        # A mask, or initial weights, are read when the images are there.
        is_later = "backbone" in sentence[0] or "mask is" in sentence[0]
        assert not list(tmp_path.glob("store/*/*/manifest.json")) or is_later
        assert not list(tmp_path.glob("store/images/*/rows/*.parquet")) or is_later
        assert not list(tmp_path.glob("store/truth/*/*")) or "backbone" in sentence[0]
        return sentence[0]

    return run


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("classifier.epoch=3", ["classifier.epoch", "did you mean classifier.epochs"]),
        ("nonsense=1", ["nonsense"]),
        ("classifier.epochs=many", ["classifier.epochs", "many"]),
        ("classifier.epochs=0", ["classifier.epochs=0", "greater than 0"]),
        ("maps.threshold=1.5", ["maps.threshold=1.5", "[0, 1]"]),
        ("amn_maps.threshold=-0.1", ["amn_maps.threshold=-0.1", "[0, 1]"]),
        ("refined.conf_fg=2", ["refined.conf_fg=2", "[0, 1]"]),
        ("amn_refined.conf_bg=0.9", ["amn_refined.conf_bg=0.9", "conf_fg"]),
        ("amn.lc=[layer5]", ["amn.lc", "layer5", "layer4"]),
        ("until=segmentor", ["until=segmentor", "amn"]),
        ("activation=none until=amn_refined", ["until=amn_refined", "activation=none", "pseudo_masks"]),
        ("segmenter.backbone.name=resnet50", ["segmenter.backbone.weights=null", "resnet18", "resnet50"]),
        ("segmenter.batch_size=401", ["segmenter.batch_size=401", "400"]),
        ("cluster.train_workers=3", ["classifier.batch_size=16", "workers (3)"]),
        ("tracking.register=a/b", ["tracking.register=a/b"]),
        ("irn.radius=1", ["irn.radius=1", "at least 2"]),
        ("pseudo_masks.doublings=13", ["pseudo_masks.doublings=13", "[0, 12]"]),
        ("predictions.scales=[0.5]", ["predictions.scales=[0.5]", "begin with 1.0"]),
        ("irn.scale=[1.5,0.5]", ["irn.scale", "smallest, largest"]),
        ("backbone.name=vgg16", ["backbone.name=vgg16", "resnet50"]),
        ("maps.scales=[]", ["maps.scales"]),
        ("maps=camm", ["maps=camm", "cam"]),
        ("activation=none amn.scale=[1,2]", ["amn.scale: belongs to activation=amn, which is not chosen"]),
        ("maps.steps=3", ["maps.steps: belongs to maps=advcam or maps=rib, which is not chosen"]),
        ("maps=advcam maps.steps=0", ["maps.steps=0"]),
        ("segmenter.backbone.nmae=resnet50", ["unknown configuration key segmenter.backbone.nmae"]),
        ("maps_network.images=evaluated", ["maps_network.images=evaluated", "do not make maps_network"]),
        ("activation=none amn_maps.images=3", ["amn_maps.images=3", "do not make amn_maps"]),
        ("maps=recam maps_network.images=8", ["maps_network.batch_size=16", "training images (8)"]),
        ("maps.images=401", ["maps.images=401", "400 images are evaluated"]),
        ("maps=rib maps.long_side=[9,3]", ["maps.long_side", "[shortest, longest]"]),
        ("maps=recam maps_network.weight=-1", ["maps_network.weight=-1"]),
        ("maps=lpcam maps_network.context=[0.9,0.1]", ["maps_network.context", "[lowest, highest]"]),
        ("maps=given maps.format=mat", ["maps.format=mat", "irn"]),
        ("maps=given", ["maps.files is not set"]),
        ("maps=given maps.files=/proc/none", ["maps.files=/proc/none", "is not a folder"]),
        ("maps.images=some", ["maps.images=some", "evaluated"]),
        ("maps.images=3 until=pseudo_masks", ["until=pseudo_masks", "maps.images=3", "ends at the seeds"]),
        ("rebuild=[maps_]", ["rebuild=maps_", "did you mean maps"]),
        ("rebuild=[pseudo_masks] boundaries=none", ["rebuild=pseudo_masks", "rebuild=[amn_refined]"]),
        ("amn.backbone.name=resnet50", ["amn.backbone.name", "set backbone.name"]),
        ("irn.backbone.name=resnet5", ["irn.backbone.name=resnet5", "did you mean"]),
        ("classifier.backbone.weights=null", ["classifier.backbone.weights", "set backbone.weights"]),
        ("cam.scales=[1.0]", ["cam.scales", "maps.scales"]),
        ("crf.amn.conf_bg=0.1", ["crf.amn.conf_bg", "amn_refined.conf_bg"]),
        ("irn.walk.beta=5", ["irn.walk.beta", "pseudo_masks.beta"]),
        ("deeplab.iterations=5", ["deeplab.iterations", "segmenter.iterations"]),
        ("branch=cam", ["branch", "activation=none"]),
        ("until=seed", ["until=seed", "refined"]),
        ("until=deeplab_crf", ["until=deeplab_crf", "predictions_refined"]),
        ("precision=fp8", ["precision=fp8", "bf16"]),
        ("dataset=cityscapes", ["cityscapes", "voc12"]),
        ("dataset=voc12", ["dataset.root", "not set"]),
        ("dataset.max_bad_fraction=1.0", ["dataset.max_bad_fraction"]),
        ("cluster.cpus=0", ["cluster.cpus=0"]),
        ("amn_refined.gt_prob=1", ["amn_refined.gt_prob=1", "excluded"]),
        ("seed=-1", ["seed=-1", "negative"]),
        ("dataset.seed=-1", ["dataset.seed=-1", "negative"]),
        ("irn.weight_decay=-0.1", ["irn.weight_decay=-0.1", "negative"]),
        ("tracking.uri=foo://x", ["tracking.uri=foo://x", "mlflow server"]),
        ("tracking.uri=sqlite:////proc/none/mlflow.db", ["tracking.uri=sqlite:////proc", "does not answer"]),
    ],
)
def test_a_wrong_configuration_is_refused_at_start(
    refused: Callable[..., str], override: str, words: list[str]
) -> None:
    sentence = refused(*override.split())
    for word in words:
        assert word in sentence


def test_ground_truth_of_a_part_of_the_images_is_no_ceiling(refused: Callable[..., str], folder: Path) -> None:
    sentence = refused("dataset=folder", f"dataset.root={folder}", "boundaries=ground_truth", "segmenter.batch_size=1")
    assert "boundaries=ground_truth: 2 of the 3 training images have a mask" in sentence


def test_a_missing_root_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    assert str(tmp_path / "nowhere") in refused("dataset=voc12", f"dataset.root={tmp_path}/nowhere")


def test_a_list_that_names_an_image_that_is_not_there_is_refused(refused: Callable[..., str], voc: Path) -> None:
    (voc / "JPEGImages/b.jpg").unlink()
    sentence = refused("dataset=voc12", f"dataset.root={voc}")
    assert "b.jpg" in sentence
    assert "does not exist" in sentence


def test_an_empty_split_is_refused(refused: Callable[..., str], voc: Path) -> None:
    (voc / "ImageSets/Segmentation/train_aug.txt").write_text("\n")
    (voc / "ImageSets/Segmentation/train.txt").write_text("\n")
    assert "no image" in refused("dataset=voc12", f"dataset.root={voc}")


def test_a_missing_list_is_refused(refused: Callable[..., str], voc: Path) -> None:
    assert "nolist.txt" in refused("dataset=voc12", f"dataset.root={voc}", "dataset.train_list=nolist")


def test_a_duplicate_image_id_is_refused(refused: Callable[..., str], voc: Path) -> None:
    (voc / "ImageSets/Segmentation/train_aug.txt").write_text("a\nb\nc\nb\n")
    sentence = refused("dataset=voc12", f"dataset.root={voc}")
    assert "'b'" in sentence
    assert "more than once" in sentence


def test_xml_without_objects_is_refused_unless_allowed(refused: Callable[..., str], voc: Path) -> None:
    (voc / "Annotations/b.xml").write_text("<annotation></annotation>")
    assert "dataset.allow_unlabelled=true" in refused("dataset=voc12", f"dataset.root={voc}")


def test_broken_xml_is_refused(refused: Callable[..., str], voc: Path) -> None:
    (voc / "Annotations/b.xml").write_text("<annotation><object>")
    assert "b.xml" in refused("dataset=voc12", f"dataset.root={voc}")


def test_a_class_that_is_not_a_voc_class_is_refused(refused: Callable[..., str], voc: Path) -> None:
    assert "'unicorn'" in refused("dataset=voc12", f"dataset.root={voc}", "dataset.classes=[cat,unicorn]")


def test_a_label_that_is_not_in_the_class_list_is_refused(refused: Callable[..., str], folder: Path) -> None:
    sentence = refused("dataset=folder", f"dataset.root={folder}", "dataset.classes=[nut,screw]")
    assert "'bolt'" in sentence


def test_an_image_without_any_label_is_refused(refused: Callable[..., str], folder: Path) -> None:
    text = (folder / "labels.csv").read_text().replace("q.png,bolt;nut", "q.png,")
    (folder / "labels.csv").write_text(text)
    assert "'q' has no label" in refused("dataset=folder", f"dataset.root={folder}")


def test_a_table_without_labels_column_is_refused(refused: Callable[..., str], folder: Path) -> None:
    (folder / "labels.csv").write_text("image,weight\np.png,nut\n")
    assert "no column 'labels'" in refused("dataset=folder", f"dataset.root={folder}")


def test_a_table_in_another_encoding_is_refused(refused: Callable[..., str], folder: Path) -> None:
    (folder / "labels.csv").write_bytes("image,labels\np.png,кубик\n".encode("cp1251"))
    assert "UTF-8" in refused("dataset=folder", f"dataset.root={folder}")


def test_a_deleted_experiment_is_named(refused: Callable[..., str], tmp_path: Path) -> None:
    tracker = Tracker(TrackingConfig(experiment="shapes"), Store.open(f"{tmp_path}/store"))
    tracker.client.delete_experiment(tracker.experiment_id)
    sentence = refused()
    assert "tracking.experiment=shapes" in sentence
    assert "restore" in sentence


def test_a_store_that_cannot_be_written_is_refused(job: Job, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    code, err = job("pipeline", f"store={tmp_path}/file/store")
    assert code == 2
    assert f"store={tmp_path}/file/store" in err


class TestPixels:
    """What only shows when the pixels are read: found by the images stage, before any training."""

    @pytest.fixture(autouse=True)
    def _ray(self, cluster: Cluster) -> None:
        pass

    def test_a_truncated_jpeg_is_refused(self, refused: Callable[..., str], voc: Path) -> None:
        path = voc / "JPEGImages/b.jpg"
        path.write_bytes(path.read_bytes()[:400])
        sentence = refused("dataset=voc12", f"dataset.root={voc}", name="prepare")
        assert "b.jpg" in sentence
        assert "truncated" in sentence

    def test_a_mask_of_another_size_is_refused(self, refused: Callable[..., str], voc: Path) -> None:
        (voc / "SegmentationClassAug/b.png").write_bytes(encode(np.zeros((24, 31), np.uint8)))
        assert "31x24 but its image 32x24" in refused("dataset=voc12", f"dataset.root={voc}", name="prepare")

    def test_a_mask_value_outside_the_classes_is_refused(self, refused: Callable[..., str], voc: Path) -> None:
        (voc / "SegmentationClassAug/b.png").write_bytes(encode(np.full((24, 32), 77, np.uint8)))
        assert "77" in refused("dataset=voc12", f"dataset.root={voc}", name="prepare")

    def test_a_class_list_that_does_not_match_the_masks_is_refused(
        self, refused: Callable[..., str], folder: Path
    ) -> None:
        (folder / "labels.csv").write_text("image,labels\np.png,nut\nq.png,nut\n")  # whose masks hold 2 and 1
        sentence = refused("dataset=folder", f"dataset.root={folder}", "dataset.classes=[nut]", name="prepare")
        assert "class list does not match" in sentence

    def test_bad_images_are_skipped_and_listed_up_to_the_allowed_share(
        self, job: Job, refused: Callable[..., str], folder: Path, tmp_path: Path
    ) -> None:
        (folder / "images/q.png").write_bytes(b"not an image")
        assert "1 of 3" in refused(
            "dataset=folder", f"dataset.root={folder}", "dataset.max_bad_fraction=0.2", name="prepare"
        )
        code, err = job(
            "prepare", f"store={tmp_path}/s", "dataset=folder", f"dataset.root={folder}", "dataset.max_bad_fraction=0.5"
        )
        assert code == 0, err
        manifests = [path.read_text() for path in tmp_path.glob("s/images/*/manifest.json")]
        assert sum("q.png" in text for text in manifests) == 1

    def test_weights_that_do_not_fit_are_refused(
        self, refused: Callable[..., str], folder: Path, tmp_path: Path
    ) -> None:
        torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "part.pth")
        torch.save([1, 2, 3], tmp_path / "list.pth")
        (tmp_path / "noise.pth").write_bytes(b"these are not weights")
        (tmp_path / "noise.safetensors").write_bytes(b"these are not weights")
        base = ["dataset=folder", f"dataset.root={folder}", "until=maps", "backbone.name=resnet18"]
        base.append("classifier.batch_size=1")
        assert "does not fit backbone.name=resnet18" in refused(*base, f"backbone.weights={tmp_path}/part.pth")
        assert "is not a state dict" in refused(*base, f"backbone.weights={tmp_path}/list.pth")
        assert "cannot be read" in refused(*base, f"backbone.weights={tmp_path}/noise.pth")
        assert "cannot be read" in refused(*base, f"backbone.weights={tmp_path}/noise.safetensors")
        assert "not found" in refused(*base, f"backbone.weights={tmp_path}/none.pth")


def test_deep_photographs_of_another_white_are_refused_when_all_are_read_and_accepted_with_it(
    job: Job, cluster: Cluster, refused: Callable[..., str], folder: Path, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    values = np.arange(560, dtype=np.uint16).reshape(20, 28) * 7
    for name in ("p.png", "q.png"):
        Image.fromarray(values).save(folder / "images" / name, exif=exif)
    data = ("dataset=folder", f"dataset.root={folder}")
    assert "set dataset.white=4095" in refused(*data, name="prepare")
    code, err = job("prepare", f"store={tmp_path}/s", *data, "dataset.white=4095")
    assert code == 0, err
    train, val = sorted(
        (json.loads(path.read_text()) for path in tmp_path.glob("s/images/*/manifest.json")),
        key=lambda made: -made["rows"],
    )
    assert train["pixels"] == val["pixels"] == {"upright": True, "white": 4095, "max_side": None}
    truths = [json.loads(path.read_text()) for path in tmp_path.glob("s/truth/*/manifest.json")]
    told = [warning for made in truths for warning in made["warnings"] if "dataset.exif" in warning]
    assert [warning.split(",")[0] for warning in told] == ["2 masks count as upright"]
    assert train["largest"] == {"image_id": "p", "height": 20, "width": 28, "num_labels": 1}
