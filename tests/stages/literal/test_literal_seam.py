"""Facts about SEAM that do not depend on its implementation, applied to the literal one."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import cache

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from amn_ray.data.maps import stored_size
from amn_ray.nn.backbones.backbone import Backbone
from tests.stages.literal import seam
from tests.stages.literal.networks import as_pairs, classifier, smooth

E = 1e-5
SIZE = (38, 54)
CROP = (64, 48)
FACTOR = 0.7
SCALES = (0.5, 1.0, 1.5)
CLASSES = 4
TARGETS = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0]], dtype=torch.double)
"""Class 4 is in neither image."""
Weights = tuple[Tensor, Tensor, Tensor, Tensor]
"""head, f8_3, f8_4, f9."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def double(values: Sequence) -> Tensor:
    return torch.tensor(values, dtype=torch.double)


@cache
def shared_network() -> Backbone:
    return classifier(1, None).backbone


@pytest.fixture
def network() -> Backbone:
    return copy.deepcopy(shared_network())


def random_images() -> Tensor:
    return random(2, 3, *CROP, seed=4)


@cache
def mean_feature() -> Tensor:
    with torch.no_grad():
        return shared_network()(random_images()).mean(dim=(0, 2, 3))


def random_weights(num_classes: int) -> Weights:
    """Logits have both signs, in each class: the head's rows are orthogonal to the mean feature."""
    channels, mean = shared_network().channels, mean_feature()
    head = random(num_classes + 1, channels["layer4"])
    head -= (head @ mean)[:, None] * mean / (mean @ mean)
    f8_3, f8_4 = random(8, channels["layer2"], seed=1), random(10, channels["layer3"], seed=2)
    return head, f8_3 / 5, f8_4 / 10, random(12, 21, seed=3) / 4


@pytest.fixture
def weights() -> Weights:
    return random_weights(CLASSES)


@pytest.fixture
def images() -> Tensor:
    return random_images()


def up(x_BCHW: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x_BCHW, tuple(size), mode="bilinear", align_corners=True)


def normalised(p_BCHW: Tensor) -> Tensor:
    p = F.relu(p_BCHW)
    low, high = p.amin(dim=(2, 3), keepdim=True), p.amax(dim=(2, 3), keepdim=True)
    return F.relu(p - low - E) / (high - low + E)


def second(images: Tensor, factor: float = FACTOR) -> Tensor:
    return up(images, [int(side * factor) for side in images.shape[2:]])


def levels(network: Backbone, weights: Weights, images: Tensor) -> tuple[Tensor, Tensor]:
    """z and revised (B, N+1, h, w)."""
    both = [seam.forward(network, *weights, image) for image in images]
    return torch.stack([z for z, _ in both]), torch.stack([revised for _, revised in both])


# max_norm, onehot, resized


def test_max_norm_maps_each_channel_to_its_range_after_a_relu():
    p = double([[[-3, 2, 7]], [[1, 3, 2]], [[5, 5, 5]], [[-1, -2, 0]]])
    expected = double(
        [
            [[0, (2 - E) / (7 + E), (7 - E) / (7 + E)]],
            [[0, (2 - E) / (2 + E), (1 - E) / (2 + E)]],
            [[0, 0, 0]],
            [[0, 0, 0]],
        ]
    )
    torch.testing.assert_close(seam.max_norm(p), expected, rtol=1e-12, atol=0)


def test_max_norm_has_gradients_through_its_minimum_and_its_maximum():
    p = double([[[1, 2, 5]]]).requires_grad_()
    (gradient,) = torch.autograd.grad(seam.max_norm(p)[0, 0, 1], p)
    # (p − min)/(max − min) at 1/4: to the minimum −3/16, to itself 1/4, to the maximum −1/16.
    torch.testing.assert_close(gradient, double([[[-3 / 16, 1 / 4, -1 / 16]]]), rtol=0, atol=1e-5)


def test_onehot_keeps_the_strongest_class_and_the_background_beside_it():
    # Pixels: the background is larger; equal classes; no class.
    a = double([[[9, 9, 9, 9]], [[0.3, 0.6, 0.1, 0]], [[0.2, 0.6, 0.8, 0]], [[0, 0.5, 0.2, 0]]]).requires_grad_()
    before = a.detach().clone()
    result = seam.onehot(a)
    expected = double([[[0.7, 0.4, 0.2, 1]], [[0.3, 0.6, 0, 0]], [[0, 0.6, 0.8, 0]], [[0, 0, 0, 0]]])
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-15)
    assert not result.requires_grad
    assert torch.equal(a, before), "a copy"


def test_corners_are_aligned():
    assert seam.resized(double([[[0, 10]]]), (1, 5)).tolist() == [[[0, 2.5, 5, 7.5, 10]]]
    assert seam.resized(double([[[1], [2], [3], [4]]]), (2, 1)).tolist() == [[[1], [4]]]
    x = random(2, 3, 5)
    assert torch.equal(seam.resized(x, (3, 5)), x)


# PCM


def revised(z_Mhw: Tensor, phi_Chw: Tensor, labels: Sequence[int] | None = None) -> Tensor:
    """`pcm` with such features of the pixels."""
    channels = len(phi_Chw)
    identity = torch.eye(channels).double()
    nothing = torch.zeros(1, 1).double()
    f9 = torch.cat([torch.zeros(channels, 3).double(), identity, -identity, torch.zeros(channels, 1).double()], dim=1)
    conv4 = torch.cat([phi_Chw, -phi_Chw])
    # (relu(φ) − relu(−φ) = φ)
    image, conv5 = random(3, *phi_Chw.shape[1:]), random(1, *phi_Chw.shape[1:])
    return seam.pcm(z_Mhw, image, conv4, conv5, torch.eye(2 * channels).double(), nothing, f9, labels)


def test_three_pixels_by_hand():
    z = double([[[7, 8, 9]], [[2, 1, 1]], [[-1, 0.5, 0.1]]])
    phi = double([[[3, 5, -5]], [[4, 0, 0]]])  # cosines 0.6, −0.6 and −1
    same, half = 25 / (5 + E) ** 2, 15 / (5 + E) ** 2
    full, middle = (2 - E) / (2 + E), (1 - E) / (2 + E)
    class_2 = (0.5 - E) / (0.5 + E)
    low = same + half + E
    for labels, n in (
        # Class 2 wins the second pixel, whether it is in the image or not.
        (None, [[1 - full, 1 - class_2, 1 - middle], [full, 0, middle], [0, class_2, 0]]),
        ([1, 2], [[1 - full, 1 - class_2, 1 - middle], [full, 0, middle], [0, class_2, 0]]),
        ([1], [[1 - full, 1 - middle, 1 - middle], [full, middle, middle], [0, 0, 0]]),
        ([], [[1, 1, 1], [0, 0, 0], [0, 0, 0]]),
    ):
        expected = [
            [[(p * same + q * half) / low, (p * half + q * same) / low, r * same / (same + E)]] for p, q, r in n
        ]
        torch.testing.assert_close(revised(z, phi, labels), double(expected), rtol=1e-12, atol=0)


def test_the_backgrounds_logits_are_not_used():
    z, phi = random(4, 3, 4), random(5, 3, 4, seed=1)
    other = torch.cat([random(1, 3, 4, seed=2), z[1:]])
    assert torch.equal(revised(z, phi), revised(other, phi))


def ones_of_strongest(z_Mhw: Tensor) -> Tensor:
    """n of PCM, to 1e-5."""
    n = F.relu(z_Mhw[1:]) / F.relu(z_Mhw[1:]).amax(dim=(1, 2), keepdim=True)
    top = n.amax(dim=0, keepdim=True)
    return torch.cat([1 - top, n * (n == top)])


def test_equal_features_give_every_pixel_the_mean_of_the_map():
    z = random(4, 3, 4)
    result = revised(z, random(5, 1, 1).expand(5, 3, 4))
    expected = ones_of_strongest(z).mean(dim=(1, 2), keepdim=True).expand(4, 3, 4)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-4)


def test_orthogonal_features_leave_the_map_as_it_is():
    z = random(4, 3, 4)
    phi = torch.eye(12).double().reshape(12, 3, 4)
    torch.testing.assert_close(revised(z, phi), ones_of_strongest(z), rtol=0, atol=1e-4)
    # The network's logits, not their size, count.
    torch.testing.assert_close(revised(9 * z, phi), ones_of_strongest(z), rtol=0, atol=1e-4)


def test_a_map_of_ones_stays_one():
    z = torch.cat([torch.zeros(1, 3, 4), torch.ones(1, 3, 4), -torch.ones(1, 3, 4)]).double()
    expected = torch.stack([torch.zeros(3, 4), torch.ones(3, 4), torch.zeros(3, 4)]).double()
    torch.testing.assert_close(revised(z, random(5, 3, 4)), expected, rtol=0, atol=1e-4)


def test_columns_sum_to_one():
    # Of one class and the background n sums to 1 at every pixel, so their revised maps sum to a column of S.
    total = revised(random(2, 3, 4), random(5, 3, 4, seed=1)).sum(dim=0)
    torch.testing.assert_close(total, torch.ones(3, 4).double(), rtol=0, atol=1e-5)
    assert (total < 1).all()


def test_it_is_the_dense_product():
    z, phi = random(4, 3, 4), random(5, 3, 4, seed=1)
    unit = phi.flatten(1) / (phi.flatten(1).pow(2).sum(dim=0).sqrt() + E)
    s = F.relu(unit.T @ unit)
    s = s / (s.sum(dim=0, keepdim=True) + E)
    identity = revised(z, 1e9 * torch.eye(12).double().reshape(12, 3, 4)) * (1 + E)  # n itself, but for 1e-14
    torch.testing.assert_close(revised(z, phi), (identity.flatten(1) @ s).reshape(4, 3, 4), rtol=1e-9, atol=1e-12)
    assert not torch.allclose(s, s.T, atol=0.01), "rows and columns differ"


def test_a_pixel_without_features_gives_zero_and_finite_gradients():
    z, image = random(3, 3, 4), random(3, 3, 4, seed=1)
    conv4, conv5 = random(6, 3, 4, seed=2), random(7, 3, 4, seed=3)
    for x in (image, conv4, conv5):
        x[:, 1, 2] = 0
    trained = [x.requires_grad_() for x in (random(4, 6, seed=4), random(5, 7, seed=5), random(6, 12, seed=6))]
    result = seam.pcm(z, image, conv4, conv5, *trained)
    assert (result[:, 1, 2] == 0).all()
    assert (result.detach() > 0).any(dim=0).sum() == 11
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(result.sum(), trained))


def test_other_orders_of_the_pixels_give_the_result_in_that_order():
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    inputs = [random(channels, 3, 4, seed=channels) for channels in (4, 3, 6, 7)]  # z, image, conv4, conv5
    trained = [random(5, 6), random(5, 7), random(8, 13)]
    permuted = [x.flatten(1)[:, order].reshape(x.shape) for x in inputs]
    expected = seam.pcm(*inputs, *trained).flatten(1)[:, order].reshape(4, 3, 4)
    torch.testing.assert_close(seam.pcm(*permuted, *trained), expected, rtol=1e-12, atol=1e-14)


def test_features_are_the_image_and_both_levels_in_this_order_resized_before_the_relu():
    z, image, conv4, conv5 = random(4, 3, 4), random(3, 33, 47), random(6, 6, 9), random(7, 4, 5)
    f8_3, f8_4, f9 = random(4, 6), random(5, 7), random(8, 12)
    result = seam.pcm(z, image, conv4, conv5, f8_3, f8_4, f9)
    low = torch.einsum("oc,chw->ohw", f8_3, up(conv4[None], (3, 4))[0]).relu()
    high = torch.einsum("oc,chw->ohw", f8_4, up(conv5[None], (3, 4))[0]).relu()
    phi = torch.einsum("oc,chw->ohw", f9, torch.cat([up(image[None], (3, 4))[0], low, high]))
    torch.testing.assert_close(result, revised(z, phi), rtol=1e-12, atol=1e-14)


def test_gradients_reach_only_the_three_convolutions():
    inputs = [random(channels, 3, 4, seed=channels).requires_grad_() for channels in (4, 3, 6, 7)]
    trained = [x.requires_grad_() for x in (random(5, 6), random(5, 7), random(8, 13))]
    result = seam.pcm(*inputs, *trained)
    gradients = torch.autograd.grad(result.pow(2).sum(), [*inputs, *trained], allow_unused=True)
    assert [gradient is None for gradient in gradients] == [True] * 4 + [False] * 3
    assert all(gradient.abs().max() > 0 for gradient in gradients[4:])


# Forward


def test_logits_and_revised_map_are_on_the_grid_of_layer4(network, weights, images):
    z, result = seam.forward(network, *weights, images[0])
    assert z.shape == result.shape == (CLASSES + 1, 4, 3)
    features = network.features(images[:1])
    torch.testing.assert_close(z, F.conv2d(features["layer4"], weights[0][:, :, None, None])[0])
    expected = seam.pcm(z, images[0], features["layer2"][0], features["layer3"][0], *weights[1:])
    torch.testing.assert_close(result, expected)
    assert (z[1:].amax(dim=(1, 2)) > 0).all()
    assert (z[1:].amin(dim=(1, 2)) < 0).all()


def test_an_absent_class_wins_pixels_unless_the_labels_are_known(network, weights, images):
    _, faithful = seam.forward(network, *weights, images[0])
    _, known = seam.forward(network, *weights, images[0], labels=[1, 3])
    assert faithful[[2, 4]].max() > 0.1
    assert (known[[2, 4]] == 0).all()
    assert (known[[1, 3]] >= faithful[[1, 3]]).all()
    assert (known - faithful)[[1, 3]].max() > 0.05


# Losses, by hand


class Plain(nn.Module):
    """A backbone whose levels are all the image itself."""

    def features(self, image_BCHW: Tensor) -> dict[str, Tensor]:
        return dict.fromkeys(("layer2", "layer3", "layer4"), image_BCHW)


# Logits are (0, channel 1, channel 2) of the image; features are its third channel alone.
PLAIN: Weights = (
    double([[0, 0, 0], [1, 0, 0], [0, 1, 0]]),
    torch.zeros(1, 3).double(),
    torch.zeros(1, 3).double(),
    double([[0, 0, 1, 0, 0]]),
)
# The second view of half the side is its corners, as corners are aligned.
LOGITS = double([[6, 0, 0, 4], [0, 8, 0, 0], [0, 0, 0, 0], [2, 0, 0, 2]])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def by_hand(class_2: Tensor, target: Sequence[int]) -> list[float]:
    image = torch.stack([LOGITS, class_2, torch.ones(4, 4).double()])
    return [value.item() for value in seam.losses(Plain(), *PLAIN, image[None], double([target]), view_factor=0.5)]


def test_the_losses_of_one_class_by_hand():
    cls, rvmin, er, ecr = by_hand(torch.full((4, 4), -1.0).double(), [1, 0])
    # Means 22/16 and 14/4 of class 1, −1 of class 2.
    margins = [(softplus(-mean) + softplus(-1)) / 2 for mean in (22 / 16, 14 / 4)]
    assert cls == pytest.approx(sum(margins) / 2, rel=1e-12)
    # All pixels have equal features: means of n, (22/8)/16 and (14/6)/4.
    assert rvmin == pytest.approx((22 / 8 / 16 + 14 / 6 / 4) / 2, abs=1e-4)
    # a1 = (0.75, 0.5, 0.25, 0.25), a2 = (1, 0.5, 0, 0); of class 2 nothing.
    assert er == pytest.approx(0.75 / 8, abs=1e-4)
    # r = 0, as the revised map is constant. k = floor(0.2·3·4) = 2: of onehot(a2) two of 1, of onehot(a1) 0.75.
    assert ecr == pytest.approx(1 + 0.75, abs=1e-4)


def test_the_losses_of_two_classes_by_hand():
    # Class 2 is the strongest at one corner only (after max_norm: 0.8 beside 0.25), and competes in PCM, too.
    class_2 = torch.zeros(4, 4).double()
    class_2[3, 0], class_2[1, 1] = 4, 5
    cls, rvmin, er, ecr = by_hand(class_2, [1, 1])
    margins = [(softplus(-first) + softplus(-other)) / 2 for first, other in ((22 / 16, 9 / 16), (14 / 4, 4 / 4))]
    assert cls == pytest.approx(sum(margins) / 2, rel=1e-12)
    # n_1 = 6/8, 4/8, (1 is as much as class 2's 1 at [1, 1], but for 1e-5), 2/8; and 1, 4/6, 2/6 at the corners.
    assert rvmin == pytest.approx(((6 + 4 + 8 + 2) / 8 / 16 + (6 + 4 + 2) / 6 / 4) / 2, abs=1e-4)
    # a1_2 = (0, 0, 0.8, 0), a2_2 = (0, 0, 1, 0).
    assert er == pytest.approx((0.75 + 0.2) / 8, abs=1e-4)
    # onehot(a2) = 1, 0.5 + 0.5, 1 (of class 2), 1 (background): the largest 2 are 1. onehot(a1) has 0.8 and 0.75.
    assert ecr == pytest.approx(1 + (0.8 + 0.75) / 2, abs=1e-4)


def test_the_losses_of_no_class_by_hand():
    cls, rvmin, er, ecr = by_hand(torch.full((4, 4), -1.0).double(), [0, 0])
    margins = [(softplus(mean) + softplus(-1)) / 2 for mean in (22 / 16, 14 / 4)]
    assert cls == pytest.approx(sum(margins) / 2, rel=1e-12)
    assert (rvmin, er) == (0, 0)
    # |1 − r_0| = 1 at the four corners, of which k = 2 count.
    assert ecr == pytest.approx(2, abs=1e-4)


# Losses, of a network


def test_the_losses_equal_batched_ones(network, weights, images):
    a, r, margins, smallest = [], [], [], []
    views = (images, second(images))
    assert views[1].shape[2:] == (44, 33)
    labels = torch.cat([torch.ones(2, 1).double(), TARGETS], dim=1)[:, :, None, None]
    for view in views:
        z, result = (up(x, view.shape[2:]) for x in levels(network, weights, view))
        margins.append(F.multilabel_soft_margin_loss(z.mean(dim=(2, 3))[:, 1:], TARGETS))
        top = (result * labels)[:, 1:].amax(dim=1).flatten(1)
        smallest.append(top.topk(top.shape[1] // 4, largest=False).values.mean())
        a.append(up(normalised(z), (44, 33)) * labels)
        r.append(up(normalised(result), (44, 33)) * labels)
    cls, rvmin, er, ecr = seam.losses(network, *weights, images, TARGETS, view_factor=FACTOR)
    torch.testing.assert_close(cls, sum(margins) / 2)
    torch.testing.assert_close(rvmin, sum(smallest) / 2)
    torch.testing.assert_close(er, F.l1_loss(a[0][:, 1:], a[1][:, 1:]))
    k = int(0.2 * (CLASSES + 1) * 44 * 33)
    total = 0
    for own, other in ((0, 1), (1, 0)):
        top = a[other][:, 1:].amax(dim=1, keepdim=True)
        wanted = torch.cat([1 - top, a[other][:, 1:] * (a[other][:, 1:] == top)], dim=1)
        entries = (wanted - r[own]).abs().flatten(1)
        assert (entries[0] > 0).sum() > k, "something is left out"
        total += entries.topk(k).values.mean()
    torch.testing.assert_close(ecr, total)
    assert min(cls, rvmin, er, ecr) > 0.01


def test_a_batch_is_the_mean_of_its_images(network, weights, images):
    together = seam.losses(network, *weights, images, TARGETS, view_factor=FACTOR)
    alone = [seam.losses(network, *weights, images[b : b + 1], TARGETS[b : b + 1], view_factor=FACTOR) for b in (0, 1)]
    for whole, first, other in zip(together, *alone, strict=True):
        torch.testing.assert_close(whole, (first + other) / 2, rtol=1e-12, atol=0)


def test_equal_views_agree_and_revise_each_other_equally(network, weights, images):
    cls, rvmin, er, ecr = seam.losses(network, *weights, images[:1], TARGETS[:1], view_factor=1.0)
    assert er == 0
    z, result = (up(x, CROP) for x in levels(network, weights, images[:1]))
    torch.testing.assert_close(cls, F.multilabel_soft_margin_loss(z.mean(dim=(2, 3))[:, 1:], TARGETS[:1]))
    torch.testing.assert_close(rvmin, result[0, [1, 3]].amax(dim=0).flatten().sort().values[: 64 * 48 // 4].mean())
    labels = torch.cat([torch.ones(1).double(), TARGETS[0]])[:, None, None]
    entries = (seam.onehot(normalised(z)[0] * labels) - normalised(result)[0] * labels).abs()
    torch.testing.assert_close(ecr, 2 * entries.flatten().topk(64 * 48).values.mean())


def tents(size: int, larger: int) -> Tensor:
    """How much each of `size` values weighs in the mean of the `larger` that corner-aligned enlargement makes."""
    weights = torch.zeros(size).double()
    for i in range(larger):
        place = i * (size - 1) / (larger - 1)
        left = min(int(place), size - 2)
        weights[left] += (1 - (place - left)) / larger
        weights[left + 1] += (place - left) / larger
    return weights


def test_the_soft_margin_is_of_the_enlarged_maps_mean_not_of_the_classifiers(network, weights, images):
    assert tents(28, 448)[0] ** 2 * 28**2 == pytest.approx(0.30, abs=0.005)
    expected, other = [], []
    for view, grid in ((images, (4, 3)), (second(images), (3, 3))):
        z, _ = levels(network, weights, view)
        assert z.shape[2:] == grid
        logits = torch.einsum("bnhw,h,w->bn", z, tents(grid[0], view.shape[2]), tents(grid[1], view.shape[3]))
        expected.append(F.multilabel_soft_margin_loss(logits[:, 1:], TARGETS))
        other.append(F.multilabel_soft_margin_loss(z.mean(dim=(2, 3))[:, 1:], TARGETS))
    cls, *_ = seam.losses(network, *weights, images, TARGETS, view_factor=FACTOR)
    torch.testing.assert_close(cls, sum(expected) / 2)
    assert abs(cls - sum(other) / 2) > 1e-3


@pytest.mark.parametrize("present", [0, 1, 3, 6])
def test_up_to_three_of_twenty_classes_leave_nothing_out_of_ecr(network, images, present):
    weights = random_weights(20)
    target = torch.zeros(20).double()
    target[[3, 19, 0, 7, 8, 9][:present]] = 1
    maps = []
    for view in (images[:1], second(images[:1])):
        z, result = (up(normalised(up(x, view.shape[2:])), (44, 33))[0] for x in levels(network, weights, view))
        maps.append((z[1:] * target[:, None, None], result))
    total = 0
    for (_, result), (z, _) in (maps, maps[::-1]):
        entries = (1 - z.amax(dim=0) - result[0]).abs().sum()
        for c in target.nonzero().flatten():
            entries += (torch.where(z[c] == z.amax(dim=0), z[c], 0) - result[c + 1]).abs().sum()
        total += entries / int(0.2 * 21 * 44 * 33)
    _, rvmin, _, ecr = seam.losses(network, *weights, images[:1], target[None], view_factor=FACTOR)
    assert (rvmin == 0) == (present == 0)
    if present <= 3:
        torch.testing.assert_close(ecr, total)
    else:
        assert ecr < total - 0.01


def test_each_loss_reaches_only_its_own_weights(network, weights, images):
    for weight in weights:
        weight.requires_grad_()
    backbone = [parameter for name, parameter in network.named_parameters() if name.endswith("weight")]
    for name, loss in zip(
        ("cls", "rvmin", "er", "ecr"),
        seam.losses(network, *weights, images, TARGETS, view_factor=FACTOR),
        strict=True,
    ):
        gradients = torch.autograd.grad(loss, [*backbone, *weights], allow_unused=True, retain_graph=True)
        to_network, to_pcm = gradients[:-3], gradients[-3:]
        reached, missed = (to_network, to_pcm) if name in ("cls", "er") else (to_pcm, to_network)
        assert all(gradient is None for gradient in missed), name
        assert all(gradient.abs().max() > 0 for gradient in reached), name


def test_nothing_else_is_detached(network, weights, images):
    """Derivatives along random directions are those of finite differences."""

    def loss(parts: Sequence[int]) -> Tensor:
        values = seam.losses(network, *weights, images, TARGETS, view_factor=FACTOR)
        return sum(values[part] for part in parts)

    conv = next(parameter for name, parameter in network.named_parameters() if name.startswith("layer1."))
    head, f8_3, f8_4, f9 = weights
    cases: list[tuple[Tensor, tuple[int, ...]]] = [(weight, (part,)) for weight in (head, conv) for part in (0, 2)]
    cases += [(weight, (1, 3)) for weight in (f8_3, f8_4, f9)]
    for parameter, parts in cases:
        parameter.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(parts), parameter)
        direction = random(*parameter.shape, seed=9)
        values = []
        with torch.no_grad():
            for step in (1e-7, -2e-7):
                parameter += step * direction
                values.append(loss(parts))
            parameter += 1e-7 * direction
        slope = (values[0] - values[1]) / 2e-7
        torch.testing.assert_close(slope, (gradient * direction).sum(), rtol=1e-4, atol=1e-8)


def test_the_backgrounds_row_has_no_gradient_at_all(network, weights, images):
    head = weights[0].requires_grad_()
    total = sum(seam.losses(network, *weights, images, TARGETS, view_factor=FACTOR))
    (gradient,) = torch.autograd.grad(total, head)
    assert (gradient[0] == 0).all()
    assert (gradient[1:].abs().amax(dim=1) > 0).all()


def test_known_labels_change_only_what_the_revised_map_enters(network, weights, images):
    faithful = seam.losses(network, *weights, images, TARGETS, view_factor=FACTOR)
    known = seam.losses(network, *weights, images, TARGETS, view_factor=FACTOR, known_labels=True)
    assert [torch.equal(x, y) for x, y in zip(faithful, known, strict=True)] == [True, False, True, False]
    assert known[1] > faithful[1]


def test_one_class_is_enough(network, images):
    weights = random_weights(1)
    values = seam.losses(network, *weights, images, double([[1], [0]]), view_factor=FACTOR)
    assert all(value.isfinite() and value > 0 for value in values)


# Training


def in_training(network: Backbone) -> Backbone:
    """With every BatchNorm, which `Backbone.train` keeps as it is."""
    for module in network.modules():
        module.training = True
    return network


def batches(steps: int) -> list[tuple[Tensor, Tensor]]:
    return [(random(2, 3, *CROP, seed=step), TARGETS) for step in range(steps)]


def test_the_convolutions_but_for_the_stem_are_trained_and_no_batchnorm(network, weights):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    start = [weight.clone() for weight in weights]
    seam.train(in_training(network), *weights, batches(1), view_factor=FACTOR)
    changed = set()
    for name, value in network.state_dict().items():
        # (Only convolutions have weights of four dimensions, and they have no biases.)
        trained = value.ndim == 4 and not name.startswith("stem.")
        assert torch.equal(value, before[name]) != trained, name
        changed |= {name.split(".")[0]} if trained else set()
    assert changed == {"layer1", "layer2", "layer3", "layer4"}
    assert not any(torch.equal(weight, old) for weight, old in zip(weights, start, strict=True))


@pytest.mark.parametrize("known_labels", [False, True])
def test_the_first_step_is_the_gradient_of_the_sum_at_the_rate_of_the_group(network, weights, known_labels):
    ((images, targets),) = batches(1)
    names, parameters = zip(
        *(
            (name, parameter)
            for name, parameter in network.named_parameters()
            if parameter.ndim == 4 and not name.startswith("stem.")
        ),
        strict=True,
    )
    every = [*parameters, *(weight.requires_grad_() for weight in weights)]
    views = {"view_factor": FACTOR, "known_labels": known_labels}
    cls, rvmin, er, ecr = seam.losses(network, *weights, images, targets, **views)
    gradients = torch.autograd.grad(cls + rvmin + er + ecr, every)
    start = [parameter.detach().clone() for parameter in every]
    seam.train(network, *weights, [(images, targets)], **views, lr=0.02, lr_factor=7.0, weight_decay=0.3)
    rates = [0.02] * len(names) + [0.14] * 4
    for parameter, old, gradient, rate in zip(every, start, gradients, rates, strict=True):
        torch.testing.assert_close(parameter.detach(), old - rate * (gradient + 0.3 * old), rtol=1e-10, atol=1e-13)


def test_the_backgrounds_row_only_decays_without_momentum_at_a_rate_that_falls(network, weights):
    start = weights[0][0].clone()
    seam.train(network, *weights, batches(3), view_factor=FACTOR)
    expected = start * (1 - 5e-5) * (1 - 5e-5 * (2 / 3) ** 0.9) * (1 - 5e-5 * (1 / 3) ** 0.9)
    torch.testing.assert_close(weights[0][0].detach(), expected, rtol=1e-12, atol=0)


def test_steps_follow_one_another(network, weights):
    other, copies = copy.deepcopy(network), tuple(weight.clone() for weight in weights)
    first, last = batches(2)
    seam.train(network, *weights, [first, last], view_factor=FACTOR)
    seam.train(other, *copies, [first], view_factor=FACTOR)
    seam.train(other, *copies, [last], view_factor=FACTOR, lr=0.01 * 0.5**0.9)
    for trained, expected in zip([*network.parameters(), *weights], [*other.parameters(), *copies], strict=True):
        torch.testing.assert_close(trained, expected, rtol=1e-10, atol=1e-13)


def test_a_batch_without_any_class_trains(network, weights, images):
    nothing = torch.zeros(2, CLASSES).double()
    start = [weight.clone() for weight in weights]
    _, rvmin, er, ecr = seam.losses(network, *weights, images, nothing, view_factor=FACTOR)
    assert (rvmin, er) == (0, 0)
    assert ecr > 0
    seam.train(network, *weights, [(images, nothing)], view_factor=FACTOR)
    for weight, old in zip(weights, start, strict=True):
        assert weight.isfinite().all()
        assert not torch.equal(weight, old)


def test_training_again_gives_the_same_bits(network, weights):
    other, copies = copy.deepcopy(network), tuple(weight.clone() for weight in weights)
    seam.train(network, *weights, batches(2), view_factor=FACTOR)
    seam.train(other, *copies, batches(2), view_factor=FACTOR)
    assert all(torch.equal(weight, again) for weight, again in zip(weights, copies, strict=True))


# Maps

LABELS = [3, 1]


@pytest.fixture
def sides() -> list[Tensor]:
    return as_pairs(classifier(1, None), smooth(*SIZE), SCALES)


def summed(network: Backbone, weights: Weights, sides: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Of all classes, the background included."""
    total = torch.zeros(1, CLASSES + 1, *size).double()
    for pair in sides:
        _, result = levels(network, weights, pair)
        large = F.interpolate(up(result, pair.shape[2:]), size, mode="bilinear", align_corners=False)
        total += large[:1] + large[1:].flip(3)
    return total


def test_maps_are_max_norm_of_the_sum_over_scales_and_sides(network, weights, sides):
    maps = seam.seam_maps(network, *weights, sides, SIZE, LABELS)
    assert maps.shape == (2, *SIZE)
    torch.testing.assert_close(maps, normalised(summed(network, weights, sides, SIZE))[0, LABELS])
    assert torch.equal(maps.amin(dim=(1, 2)), torch.zeros(2).double())
    assert ((maps.amax(dim=(1, 2)) > 0.99) & (maps.amax(dim=(1, 2)) <= 1)).all()


def test_stored_maps_have_their_own_minimum_and_maximum(network, weights, sides):
    stored = stored_size(*SIZE)
    assert stored == (10, 14)
    maps = seam.seam_maps(network, *weights, sides, SIZE, LABELS, stored=True)
    torch.testing.assert_close(maps, normalised(summed(network, weights, sides, stored))[0, LABELS])
    assert torch.equal(maps.amin(dim=(1, 2)), torch.zeros(2).double())
    assert ((maps.amax(dim=(1, 2)) > 0.99) & (maps.amax(dim=(1, 2)) <= 1)).all()


def test_one_step_of_enlarging_in_place_of_two_is_something_else(network, weights, sides):
    maps = seam.seam_maps(network, *weights, sides[:1], SIZE, LABELS)
    _, result = levels(network, weights, sides[0])
    large = F.interpolate(result, SIZE, mode="bilinear", align_corners=False)
    assert (normalised(large[:1] + large[1:].flip(3))[0, LABELS] - maps).abs().max() > 0.05


def test_a_mirrored_image_gives_mirrored_maps(network, weights, sides):
    for stored in (False, True):
        maps = seam.seam_maps(network, *weights, sides, SIZE, LABELS, stored=stored)
        mirrored = seam.seam_maps(network, *weights, [pair.flip(0) for pair in sides], SIZE, LABELS, stored=stored)
        torch.testing.assert_close(mirrored, maps.flip(2), rtol=0, atol=1e-10)


def test_equal_features_give_maps_of_zeros():
    # The revised map is constant.
    image = torch.stack([LOGITS, LOGITS.T, torch.ones(4, 4).double()])
    pair = torch.stack([image, image.flip(2)])
    assert (seam.seam_maps(Plain(), *PLAIN, [pair], (4, 4), [1, 2]) == 0).all()


def test_maps_by_hand():
    # One row of four pixels; the third channel's sign parts them into two groups of equal features.
    image = double([[[8, 4, 2, 0]], [[-1, -1, -1, -1]], [[1, 1, -1, 1]]])
    pair = torch.stack([image, image.flip(2)])
    # Revised: the mean of n = (1, 0.5, 0.25, 0) over the group: 0.5, 0.5, 0.25, 0.5.
    maps = seam.seam_maps(Plain(), *PLAIN, [pair], (1, 4), [1])
    torch.testing.assert_close(maps, double([[[1, 1, 0, 1]]]), rtol=0, atol=1e-3)
    # To eight pixels, corners not aligned: 1, 1, 1, 0.75, 0.25, 0.25, 0.75, 1 of the way, of which the least is 0.25.
    maps = seam.seam_maps(Plain(), *PLAIN, [pair], (1, 8), [1])
    low = 2 / 3
    torch.testing.assert_close(maps, double([[[1, 1, 1, low, 0, 0, low, 1]]]), rtol=0, atol=1e-3)


def test_labels_choose_classes_and_change_no_other_map_unless_they_are_known(network, weights, sides):
    maps = seam.seam_maps(network, *weights, sides, SIZE, [1, 2, 3, 4])
    assert torch.equal(seam.seam_maps(network, *weights, sides, SIZE, LABELS), maps[[2, 0]])
    known = seam.seam_maps(network, *weights, sides, SIZE, LABELS, known_labels=True)
    assert (known - maps[[2, 0]]).abs().max() > 0.05
    everything = seam.seam_maps(network, *weights, sides, SIZE, [1, 2, 3, 4], known_labels=True)
    assert torch.equal(everything, maps)


def test_no_labels_give_no_seam_maps(network, weights, sides):
    assert seam.seam_maps(network, *weights, sides, SIZE, []).shape == (0, *SIZE)
    assert seam.seam_maps(network, *weights, sides, SIZE, [], stored=True).shape == (0, 10, 14)


def test_maps_again_are_the_same_bits_and_leave_the_network_as_it_was(network, weights, sides):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    maps = seam.seam_maps(network, *weights, sides, SIZE, LABELS)
    assert torch.equal(maps, seam.seam_maps(in_training(network), *weights, sides, SIZE, LABELS))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
