"""LPCAM against its steps written one after the other, and against what must hold of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from amn_ray.nn.class_activation import cam_maps, cam_sums
from amn_ray.stages.lpcam.infer import on_grid
from amn_ray.stages.lpcam.model import chosen_centres, direction, k_means, lpcam_maps
from amn_ray.stages.lpcam.sample import CONTEXT, OWN, drawn_images, numbers, smallest
from tests.stages.literal import lpcam as literal
from tests.stages.literal.networks import COUNT, CPU, SIZE, as_pairs, at_stride_4, classifier, smooth

IMAGES = [smooth(*SIZE, seed) for seed in range(4)]
KEYS = [[1, 3], [2, 4], [3], [1]]
SCALES = [1.0, 0.5, 1.5, 2.0]


def rows(count: int, channels: int = 6, seed: int = 0) -> Tensor:
    return torch.rand(count, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 9


@pytest.mark.parametrize("count", [300, 12, 5])
def test_the_clusters_are_those_of_the_steps(count: int) -> None:
    data = rows(count)
    start = data[:12]
    assert torch.allclose(k_means(data, start), literal.k_means(data, start), atol=1e-12)


@pytest.mark.parametrize("bounds", [(0.05, 0.9), (0.0, 0.5)])
@pytest.mark.parametrize("scale", [0.05, 1.0, 3.0])
def test_prototypes_and_context_are_chosen_as_the_steps_say(bounds: tuple[float, float], scale: float) -> None:
    weights = (rows(COUNT, seed=1) - 4) * scale
    own, others = rows(12, seed=2), rows(12, seed=3)
    made = chosen_centres(own, others, weights, 1, own=0.9, bounds=bounds)
    expected = literal.prototypes(own, others, weights, 2, coco=bounds[0] == 0)
    assert [one.tolist() for one in made] == [one.tolist() for one in expected]
    assert len(made[0]) > 0, "there is always a prototype"


def test_maps_of_one_convolution_are_those_of_all_prototypes_and_contexts_one_by_one() -> None:
    network = classifier(COUNT, "layer2")
    channels = network.backbone.channels["layer4"]
    chosen = {
        1: (rows(3, channels), rows(2, channels, 1)),
        2: (rows(1, channels, 2), rows(0, channels)),
        4: (rows(4, channels, 3), rows(5, channels, 4)),
    }
    directions, known = torch.zeros(COUNT, channels, dtype=torch.float64), torch.zeros(COUNT, dtype=torch.bool)
    for label, (own, others) in chosen.items():
        directions[label - 1], known[label - 1] = direction(own, others), True
    made = lpcam_maps(network, directions, known, IMAGES, KEYS, scales=SCALES, precision="fp32", device=CPU)
    for image, labels, maps_Khw in zip(IMAGES, KEYS, made, strict=True):
        expected = literal.lpcam_maps(network, as_pairs(network, image, SCALES), SIZE, labels, chosen)
        assert np.abs(maps_Khw - at_stride_4(expected)).max() < 1e-9
    cam = cam_maps(network, IMAGES, KEYS, scales=SCALES, precision="fp32", device=CPU)
    assert np.abs(made[2] - cam[2]).max() < 1e-12, "a class without prototypes keeps its CAM"
    changed = max(np.abs(a - b).max() for a, b in zip(made[:2], cam[:2], strict=True))
    print(f"against CAM: {changed:.3f}")
    assert changed > 0.1


def test_prototypes_that_are_the_context_give_a_map_of_zeros() -> None:
    network = classifier(COUNT, "layer2")
    own = rows(3, network.backbone.channels["layer4"])
    nothing = direction(own, own).expand(COUNT, -1)
    known = torch.ones(COUNT, dtype=torch.bool)
    (maps,) = lpcam_maps(network, nothing, known, IMAGES[:1], [[1, 3]], scales=[1.0], precision="fp32", device=CPU)
    assert not maps.any()
    assert maps.shape[0] == 2


def test_the_direction_is_the_mean_cosine_with_prototypes_minus_that_with_the_context() -> None:
    own, others, feature = rows(3), rows(4, seed=1), rows(1, seed=2)[0]

    def cosine(centres: Tensor) -> Tensor:
        return torch.nn.functional.cosine_similarity(feature[None], centres).mean()

    unit = feature / feature.norm()
    assert torch.allclose(unit @ direction(own, others), cosine(own) - cosine(others))
    assert torch.allclose(unit @ direction(own, others[:0]), cosine(own)), "without a context"
    assert torch.allclose(direction(7 * own, others), direction(own, others)), "lengths do not count here"


def test_every_row_twice_and_rows_in_another_order_have_the_same_centres() -> None:
    data = rows(60)
    centres = k_means(data, data[:4])
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(k_means(torch.cat([data, data]), data[:4]), centres)
    assert torch.allclose(k_means(data[order], data[:4]), centres)


def test_one_cluster_is_the_mean_of_raw_rows() -> None:
    data = rows(20)
    assert torch.allclose(k_means(data, data[:1]), data.mean(0, keepdim=True))


def test_equal_starts_and_rows_without_length_end_in_fewer_clusters_and_not_in_an_endless_loop() -> None:
    data = rows(20)
    assert len(k_means(data, data[[0, 0, 1]])) == 2
    centres = k_means(torch.cat([data, torch.zeros(2, 6, dtype=torch.float64)]), data[:3])
    assert torch.isfinite(centres).all()


def test_a_class_is_where_its_full_size_cam_is_read_on_the_grid_and_features_are_those_of_the_image_alone() -> None:
    network = classifier(COUNT, "layer2")
    (total,) = cam_sums(network, IMAGES[:1], KEYS[:1], scales=SCALES, precision="fp32", device=CPU)
    maps_KHW = total.normalised()
    on_grid_Khw = on_grid(maps_KHW.numpy(), 16)
    image = as_pairs(network, IMAGES[0], [1.0])[0][:1]
    expected = literal.collect(network, image, SIZE, maps_KHW, KEYS[0], threshold=0.3)
    features_nC = network.features(image)[0].flatten(1).T
    for label, map_hw in zip(KEYS[0], on_grid_Khw, strict=True):
        for part, chosen in zip(expected[label], (map_hw > 0.3, map_hw < 0.3), strict=True):
            assert torch.equal(features_nC[torch.from_numpy(chosen.ravel())], part)


# --- the sample -------------------------------------------------------------------------------------------------------


def regions(count: int = 30) -> list[tuple[str, int, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [(f"{n:02d}", 1 + n % 2, rng.integers(0, 3, 12).astype(np.int8)) for n in range(count)]


def brute(size: int) -> dict[tuple[int, int], list[tuple[str, int]]]:
    found: dict[tuple[int, int], list[tuple[int, str, int]]] = {}
    for image_id, label, parts in regions():
        for part in (OWN, CONTEXT):
            drawn = numbers(7, label, part, image_id, len(parts))
            places = [(int(drawn[p]), image_id, p) for p in range(len(parts)) if parts[p] == part]
            found.setdefault((label, part), []).extend(places)
    return {key: sorted((i, p) for _, i, p in sorted(places)[:size]) for key, places in found.items()}


@pytest.mark.parametrize("size", [1, 5, 20, 10_000])
def test_the_sample_is_the_smallest_numbers_in_whatever_order_images_come(size: int) -> None:
    assert smallest(7, regions(), size) == brute(size)
    assert smallest(7, reversed(regions()), size) == brute(size)


def test_a_sample_that_holds_all_is_all() -> None:
    everything = smallest(0, regions(), 10_000)
    assert sum(map(len, everything.values())) == sum((parts > 0).sum() for _, _, parts in regions())


def test_another_seed_is_another_sample() -> None:
    assert smallest(0, regions(), 5) != smallest(1, regions(), 5)


def test_images_are_drawn_for_each_class_and_looked_at_for_that_class_only() -> None:
    labels: dict[str, Sequence[int]] = {f"{n:03d}": [1, 2] if n % 2 else [1] for n in range(200)} | {"none": []}
    chosen = drawn_images(labels, 0, 10)
    by_label = {label: [i for i, row in chosen.items() if label in row] for label in (1, 2)}
    assert all(5 <= len(ids) <= 10 for ids in by_label.values()), "with replacement"
    assert all(label in labels[i] for label, ids in by_label.items() for i in ids)
    assert drawn_images(labels, 0, None) == {i: list(row) for i, row in labels.items() if row}
    assert drawn_images(dict(reversed(labels.items())), 0, 10) == chosen
