"""Methods for maps as a user chooses them: other people's files, and the paper's rivals, on a real Ray.

All share one classifier, trained on a few images of which some have no label.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from amn_ray.core.artifacts import TABLE, Store
from amn_ray.data.images import decode_mask, encode_mask
from amn_ray.data.maps import full_size, grid_maps
from amn_ray.platform.cluster import Cluster
from amn_ray.recipe.records import Run, find
from amn_ray.stages.crf.config import CrfConfig
from amn_ray.stages.crf.model import refined_seed
from tests.conftest import encode, noise
from tests.tiny import SETTINGS

Job = Callable[..., tuple[int, str]]
OF_OTHERS = ("amn", "irn", "maps")
"""Settings of methods that are not chosen here."""
HEIGHT, WIDTH, COUNT = 48, 64, 12
COMMON = ("activation=none", "until=maps", "maps.scales=[1.0]", "classifier.batch_size=4")
SHORT = {
    "advcam": ["maps.steps=2"],
    "rib": ["maps.steps=2", "maps.batch_size=2", "maps.crop=64", "maps.long_side=[64,80]"],
    "recam": ["maps_network.epochs=1", "maps_network.batch_size=4", "maps_network.crop=64",
              "maps_network.long_side=[64,80]"],
    "lpcam": ["maps_network.clusters=3", "maps_network.sample=20"],
    "drs": ["maps_network.epochs=1", "maps_network.batch_size=4", "maps_network.crop=64",
            "maps_network.long_side=[64,80]"],
    "seam": ["maps_network.epochs=1", "maps_network.batch_size=4", "maps_network.crop=64",
             "maps_network.long_side=[64,80]"],
}  # fmt: skip


def image_of(number: int) -> np.ndarray:
    image_HWC = noise(HEIGHT, WIDTH, number) // 2
    image_HWC[:, : WIDTH // 2, 0] += 100
    return image_HWC


def labels_of(number: int) -> list[int]:
    """None, the first class, the second, or both."""
    return [[], [1], [2], [1, 2]][number % 4]


def mask_of(number: int) -> np.ndarray:
    mask_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
    for label in labels_of(number):
        mask_HW[4:, (label - 1) * WIDTH // 2 : label * WIDTH // 2] = label
    return mask_HW


def maps_of(number: int) -> np.ndarray:
    """Given maps (K, h, w)."""
    return np.random.default_rng(number).random((len(labels_of(number)), HEIGHT // 4, WIDTH // 4), np.float32)


class Place:
    """A data set, given files, and a store, for jobs in this process."""

    def __init__(self, folder: Path) -> None:
        self.root, self.store = folder / "data", folder / "store"
        self._cam: dict[str, np.ndarray] = {}
        self.maps, self.seeds = folder / "maps", folder / "seeds"
        for path in (self.root / "images", self.root / "masks", self.maps, self.seeds):
            path.mkdir(parents=True)
        for number in range(COUNT):
            (self.root / "images" / f"{number:02d}.png").write_bytes(encode(image_of(number)))
            (self.root / "masks" / f"{number:02d}.png").write_bytes(encode_mask(mask_of(number)))
            (self.seeds / f"{number:02d}.png").write_bytes(encode_mask(np.roll(mask_of(number), 5, 0)))
            if labels := labels_of(number):
                extra = [2] if labels == [1] and number == 1 else []  # a class that image 1 does not have
                keys = np.array([*labels, *extra]) - 1
                maps = np.concatenate([maps_of(number), np.ones((len(extra), HEIGHT // 4, WIDTH // 4), np.float32)])
                np.save(self.maps / f"{number:02d}.npy", {"keys": keys, "cam": maps})  # type: ignore[arg-type]
        names = {1: "left", 2: "right"}
        rows = [f"{n:02d}.png,{';'.join(names[label] for label in labels_of(n))}" for n in range(COUNT)]
        (self.root / "labels.csv").write_text("\n".join(["image,labels", *rows]) + "\n")

    def run(self, job: Job, *overrides: str, of_others: tuple[str, ...] = OF_OTHERS) -> tuple[int, str]:
        settings = [setting for setting in SETTINGS if not setting.startswith(of_others)]
        return job("pipeline", f"dataset.root={self.root}", f"store={self.store}", *settings, *overrides)

    def cam(self, job: Job) -> dict[str, np.ndarray]:
        """CAM's maps, by image."""
        if not self._cam:
            code, told = self.run(job, "maps=cam", *COMMON)
            assert code == 0, told
            self._cam = {image_id: grid_maps(row) for image_id, row in self.table("maps").items()}
        return self._cam

    def last(self, step: str) -> Run:
        return find(Store.open(str(self.store)), None, step)

    def table(self, step: str) -> dict[str, dict[str, Any]]:
        """The rows of a step of the last run, by image."""
        artifact = self.last(step).artifacts[step]
        rows = pq.read_table(artifact.at(TABLE), filesystem=artifact.fs).to_pylist()
        assert len({row["image_id"] for row in rows}) == len(rows)
        return {row["image_id"]: row for row in rows}

    def manifest(self, step: str) -> Mapping[str, Any]:
        return self.last(step).artifacts[step].manifest()


@pytest.fixture(scope="module")
def place(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("methods"))


GIVEN = ("maps=given", "activation=none", "until=refined")


def test_given_maps_have_the_seeds_of_the_same_arrays(place: Place, job: Job) -> None:
    code, told = place.run(job, *GIVEN, f"maps.files={place.maps}")
    assert code == 0, told
    maps, seeds = place.table("maps"), place.table("refined")
    assert maps.keys() == seeds.keys() == {f"{n:02d}" for n in range(COUNT)}
    for number in range(COUNT):
        row = maps[f"{number:02d}"]
        expected_Khw = maps_of(number).astype(np.float16).astype(np.float32)
        assert (grid_maps(row) == expected_Khw).all()
        assert row["keys"] == labels_of(number)
    expected = refined_seed(image_of(3), full_size(grid_maps(maps["03"]), HEIGHT, WIDTH), [1, 2], CrfConfig())
    assert (decode_mask(seeds["03"]["mask"]) == expected).all()
    assert place.manifest("maps")["dropped"] == 1
    (warning,) = place.manifest("maps")["warnings"]
    assert warning == "1 maps are of classes that their images do not have, and are left out"


def test_images_without_given_maps_are_refused_or_left_out_of_all_that_follows(
    place: Place, job: Job, tmp_path: Path
) -> None:
    files = tmp_path / "some"
    files.mkdir()
    for path in sorted(place.maps.iterdir())[2:]:
        (files / path.name).write_bytes(path.read_bytes())
    np.save(files / "11.npy", {"keys": np.array([0]), "cam": maps_of(11)[:1]})  # one of its two classes
    given = (*GIVEN, f"maps.files={files}")
    code, told = place.run(job, *given)
    assert code == 2
    assert "maps.files: 2 of 12 images have no maps, such as 01; add them, or set maps.max_missing" in told
    code, told = place.run(job, *given, "maps.max_missing=0.3")
    assert code == 0, told
    left = {f"{n:02d}" for n in range(COUNT)} - {"01", "02", "11"}
    assert place.table("maps").keys() == place.table("refined").keys() == left
    assert place.manifest("maps")["missing"] == 3
    scored = place.last("maps").scores["maps"]
    assert set(scored.table().ids()) == left
    code, told = place.run(job, *given, "maps.max_missing=0.1")
    assert code == 2, "also where the table is there already"
    assert "3 of 12 images have no maps" in told


def test_given_maps_that_belong_to_no_image_are_refused(place: Place, job: Job, tmp_path: Path) -> None:
    np.save(tmp_path / "other.npy", {"keys": np.array([0]), "cam": np.zeros((1, 3, 3))})  # type: ignore[arg-type]
    code, told = place.run(job, *GIVEN, f"maps.files={tmp_path}")
    assert code == 2
    assert r"belongs to an image, such as 00 (there is other.npy)" in told
    code, told = place.run(job, *GIVEN, f"maps.files={tmp_path}/nowhere")
    assert (code, "is not a folder" in told) == (2, True)
    code, told = place.run(job, *GIVEN)
    assert (code, "maps.files is not set" in told) == (2, True)


def test_given_seeds_and_pseudo_masks_are_read_without_making_maps(place: Place, job: Job) -> None:
    code, told = place.run(job, "refinement=given", f"refined.files={place.seeds}", "activation=none", "until=refined")
    assert code == 0, told
    run = place.last("refined")
    assert "maps" not in run.artifacts
    assert "classifier" not in run.artifacts
    rows = place.table("refined")
    assert all((decode_mask(rows[f"{n:02d}"]["mask"]) == np.roll(mask_of(n), 5, 0)).all() for n in range(COUNT))
    code, told = place.run(
        job, "boundaries=given", f"pseudo_masks.files={place.seeds}", "activation=none", "until=pseudo_masks"
    )
    assert code == 0, told
    assert place.table("pseudo_masks").keys() == rows.keys()


def test_seeds_may_lack_classes_that_images_have_and_hold_none_that_they_do_not_have(
    place: Place, job: Job, tmp_path: Path
) -> None:
    given = ("refinement=given", f"refined.files={tmp_path}", "activation=none", "until=refined")
    for number in range(COUNT):
        seed = mask_of(number) if number % 4 == 1 else np.zeros((HEIGHT, WIDTH), np.uint8)
        (tmp_path / f"{number:02d}.png").write_bytes(encode_mask(seed))
    code, told = place.run(job, *given)
    assert code == 0, told
    for number in range(COUNT):
        (tmp_path / f"{number:02d}.png").write_bytes(encode_mask(np.where(mask_of(number) == 1, 2, 1).astype(np.uint8)))
    code, told = place.run(job, *given)
    assert code == 2
    assert "images labels and mask contradict one another" in told


def test_a_given_mask_with_a_label_that_no_class_has_is_named_with_its_own_setting(
    place: Place, job: Job, tmp_path: Path
) -> None:
    for number in range(COUNT):
        (tmp_path / f"{number:02d}.png").write_bytes(encode_mask(np.full((HEIGHT, WIDTH), 7, np.uint8)))
    code, told = place.run(job, "refinement=given", f"refined.files={tmp_path}", "activation=none", "until=refined")
    assert code == 2
    assert "refined.mask_values" in told or "refined.palette" in told
    assert "dataset.mask" not in told


def test_maps_of_some_of_the_evaluated_images_end_at_the_seeds(place: Place, job: Job) -> None:
    given = ("maps=given", f"maps.files={place.maps}", "maps.images=4")
    code, told = place.run(job, *given)
    assert code == 0, told
    run = place.last("refined")
    assert list(run.artifacts)[-1] == "refined"
    assert len(place.table("maps")) == len(place.table("refined")) == 4
    code, told = place.run(job, *given, "until=amn")
    assert code == 2
    assert "until=amn: maps.images=4 makes maps of some images only, and ends at the seeds" in told
    code, told = place.run(job, *given[:2], "maps.images=99")
    assert code == 2
    assert "maps.images=99: 12 images are evaluated" in told


@pytest.mark.parametrize("method", SHORT)
def test_a_rival_makes_maps_of_its_own_also_where_images_have_no_label(place: Place, job: Job, method: str) -> None:
    cam = place.cam(job)
    code, told = place.run(job, f"maps={method}", *SHORT[method], *COMMON)
    assert code == 0, told
    rows = place.table("maps")
    assert rows.keys() == cam.keys()
    differences = []
    for number in range(COUNT):
        row = rows[f"{number:02d}"]
        assert row["keys"] == labels_of(number)
        maps_Khw = grid_maps(row)
        assert maps_Khw.shape == cam[f"{number:02d}"].shape
        if labels_of(number):
            assert 0 <= maps_Khw.min() <= maps_Khw.max() <= 1
            differences.append(np.abs(maps_Khw - cam[f"{number:02d}"]).max())
    assert max(differences) > 0.01, "another's than CAM's"
    assert len(list(Path(place.store).glob("classifier/*"))) == 1, "they share the classifier"
    if method == "lpcam":
        manifest = place.manifest("maps_network")
        assert all(1 <= count <= 3 for count in manifest["prototypes"])
        assert not list(Path(place.store).glob("lpcam_prototypes/*/regions")), "what it was made from is removed"
    if method == "rib":
        (warning,) = place.manifest("maps")["warnings"]
        assert warning.startswith("some images have only 2 others that share no class with them, and RIB asks for 4")
