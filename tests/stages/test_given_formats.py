"""Maps in the forms of other codes, written here as they write them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amn_ray.core.errors import RequestError
from amn_ray.data.maps import full_size, stored_size
from amn_ray.stages.given.formats import ENDINGS, check, files_of, load, on_stored_grid, parsed, recognised
from amn_ray.stages.given.unpickling import load_dictionary
from tests.conftest import encode

SIZE = (41, 54)
KEYS = [2, 5]
GRID = np.random.default_rng(0).random((2, *stored_size(*SIZE)), np.float32)
FULL = full_size(GRID, *SIZE)


def behind_background(maps: np.ndarray) -> np.ndarray:
    return np.concatenate([np.full((1, *maps.shape[1:]), 0.7, np.float32), maps])


def save(path: Path, content: object) -> list[Path]:
    np.save(path, content, allow_pickle=True)
    return [path]


def irn(folder: Path) -> list[Path]:
    keys = torch.tensor([key - 1 for key in KEYS])
    return save(folder / "a.npy", {"keys": keys, "cam": torch.from_numpy(GRID), "high_res": FULL})


def amn(folder: Path) -> list[Path]:
    content = {"keys": np.pad(KEYS, (1, 0)), "cam": torch.tensor(behind_background(GRID)),
               "high_res": behind_background(FULL)}  # fmt: skip
    return save(folder / "a.npy", content)


def psa(folder: Path) -> list[Path]:
    return save(folder / "a.npy", {key - 1: map_HW for key, map_HW in zip(KEYS, FULL, strict=True)})


def png(folder: Path) -> list[Path]:
    paths = []
    for key, map_HW in zip(KEYS, FULL, strict=True):
        paths.append(folder / f"a_{key - 1}.png")
        paths[-1].write_bytes(encode(np.round(map_HW * 255).astype(np.uint8)))
    return paths


def npz(folder: Path) -> list[Path]:
    np.savez(folder / "a.npz", keys=KEYS, maps=GRID)
    return [folder / "a.npz"]


WRITERS: Mapping[str, Callable[[Path], list[Path]]] = {"irn": irn, "amn": amn, "psa": psa, "png": png, "npz": npz}


@pytest.mark.parametrize("form", WRITERS)
def test_each_form_gives_the_same_labels_and_maps(form: str, tmp_path: Path) -> None:
    files = WRITERS[form](tmp_path)
    assert files_of(tmp_path, ENDINGS[form], ["a", "b"]) == {"a": files}
    given = parsed(form, load(form, files))
    check(given, KEYS, SIZE, 20)
    assert given.keys == KEYS
    made = on_stored_grid(given.maps, SIZE)
    assert made.dtype == np.float32
    if form in ("irn", "amn", "npz"):
        assert (made == GRID).all()
    else:
        # A map that was enlarged and is made smaller again has lost its finest detail.
        expected = on_stored_grid(FULL, SIZE)
        assert np.abs(made - expected).max() <= (0.5 / 255 + 1e-6 if form == "png" else 0)


def test_the_full_size_is_read_only_where_the_grid_is_missing(tmp_path: Path) -> None:
    (path,) = save(tmp_path / "a.npy", {"keys": [1, 4], "high_res": FULL})
    assert (parsed("irn", load("irn", [path])).maps == FULL).all()


def test_downsampling_is_that_of_cam() -> None:
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(FULL)[None], stored_size(*SIZE), mode="bilinear", align_corners=False
    )[0]
    assert (on_stored_grid(FULL, SIZE) == expected.clamp(0, 1).numpy()).all()


def test_slightly_negative_values_as_seams_become_zero() -> None:
    assert on_stored_grid(np.full((1, *stored_size(*SIZE)), -1e-5, np.float32), SIZE).max() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_any_precision_are_read(dtype: torch.dtype, tmp_path: Path) -> None:
    (path,) = save(tmp_path / "a.npy", {"keys": [1, 4], "cam": torch.from_numpy(GRID).to(dtype)})
    assert np.abs(parsed("irn", load("irn", [path])).maps - GRID).max() < 0.01


def test_names_may_have_folders_and_underscores_and_dots(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for name in ("2007_000032.npy", "train/x.1.npy", "y.npy"):
        save(tmp_path / name, {})
    found = files_of(tmp_path, ".npy", ["2007_000032", "train/x.1", "val/y", "z"])
    assert {image_id: path.name for image_id, (path,) in found.items()} == {
        "2007_000032": "2007_000032.npy", "train/x.1": "x.1.npy", "val/y": "y.npy",
    }  # fmt: skip
    for name in ("2007_000032_14.png", "2007_000032_3.png", "2007_000032.png"):
        (tmp_path / name).write_bytes(encode(np.zeros((4, 4), np.uint8)))
    found = files_of(tmp_path, ".png", ["2007_000032"])
    assert [path.name for path in found["2007_000032"]] == ["2007_000032_14.png", "2007_000032_3.png"]


# --- which form -------------------------------------------------------------------------------------------------------


def of_irn(labels: list[int]) -> dict[str, Any]:
    return {"keys": np.array(labels) - 1, "cam": np.zeros((len(labels), 3, 3))}


def of_amn(labels: list[int]) -> dict[str, Any]:
    return {"keys": np.array([0, *labels]), "cam": np.zeros((len(labels) + 1, 3, 3))}


def of_psa(labels: list[int]) -> dict[int, Any]:
    return {label - 1: np.zeros((9, 9)) for label in labels}


ALL_WITH_FIRST = [[1], [1, 3], [1, 2]]
"""Labels whose keys begin with 0 in both of the forms that differ in what 0 means."""


@pytest.mark.parametrize("labels", [ALL_WITH_FIRST, [[2], [1, 3], [4]]])
@pytest.mark.parametrize(("form", "write"), [("irn", of_irn), ("amn", of_amn), ("psa", of_psa)])
def test_the_form_is_the_one_that_agrees_with_the_labels(form: str, write: Callable, labels: list[list[int]]) -> None:
    samples = {Path(f"{n}.npy"): (write(row), row) for n, row in enumerate(labels)}
    assert recognised(samples) == form


@pytest.mark.parametrize("write", [of_irn, of_amn])
def test_a_single_file_that_fits_two_forms_is_asked_for(write: Callable) -> None:
    with pytest.raises(RequestError, match=r"do not tell .*; set maps\.format=irn .*maps\.format=amn"):
        recognised({Path("maps/0.npy"): (write([1, 3]), [1, 3])})


def test_keys_that_agree_with_no_labels_in_either_form_are_asked_for() -> None:
    samples = {Path(f"maps/{n}.npy"): (of_irn([1, 5]), [3]) for n in range(4)}
    with pytest.raises(RequestError, match=r"set maps\.format=irn"):
        recognised(samples)


def test_files_of_several_forms_or_of_none_are_refused() -> None:
    mixed = {Path("0.npy"): (of_irn([2]), [2]), Path("1.npy"): (of_psa([2]), [2])}
    for samples in (mixed, {Path("0.npy"): ({"heat": 1}, [2])}):
        with pytest.raises(RequestError, match=r"^0\.npy: holds .*; the files are of none of the forms irn, amn"):
            recognised(samples)


# --- bad content ------------------------------------------------------------------------------------------------------


def changed(**content: Any) -> dict[str, Any]:
    return {"keys": [1, 4], "cam": GRID, **content}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (changed(cam=np.zeros((2, 10, 10), np.float32)), "holds maps of 10x10, expected 41x54 .* or 11x14"),
        (changed(cam=np.full_like(GRID, np.nan)), "NaN"),
        (changed(cam=GRID * 9), r"the value 8\.\d+, expected maps in \[0, 1\]"),
        (changed(cam=GRID * 2 - 1), r"the value -0\.9\d+, expected maps in \[0, 1\]"),
        (changed(keys=[float("inf"), 1]), "expected whole numbers"),
        (changed(keys=np.array([1j, 4])), "only arrays of real numbers are read"),
        (changed(cam=None), "expected `keys`, and `cam` or `high_res`"),
        (changed(cam=GRID[:1]), "2 keys for 1 maps"),
        (changed(keys=[1, 1]), "two maps of one class"),
        (changed(keys=[1, 25]), r"label 26, and the data set has the labels 1…20"),
        (changed(keys=[0, 4]), "no map of label 2"),
        (changed(keys=["cat", "dog"]), "expected whole numbers"),
        (changed(cam="x"), "holds str where a map should be"),
        ({"keys": [1, 4]}, "expected `keys`, and `cam` or `high_res`"),
    ],
)
def test_maps_that_are_not_those_of_the_image_are_refused(content: dict[str, Any], told: str, tmp_path: Path) -> None:
    files = save(tmp_path / "a.npy", content)
    with pytest.raises(ValueError, match=told):
        check(parsed("irn", load("irn", files)), KEYS, SIZE, 20)


def test_maps_of_classes_that_the_image_does_not_have_may_be_there(tmp_path: Path) -> None:
    given = parsed("irn", load("irn", irn(tmp_path)))
    check(given, [5], SIZE, 20)


class Runs:
    """An object that runs a command when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch {self.proof}",)


class Storage:
    """A tensor's storage that is any other pickle."""

    def __init__(self, inner: object) -> None:
        self.inner = inner

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return torch.storage._load_from_bytes, (pickle.dumps(self.inner),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("hidden", [lambda inner: inner, lambda inner: {"keys": [1], "cam": inner}, Storage])
def test_a_pickle_of_anything_else_is_refused_and_nothing_of_it_runs(hidden: Callable, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    (path,) = save(tmp_path / "a.npy", hidden(Runs(proof)))
    with pytest.raises(ValueError, match=r"only arrays, tensors and dictionaries are read; nothing of it was run"):
        load_dictionary(path)
    assert not proof.exists()
    with suppress(RuntimeError):
        np.load(path, allow_pickle=True)
    assert proof.exists(), "it would have run"


class Told:
    """An object whose pickle calls this function with these arguments, and then sets this state."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...], state: object = None) -> None:
        self.told = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.told


@pytest.mark.parametrize(
    "inner",
    [
        Told(np.ndarray, ((1,), np.dtype("O"), b"\x10" * 8)),
        Told(np.dtype, ("O", False, True), (3, "|", None, None, None, -1, -1, 0)),
        Told(np.dtype, ("V8", False, True), (3, "|", None, None, None, -1, -1, 0)),
        Told(np.dtype, ([("a", "O")],)),
    ],
)
def test_bytes_of_a_file_never_count_as_addresses(inner: Told, tmp_path: Path) -> None:
    """NumPy's own types would take such states, and read memory at the file's bidding."""
    (path,) = save(tmp_path / "a.npy", {"keys": inner, "cam": GRID})
    try:
        content = load_dictionary(path)
    except ValueError:
        return
    assert not isinstance(content["keys"], np.ndarray | np.dtype), "NumPy's own type was made"
    with pytest.raises(ValueError, match=r"\w"):
        check(parsed("irn", content), KEYS, SIZE, 20)


def test_a_file_that_may_be_of_two_images_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "1.npy", {})
    with pytest.raises(RequestError, match=r"1\.npy: may be of image cats/1 and of dogs/1; put the files into folders"):
        files_of(tmp_path, ".npy", ["cats/1", "dogs/1"])
    (tmp_path / "1_0.png").write_bytes(encode(np.zeros((4, 4), np.uint8)))
    with pytest.raises(RequestError, match=r"1_0\.png: may be of image cats/1 and of dogs/1"):
        files_of(tmp_path, ".png", ["cats/1", "dogs/1"])


def test_damaged_archives_and_a_class_that_comes_twice_are_refused(tmp_path: Path) -> None:
    (path,) = npz(tmp_path)
    for content in (path.read_bytes()[:200], b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read"):
            load("npz", [path])
    twice = [tmp_path / "a_3.png", tmp_path / "a_03.png"]
    with pytest.raises(ValueError, match="two of which are of one class"):
        load("png", twice)


def test_arrays_and_damaged_files_are_told_apart_from_dictionaries(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds an array of float32, expected a dictionary"):
        load_dictionary(save(tmp_path / "a.npy", GRID)[0])
    with pytest.raises(ValueError, match="holds an array of objects, expected a dictionary"):
        load_dictionary(save(tmp_path / "b.npy", np.array([[1, 2], [3]], dtype=object))[0])
    path = irn(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"\w"):
        load_dictionary(path)
