"""Seeds by thresholds alone against thresholds by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from amn_ray.data.images import MASK_SCHEMA, decode_mask
from amn_ray.data.maps import combined_seed, full_size
from amn_ray.stages.groups import RefinementConfig
from amn_ray.stages.no_refinement.infer import MakeSeed
from amn_ray.stages.no_refinement.model import thresholded_seed
from tests.stages.stored_maps import write_maps

CONFIG = RefinementConfig(conf_fg=0.5, conf_bg=0.2)


def by_hand(maps_KHW: np.ndarray, keys: list[int]) -> np.ndarray:
    """The class of the highest map where that is above conf_fg, background where it is not above conf_bg."""
    seed = np.full(maps_KHW.shape[1:], 255)
    for y, x in np.ndindex(seed.shape):
        best = maps_KHW[:, y, x].argmax()
        if maps_KHW[best, y, x] > 0.5:
            seed[y, x] = keys[best]
        elif maps_KHW[best, y, x] <= 0.2:
            seed[y, x] = 0
    return seed


def test_a_seed_is_a_class_above_one_threshold_background_below_the_other_and_else_undefined() -> None:
    maps, keys = np.random.default_rng(0).random((2, 40, 56), dtype=np.float32) ** 2, [4, 17]
    seed = thresholded_seed(maps, keys, CONFIG)
    assert seed.dtype == np.uint8
    assert set(np.unique(seed)) == {0, 4, 17, 255}
    np.testing.assert_array_equal(seed, by_hand(maps, keys))


def test_a_value_equal_to_a_threshold_is_not_above_it() -> None:
    maps = np.array([[[0.2, 0.21, 0.5, 0.51]]], np.float32)
    np.testing.assert_array_equal(thresholded_seed(maps, [3], CONFIG), [[0, 255, 255, 3]])


def test_equal_thresholds_leave_nothing_undefined() -> None:
    maps = np.random.default_rng(0).random((2, 40, 56), dtype=np.float32)
    assert set(np.unique(thresholded_seed(maps, [4, 17], RefinementConfig(conf_fg=0.6, conf_bg=0.6)))) == {0, 4, 17}


def test_two_runs_of_different_classes_agree_on_foreground_only() -> None:
    """The run at conf_bg says only whether there is any foreground."""
    sure, any_class = np.array([[0, 0, 1, 2, 2]]), np.array([[0, 2, 2, 0, 1]])
    np.testing.assert_array_equal(combined_seed(sure, any_class, [4, 17]), [[0, 255, 4, 17, 17]])


def test_an_image_without_label_is_all_background() -> None:
    seed = thresholded_seed(np.zeros((0, 40, 56), np.float32), [], CONFIG)
    assert seed.shape == (40, 56)
    assert not seed.any()


def test_a_batch_becomes_a_masks_table_at_the_images_size(tmp_path: Path) -> None:
    sizes = {"a": (38, 54), "b": (24, 21), "c": (38, 54)}
    rng = np.random.default_rng(0)
    maps = {
        "a": ([1, 6], rng.random((2, 10, 14)).astype(np.float16)),
        "b": ([], np.zeros((0, 6, 6), np.float16)),
        "c": ([2], rng.random((1, 10, 14)).astype(np.float16)),
    }
    batch = pa.table(
        {
            "image_id": ["c", "a", "b"],
            "height": [sizes[name][0] for name in "cab"],
            "width": [sizes[name][1] for name in "cab"],
        }
    )
    made = MakeSeed(CONFIG, write_maps(tmp_path, maps))(batch)
    assert made.schema == MASK_SCHEMA
    rows = made.to_pylist()
    assert [row["image_id"] for row in rows] == ["c", "a", "b"]
    assert rows[2]["present"] == [0]
    for row in rows[:2]:
        keys, maps_Khw = maps[row["image_id"]]
        expected = by_hand(full_size(maps_Khw.astype(np.float32), *sizes[row["image_id"]]), keys)
        np.testing.assert_array_equal(decode_mask(row["mask"]), expected)
        assert row["present"] == np.unique(expected).tolist()


def test_a_lower_threshold_above_the_upper_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"conf_bg=0\.4: must not be above conf_fg=0\.3"):
        RefinementConfig(conf_fg=0.3, conf_bg=0.4)
