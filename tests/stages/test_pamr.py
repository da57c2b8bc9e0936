"""PAMR against its definition pixel by pixel, and against what must hold of any such mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from amn_ray.data.images import MASK_SCHEMA, decode_mask
from amn_ray.data.maps import combined_seed, full_size, hard_labels, stored_size
from amn_ray.data.pixels import DEFAULT
from amn_ray.stages.pamr.config import PamrConfig
from amn_ray.stages.pamr.infer import MakeSeed
from amn_ray.stages.pamr.model import affinities, refine, refined_seeds
from tests.conftest import encode, noise
from tests.stages.stored_maps import write_maps

CPU = torch.device("cpu")
CONFIG = PamrConfig()
COUNT = 48


def as_batch(image_HWC: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.from_numpy(image_HWC.astype(np.float64)).permute(2, 0, 1)[None].to(dtype)


def shares(*shape: int) -> Tensor:
    """Scores (B, C, H, W) that sum to 1 over C."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).softmax(1)


def brute_places(y: int, x: int, size: tuple[int, int]) -> list[tuple[int, int]]:
    """The neighbours of a pixel; beyond the border lies its nearest pixel."""
    return [
        (min(max(y + dy * dilation, 0), size[0] - 1), min(max(x + dx * dilation, 0), size[1] - 1))
        for dilation in (1, 2, 4, 8, 12, 24)
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
        if (dy, dx) != (0, 0)
    ]


def brute_affinities(image_HWC: np.ndarray) -> np.ndarray:
    """float64 (H, W, J), one pixel after another."""
    size = image_HWC.shape[:2]
    result = np.zeros((*size, COUNT))
    for y, x in np.ndindex(size):
        centre = image_HWC[y, x].astype(np.float64)
        others = np.array([image_HWC[place] for place in brute_places(y, x, size)], np.float64)
        sigma = np.concatenate([others, np.repeat(centre[None], 6, axis=0)]).std(0, ddof=1)
        logits = (-np.abs(others - centre) / (1e-8 + 0.1 * sigma)).mean(1)
        result[y, x] = np.exp(logits - logits.max())
    return result / result.sum(2, keepdims=True)


def brute_refine(scores_CHW: np.ndarray, affinity_HWJ: np.ndarray, iterations: int) -> np.ndarray:
    for _ in range(iterations):
        refined = np.zeros_like(scores_CHW)
        for y, x in np.ndindex(scores_CHW.shape[1:]):
            for weight, place in zip(affinity_HWJ[y, x], brute_places(y, x, scores_CHW.shape[1:]), strict=True):
                refined[:, y, x] += weight * scores_CHW[:, *place]
        scores_CHW = refined
    return scores_CHW


IMAGES = {
    "noise": noise(12, 12),
    "few colours": noise(12, 12, 1) // 128 * 128,
    "one colour but for a line": np.eye(12, dtype=np.uint8)[..., None].repeat(3, 2),
}


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_affinities_and_ten_steps_equal_the_definition_pixel_by_pixel(image: np.ndarray) -> None:
    expected = brute_affinities(image)
    found = affinities(as_batch(image, torch.float64), CONFIG.dilations)
    np.testing.assert_allclose(found[0].permute(1, 2, 0), expected, atol=1e-12)
    scores = shares(1, 3, 12, 12).double()
    refined = refine(scores, found, CONFIG)
    np.testing.assert_allclose(refined[0], brute_refine(scores[0].numpy(), expected, 10), atol=1e-12)


def test_a_seed_is_made_of_the_two_refined_argmaxes() -> None:
    image, maps = noise(12, 12), np.random.default_rng(1).random((2, 12, 12), dtype=np.float32)
    config = PamrConfig(conf_fg=0.8, conf_bg=0.3, iterations=1)
    runs = []
    for threshold in (0.8, 0.3):
        one_hot = np.eye(3)[hard_labels(maps, threshold)].transpose(2, 0, 1)
        runs.append(brute_refine(one_hot, brute_affinities(image), 1).argmax(0))
    expected = combined_seed(*runs, [4, 17])
    assert set(np.unique(expected)) == {0, 4, 17, 255}
    np.testing.assert_array_equal(refined_seeds([image], [maps], [[4, 17]], config, device=CPU)[0], expected)


def test_in_an_image_of_one_colour_scores_become_the_plain_mean_of_the_neighbours() -> None:
    affinity = affinities(torch.full((1, 3, 20, 30), 137.0), CONFIG.dilations)
    torch.testing.assert_close(affinity, torch.full((1, COUNT, 20, 30), 1 / COUNT))
    scores = shares(1, 2, 20, 30)
    refined = refine(scores, affinity, PamrConfig(iterations=1))
    for y, x in ((0, 0), (10, 15), (19, 3)):
        mean = torch.stack([scores[0, :, *place] for place in brute_places(y, x, (20, 30))]).mean(0)
        torch.testing.assert_close(refined[0, :, y, x], mean)


def test_scores_that_sum_to_one_still_do_after_ten_steps() -> None:
    refined = refine(shares(2, 4, 40, 56), affinities(as_batch(noise(40, 56)), CONFIG.dilations), CONFIG)
    torch.testing.assert_close(refined.sum(1), torch.ones(2, 40, 56))


@pytest.mark.parametrize(("scale", "offset"), [((1 / 255,) * 3, (0.0,) * 3), ((2.0, 0.01, 7.0), (-3.0, 0.5, 90.0))])
def test_affinities_depend_neither_on_scale_nor_on_offset_of_a_channel(
    scale: tuple[float, ...], offset: tuple[float, ...]
) -> None:
    image = as_batch(noise(40, 56))
    other = image * torch.tensor(scale).view(3, 1, 1) + torch.tensor(offset).view(3, 1, 1)
    found = affinities(other, CONFIG.dilations)
    torch.testing.assert_close(found, affinities(image, CONFIG.dilations), atol=1e-5, rtol=0)


def test_bright_pixels_that_hardly_differ_are_told_apart_as_exactly_as_in_float64() -> None:
    image = 254 + noise(40, 56) // 128
    found = affinities(as_batch(image), CONFIG.dilations)
    exact = affinities(as_batch(image, torch.float64), CONFIG.dilations)
    torch.testing.assert_close(found.double(), exact, atol=1e-6, rtol=0)


def test_a_class_that_is_nowhere_stays_nowhere() -> None:
    scores = torch.cat([shares(1, 2, 40, 56), torch.zeros(1, 1, 40, 56)], 1)
    refined = refine(scores, affinities(as_batch(noise(40, 56)), CONFIG.dilations), CONFIG)
    assert not refined[:, 2].any()
    maps = np.stack([np.full((40, 56), 0.9, np.float32), np.zeros((40, 56), np.float32)])
    seed = refined_seeds([noise(40, 56)], [maps], [[3, 8]], CONFIG, device=CPU)[0]
    assert (seed == 3).all()


def test_a_seed_grows_up_to_the_border_of_its_object() -> None:
    """A map that covers the left part of a red square, on grey noise."""
    image = noise(60, 60) // 16 + 120
    image[15:45, 15:45] = (200, 40, 40)
    maps = np.zeros((1, 60, 60), np.float32)
    maps[0, 17:43, 12:38] = 1
    square = np.zeros((60, 60), bool)
    square[15:45, 15:45] = True
    seed = refined_seeds([image], [maps], [[5]], CONFIG, device=CPU)[0]
    assert ((seed == 5) != square).mean() < 0.5 * ((maps[0] == 1) != square).mean()


def test_images_of_a_group_do_not_influence_each_other() -> None:
    rng = np.random.default_rng(0)
    images = [noise(37, 53, seed) for seed in range(4)]
    keys: list[list[int]] = [[1], [2, 3, 9], [], [7, 8]]
    maps = [rng.random((len(labels), 37, 53), dtype=np.float32) for labels in keys]
    together = refined_seeds(images, maps, keys, CONFIG, device=CPU)
    for image, own, labels, seed in zip(images, maps, keys, together, strict=True):
        np.testing.assert_array_equal(refined_seeds([image], [own], [labels], CONFIG, device=CPU)[0], seed)


def test_an_image_without_label_is_all_background() -> None:
    seed = refined_seeds([noise(40, 56)], [np.zeros((0, 40, 56), np.float32)], [[]], CONFIG, device=CPU)[0]
    assert seed.shape == (40, 56)
    assert seed.dtype == np.uint8
    assert not seed.any()


@pytest.mark.parametrize("size", [(1, 1), (3, 200)])
def test_extreme_sizes_work(size: tuple[int, int]) -> None:
    maps = np.random.default_rng(1).random((1, *size), dtype=np.float32)
    assert refined_seeds([noise(*size)], [maps], [[2]], CONFIG, device=CPU)[0].shape == size


def test_a_batch_of_images_of_several_sizes_becomes_a_masks_table_in_its_order(tmp_path: Path) -> None:
    sizes = {"a": (40, 56), "b": (24, 24), "c": (40, 56), "d": (40, 56)}
    keys = {"a": [1], "b": [2, 5], "c": [], "d": [3, 4]}
    rng = np.random.default_rng(0)
    images = {name: noise(*size, seed) for seed, (name, size) in enumerate(sizes.items())}
    maps = {name: rng.random((len(keys[name]), *stored_size(*size))).astype(np.float16) for name, size in sizes.items()}
    artifact = write_maps(tmp_path, {name: (keys[name], maps[name]) for name in sizes})
    batch = pa.table({"image_id": list(sizes), "image": [encode(image) for image in images.values()]})
    made = MakeSeed(CONFIG, DEFAULT, artifact, threads=torch.get_num_threads())(batch)
    assert made.schema == MASK_SCHEMA
    rows = made.to_pylist()
    assert [row["image_id"] for row in rows] == list(sizes)
    for row, (name, size) in zip(rows, sizes.items(), strict=True):
        full = full_size(maps[name].astype(np.float32), *size)
        expected = refined_seeds([images[name]], [full], [keys[name]], CONFIG, device=CPU)[0]
        np.testing.assert_array_equal(decode_mask(row["mask"]), expected)
        assert row["present"] == np.unique(expected).tolist()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"iterations": 0}, "iterations=0: must be greater than 0"),
        ({"dilations": []}, "dilations=[]: must be a list of different whole numbers greater than 0"),
        ({"dilations": [1, 0]}, "dilations=[1, 0]: must be"),
        ({"dilations": [2, 2]}, "dilations=[2, 2]: must be"),
        ({"conf_fg": 1.2}, "conf_fg=1.2: must be in [0, 1]"),
        ({"conf_fg": 0.1, "conf_bg": 0.2}, "conf_bg=0.2: must not be above conf_fg=0.1"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings: dict, told: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        PamrConfig(**settings)
    assert str(error.value).startswith(told)
