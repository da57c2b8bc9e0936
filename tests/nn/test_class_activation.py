"""CAMs against a plain implementation, and their symmetries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from amn_ray.data.maps import full_size, stored_size
from amn_ray.data.transforms import resize_image
from amn_ray.nn.backbones.backbone import MEAN, STD
from amn_ray.nn.class_activation import cam_maps
from amn_ray.nn.classifier import Classifier
from amn_ray.nn.config import BackboneConfig
from tests.conftest import noise

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> Classifier:
    torch.manual_seed(0)
    return Classifier(BackboneConfig(name="resnet18", weights=None), 4, "layer2").eval()


def make(model: Classifier, image: np.ndarray, keys: list[int], scales: list[float]) -> np.ndarray:
    return cam_maps(model, [image], [keys], scales=scales, precision="fp32", device=CPU)[0]


def plain_full_size_cam(model: Classifier, image: np.ndarray, keys: list[int], scales: list[float]) -> np.ndarray:
    """method.md, section 2, word for word: one scale and one flip after another, at full size."""
    height, width = image.shape[:2]
    total = torch.zeros(len(keys), height, width)
    for scale in scales:
        scaled = resize_image(image, round(height * scale), round(width * scale)).astype(np.float32) / 255
        x = torch.from_numpy((scaled - MEAN) / STD).float().permute(2, 0, 1)[None]
        with torch.no_grad():
            cam = F.relu(model.classifier(model.backbone(x))) + F.relu(
                model.classifier(model.backbone(x.flip(3)))
            ).flip(3)
        size = (-(-height // 16) * 16, -(-width // 16) * 16)
        up = F.interpolate(cam, size, mode="bilinear", align_corners=False)[0, :, :height, :width]
        total += up[[key - 1 for key in keys]]
    return (total / (total.amax((1, 2), keepdim=True) + 1e-5)).numpy()


@pytest.mark.parametrize("size", [(64, 96), (61, 83)])
def test_stored_cams_give_back_the_full_size_cams_of_the_method(model: Classifier, size: tuple[int, int]) -> None:
    image, keys, scales = noise(*size), [1, 3], [1.0, 0.5, 1.5]
    stored = make(model, image, keys, scales)
    assert stored.shape == (2, *stored_size(*size))
    expected = plain_full_size_cam(model, image, keys, scales)
    # Sampling at stride 4 and back may cut the corners of a stride-16 bilinear surface, no more.
    assert np.abs(full_size(stored, *size) - expected).max() < 0.06
    assert np.abs(full_size(stored, *size) - expected).mean() < 0.01


def test_the_map_of_a_flipped_image_is_the_flipped_map(model: Classifier) -> None:
    image = noise(64, 96)
    straight = make(model, image, [2, 4], [1.0, 0.5])
    mirrored = make(model, np.ascontiguousarray(image[:, ::-1]), [2, 4], [1.0, 0.5])
    np.testing.assert_allclose(mirrored, straight[:, :, ::-1], atol=1e-4)


def test_images_of_a_group_do_not_influence_each_other(model: Classifier) -> None:
    images = [noise(48, 64, seed) for seed in range(3)]
    together = cam_maps(model, images, [[1], [2, 3], []], scales=[1.0, 1.5], precision="fp32", device=CPU)
    for image, keys, maps in zip(images, [[1], [2, 3], []], together, strict=True):
        np.testing.assert_allclose(make(model, image, keys, [1.0, 1.5]), maps, atol=1e-5)


def test_each_map_is_divided_by_its_own_maximum(model: Classifier) -> None:
    maps = plain_full_size_cam(model, noise(64, 64), [1, 2, 3, 4], [1.0])
    assert ((maps.max((1, 2)) > 0.99) | (maps.max((1, 2)) == 0)).all()
    stored = make(model, noise(64, 64), [1, 2, 3, 4], [1.0])
    assert stored.min() >= 0
    assert stored.max() <= 1


def test_an_image_without_label_has_no_map(model: Classifier) -> None:
    assert make(model, noise(40, 50), [], [1.0]).shape == (0, 10, 13)
