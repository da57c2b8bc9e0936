"""IRN's pairs, losses and walk against loops, dense matrices and hand-made cases."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image

from amn_ray.nn.config import BackboneConfig
from amn_ray.stages.irn.config import IrnConfig, WalkConfig
from amn_ray.stages.irn.loss import irn_loss
from amn_ray.stages.irn.model import IrnNet, affinity, edge_maps
from amn_ray.stages.irn.paths import paths
from amn_ray.stages.irn.walk import pseudo_mask, random_walk, transition

CPU = torch.device("cpu")
CONFIG = IrnConfig(backbone=BackboneConfig(name="resnet18", weights=None))
WALK = WalkConfig(power=1.3)
"""On AMN's maps."""


def highest_on_the_way(edge: np.ndarray, one: tuple[int, int], other: tuple[int, int]) -> float:
    """The highest edge nearer than 1 to the line between two pixels, inside their bounding box."""
    (y0, x0), (y1, x1) = one, other
    length = math.hypot(y1 - y0, x1 - x0)
    values = []
    for y in range(min(y0, y1), max(y0, y1) + 1):
        for x in range(min(x0, x1), max(x0, x1) + 1):
            distance = abs((y1 - y0) * (x - x0) - (x1 - x0) * (y - y0)) / length
            if distance < 1 - 1e-9:
                values.append(edge[y, x])
    return max(values)


def brute_affinities(edge: np.ndarray, radius: int) -> dict[tuple[tuple[int, int], tuple[int, int]], float]:
    """Of every unordered pair of pixels nearer than `radius`."""
    pixels = list(itertools.product(range(edge.shape[0]), range(edge.shape[1])))
    return {
        (one, other): 1 - highest_on_the_way(edge, one, other)
        for one, other in itertools.combinations(pixels, 2)
        if math.dist(one, other) < radius
    }


def test_affinities_equal_a_loop_over_all_pairs() -> None:
    edge = np.random.default_rng(0).random((32, 32)).astype(np.float32)
    expected = brute_affinities(edge, 5)
    found = {}
    for path in paths(5):
        values = affinity(torch.from_numpy(edge)[None], path)[0].numpy()
        left = max(0, -path.dx)
        for (y, x), value in np.ndenumerate(values):
            found[(y, x + left), (y + path.dy, x + left + path.dx)] = value
    assert found.keys() == expected.keys()
    assert all(found[pair] == pytest.approx(expected[pair], abs=1e-7) for pair in expected)


def test_a_path_holds_both_ends_and_only_pixels_of_its_box() -> None:
    for path in paths(10):
        assert {(0, 0), (path.dy, path.dx)} <= set(path.offsets)
        assert path.dy**2 + path.dx**2 < 100
    assert len(paths(5)) == 34, "the released code's half disc of radius 5"
    assert len({(path.dy, path.dx) for path in paths(10)} | {(-path.dy, -path.dx) for path in paths(10)}) == 2 * len(
        paths(10)
    )


def test_the_loss_equals_a_loop_over_pairs() -> None:
    rng = np.random.default_rng(1)
    edge = rng.uniform(0.05, 0.95, (2, 7, 9)).astype(np.float32)
    shift = rng.normal(0, 2, (2, 2, 7, 9)).astype(np.float32)
    seed = rng.choice([0, 0, 1, 2, 255], (2, 7, 9)).astype(np.uint8)
    sums: dict[str, list[float]] = {name: [] for name in ("bg", "fg", "different", "fg shift", "bg shift")}
    for image in range(2):
        for (one, other), near in brute_affinities(edge[image], 4).items():
            a, b = seed[image][one], seed[image][other]
            if 255 in (a, b):
                continue
            moved = shift[image][:, one[0], one[1]] - shift[image][:, other[0], other[1]]
            if a != b:
                sums["different"].append(-math.log(1 + 1e-5 - near))
            else:
                kind = "bg" if a == 0 else "fg"
                sums[kind].append(-math.log(near + 1e-5))
                wanted = np.subtract(other, one) if kind == "fg" else np.zeros(2)
                sums[f"{kind} shift"].append(np.abs(moved - wanted).mean())
    mean = {name: float(np.mean(values)) for name, values in sums.items()}
    expected = ((mean["bg"] + mean["fg"]) / 2 + mean["different"]) / 2 + (mean["fg shift"] + mean["bg shift"]) / 2
    found = irn_loss(torch.from_numpy(edge), torch.from_numpy(shift), torch.from_numpy(seed), 4)
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("value", [0, 3, 255])
def test_a_seed_of_one_label_gives_a_finite_loss_and_gradient(value: int) -> None:
    edge = torch.full((1, 6, 6), 0.5, requires_grad=True)
    shift = torch.zeros(1, 2, 6, 6, requires_grad=True)
    loss = irn_loss(edge, shift, torch.full((1, 6, 6), value, dtype=torch.uint8), 5)
    loss.backward()
    assert edge.grad is not None
    assert torch.isfinite(edge.grad).all()
    assert (loss.item() == 0) == (value == 255)


def test_gradients_agree_with_finite_differences() -> None:
    torch.manual_seed(0)
    edge = (torch.rand(1, 4, 5, dtype=torch.float64) * 0.8 + 0.1).requires_grad_()
    shift = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    seed = torch.randint(0, 3, (1, 4, 5))
    assert torch.autograd.gradcheck(lambda e, s: irn_loss(e, s, seed, 3), (edge, shift))


def test_only_the_branches_train_and_the_backbone_keeps_its_statistics() -> None:
    net = IrnNet(CONFIG).train()
    edge, displacement = net.branch_parameters()
    trainable = [parameter for parameter in net.parameters() if parameter.requires_grad]
    assert {id(p) for p in trainable} == {id(p) for p in [*edge, *displacement]}
    assert not any(module.training for module in net.backbone.modules())


def test_edges_of_a_mirrored_image_are_the_mirrored_edges() -> None:
    torch.manual_seed(0)
    net = IrnNet(CONFIG).eval()
    image = np.random.default_rng(0).integers(0, 256, (37, 64, 3), dtype=np.uint8)
    edge, means = edge_maps(net, [image, image[:, ::-1].copy()], device=CPU, precision="fp32")
    assert (edge.shape, means.shape) == ((2, 10, 16), (2, 2))
    torch.testing.assert_close(edge[1], edge[0].flip(1))


def test_edges_are_the_sigmoid_of_the_mean_logit_of_the_padded_image_and_its_mirror_image() -> None:
    torch.manual_seed(0)
    net = IrnNet(CONFIG).eval()
    image = np.random.default_rng(1).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normal = ((image / 255 - mean) / std).astype(np.float32)

    def run(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        padded = np.zeros((48, 64, 3), np.float32)
        padded[:37, :50] = pixels
        with torch.no_grad():
            edge, shift = net(torch.from_numpy(padded).permute(2, 0, 1)[None])
        return edge[0, :10, :13].numpy(), shift[0, :, :10, :13].numpy()

    (straight, shift), (mirrored, _) = run(normal), run(normal[:, ::-1])
    logit = (straight + mirrored[:, ::-1]) / 2
    (edge,), (found,) = edge_maps(net, [image], device=CPU, precision="fp32")
    np.testing.assert_allclose(edge.numpy(), 1 / (1 + np.exp(-logit)), atol=1e-5)
    np.testing.assert_allclose(found.numpy(), shift.mean((1, 2)), atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-3)])
def test_the_walk_equals_the_power_of_the_dense_matrix(dtype: torch.dtype, tolerance: float) -> None:
    rng = np.random.default_rng(2)
    edge, maps = rng.random((9, 11)) ** 3, rng.random((2, 9, 11))
    matrix = np.eye(99)
    for (one, other), near in brute_affinities(edge, 5).items():
        i, j = one[0] * 11 + one[1], other[0] * 11 + other[1]
        matrix[i, j] = matrix[j, i] = near**10
    power = np.linalg.matrix_power(matrix / matrix.sum(0, keepdims=True), 256)
    expected = ((maps**1.3 * (1 - edge)).reshape(2, -1) @ power).reshape(maps.shape)
    found = random_walk(torch.tensor(maps, dtype=dtype), torch.tensor(edge, dtype=dtype), WALK)
    np.testing.assert_allclose(found.double().numpy(), expected, rtol=tolerance)


def test_nothing_passes_a_wall_of_edges() -> None:
    edge = torch.zeros(8, 12)
    edge[:, 5:7] = 1
    maps = torch.zeros(1, 8, 12)
    maps[:, :, :5] = 1
    walked = random_walk(maps, edge, WALK)[0]
    torch.testing.assert_close(walked[:, :5], torch.ones(8, 5))
    assert (walked[:, 5:] == 0).all()


def test_without_edges_the_walk_is_a_blur() -> None:
    maps = torch.zeros(1, 9, 9)
    maps[0, 4, 4] = 1
    once = random_walk(maps, torch.zeros(9, 9), WalkConfig(power=1.3, doublings=0, radius=2))[0]
    expected = torch.zeros(9, 9)
    expected[3:6, 3:6] = 1 / 9  # the centre and its eight neighbours, √2 away at most, share equally
    torch.testing.assert_close(once, expected)
    uniform = random_walk(torch.ones(1, 9, 9), torch.zeros(9, 9), WALK)
    torch.testing.assert_close(uniform, torch.ones(1, 9, 9))


def test_the_columns_of_the_transition_matrix_sum_to_one() -> None:
    edge = torch.rand(6, 7, dtype=torch.float64)
    dense = transition(edge, 5, 10).to_dense()
    torch.testing.assert_close(dense.sum(1), torch.ones(42, dtype=torch.float64))
    assert (dense >= 0).all()


def test_a_pseudo_mask_is_the_walk_enlarged_and_divided_by_the_maximum_over_all_classes() -> None:
    rng = np.random.default_rng(4)
    maps, edge = rng.random((2, 8, 9)).astype(np.float32) ** 2, rng.random((8, 9)).astype(np.float32)
    config = WalkConfig(power=1.3, doublings=1, background=0.4)
    walked = random_walk(torch.from_numpy(maps), torch.from_numpy(edge), config).numpy()
    full = np.stack([np.asarray(Image.fromarray(one).resize((36, 32), Image.Resampling.BILINEAR)) for one in walked])
    full = full[:, :31, :34]  # Pillow enlarges as PyTorch does; the grid covers a few pixels more than the image
    scores = full / full.max()
    expected = np.where(scores.max(0) > 0.4, np.array([3, 7])[scores.argmax(0)], 0)
    mask = pseudo_mask(torch.from_numpy(maps), torch.from_numpy(edge), [3, 7], (31, 34), config)
    np.testing.assert_array_equal(mask, expected)
    assert set(np.unique(mask)) == {0, 3, 7}


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (33, 31)])
def test_a_pseudo_mask_has_the_images_size_and_only_its_labels(size: tuple[int, int]) -> None:
    h, w = (size[0] - 1) // 4 + 1, (size[1] - 1) // 4 + 1
    mask = pseudo_mask(torch.rand(2, h, w), torch.rand(h, w), [3, 7], size, WALK)
    assert (mask.shape, mask.dtype) == (size, np.uint8)
    assert set(np.unique(mask)) <= {0, 3, 7}
    assert not pseudo_mask(torch.zeros(0, h, w), torch.rand(h, w), [], size, WALK).any()
    assert not pseudo_mask(torch.zeros(1, h, w), torch.rand(h, w), [3], size, WALK).any()
