"""The two CRF runs on one lattice against two fresh ones, and the rule that makes a seed of them."""

from __future__ import annotations

import numpy as np
import pytest
from pydensecrf.densecrf import DenseCRF2D
from pydensecrf.utils import unary_from_labels

from amn_ray.data.maps import hard_labels
from amn_ray.stages.crf.config import CrfConfig, PredictionCrfConfig
from amn_ray.stages.crf.model import ImageCrf, refined_prediction, refined_seed


def blob(height: int = 40, width: int = 56) -> tuple[np.ndarray, np.ndarray]:
    """Two coloured discs on grey noise, and a soft map for each."""
    rng = np.random.default_rng(0)
    image = rng.normal(120, 6, (height, width, 3))
    y, x = np.mgrid[:height, :width]
    maps = []
    for cx, colour in ((14, (200, 60, 60)), (40, (60, 60, 200))):
        distance = np.hypot(y - 20, x - cx)
        image[distance < 9] = colour
        maps.append(np.exp(-(distance**2) / 60))
    return np.clip(image, 0, 255).astype(np.uint8), np.stack(maps).astype(np.float32)


def fresh_crf(image: np.ndarray, labels: np.ndarray, num_labels: int) -> np.ndarray:
    """Ahn et al.'s crf_inference_label, a new lattice every time."""
    crf = DenseCRF2D(image.shape[1], image.shape[0], num_labels)
    crf.setUnaryEnergy(unary_from_labels(labels, num_labels, gt_prob=0.7, zero_unsure=False))
    crf.addPairwiseGaussian(sxy=3, compat=3)
    crf.addPairwiseBilateral(sxy=50, srgb=5, rgbim=np.ascontiguousarray(image.copy()), compat=10)
    return np.argmax(np.array(crf.inference(10)), 0).reshape(image.shape[:2])


def test_two_runs_on_one_lattice_equal_two_fresh_ones() -> None:
    image, maps = blob()
    first, second = hard_labels(maps, 0.30), hard_labels(maps, 0.05)
    shared = ImageCrf(image, 3, CrfConfig())
    np.testing.assert_array_equal(shared.refine(first, 0.7), fresh_crf(image, first, 3))
    np.testing.assert_array_equal(shared.refine(second, 0.7), fresh_crf(image, second, 3))
    np.testing.assert_array_equal(shared.refine(first, 0.7), fresh_crf(image, first, 3))


def test_the_seed_is_foreground_background_or_undefined_as_ahn_et_al_say() -> None:
    image, maps = blob()
    keys = [4, 17]
    seed = refined_seed(image, maps, keys, CrfConfig())
    table = np.array([0, *keys])
    foreground = table[fresh_crf(image, hard_labels(maps, 0.30), 3)]
    background = table[fresh_crf(image, hard_labels(maps, 0.05), 3)]
    expected = foreground.copy()
    expected[foreground == 0] = 255
    expected[foreground + background == 0] = 0
    np.testing.assert_array_equal(seed, expected)
    assert set(np.unique(seed)) >= {0, 4, 17}


def test_a_prediction_is_refined_with_deeplabs_kernels_on_its_softmax() -> None:
    image, maps = blob()
    logits = np.concatenate([np.full((1, *maps.shape[1:]), 0.4), maps]).astype(np.float32) * 4
    crf = DenseCRF2D(image.shape[1], image.shape[0], 3)
    probability = np.exp(logits) / np.exp(logits).sum(0)
    crf.setUnaryEnergy(np.ascontiguousarray(-np.log(probability).reshape(3, -1)))
    crf.addPairwiseGaussian(sxy=1, compat=3)
    crf.addPairwiseBilateral(sxy=67, srgb=3, rgbim=np.ascontiguousarray(image.copy()), compat=4)
    expected = np.argmax(np.array(crf.inference(10)), 0).reshape(image.shape[:2])
    found = refined_prediction(image, logits, PredictionCrfConfig())
    np.testing.assert_array_equal(found, expected)
    assert (found != logits.argmax(0)).any()


def test_hard_labels_put_the_constant_background_first() -> None:
    maps = np.array([[[0.1, 0.3, 0.5]], [[0.2, 0.3, 0.4]]], np.float32)
    np.testing.assert_array_equal(hard_labels(maps, 0.3), [[0, 0, 1]])


def test_an_image_without_label_is_all_background() -> None:
    image, _ = blob()
    seed = refined_seed(image, np.zeros((0, 40, 56), np.float32), [], CrfConfig())
    assert seed.shape == (40, 56)
    assert not seed.any()


@pytest.mark.parametrize("size", [(1, 1), (3, 200)])
def test_extreme_sizes_work(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    assert refined_seed(image, rng.random((1, *size), dtype=np.float32), [2], CrfConfig()).shape == size


def test_read_only_images_work() -> None:
    image, maps = blob()
    image.setflags(write=False)
    refined_seed(image[:, ::-1], maps, [1, 2], CrfConfig())
