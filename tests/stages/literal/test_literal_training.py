"""Facts about LPCAM and ReCAM that do not depend on their implementation, applied to the literal ones."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from amn_ray.data.maps import stored_size
from amn_ray.data.transforms import resize_image
from amn_ray.nn.class_activation import cam_maps
from amn_ray.nn.classifier import Classifier
from amn_ray.nn.config import BackboneConfig
from tests.stages.literal import lpcam, recam

SIZE = (40, 56)
GRID = (3, 4)
CLASSES = 4
SCALES = (1.0, 0.5)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_classifier(num_classes: int) -> Classifier:
    """In double; BatchNorm's statistics are those of random images, so that features are of the size of 1."""
    torch.manual_seed(0)
    network = Classifier(BackboneConfig(name="resnet18", weights=None, batchnorm="batch"), num_classes, None).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    with torch.no_grad():
        network.train()(torch.randn(4, 3, *SIZE, dtype=torch.double))
        network.classifier.weight += 0.001  # so that every class is active at several positions
    return network.eval()


@pytest.fixture(scope="session")
def shared_network() -> Classifier:
    return random_classifier(CLASSES)


@pytest.fixture
def network(shared_network: Classifier) -> Classifier:
    return copy.deepcopy(shared_network)


@pytest.fixture(scope="session")
def photograph() -> np.ndarray:
    coarse = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    return resize_image(coarse, *SIZE)


@pytest.fixture
def pairs(photograph: np.ndarray, network: Classifier) -> list[Tensor]:
    found = []
    for scale in SCALES:
        scaled = resize_image(photograph, round(SIZE[0] * scale), round(SIZE[1] * scale))
        image = network.backbone.normalise(torch.from_numpy(scaled.copy())[None]).double()
        found.append(torch.cat([image, image.flip(3)]))
    return found


def random_rows(number: int, channels: int, seed: int = 0) -> Tensor:
    return torch.randn(number, channels, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def class_rows(network: Classifier) -> Tensor:
    return network.classifier.weight.detach()[:, :, 0, 0]


def scale_features(network: Classifier, factor: float) -> None:
    network.backbone.register_forward_hook(lambda module, inputs, output: output * factor)


# LPCAM: collection


def test_each_grid_position_joins_one_part_of_each_class_in_the_order_of_the_grid(network, pairs):
    image = pairs[0][:1]
    maps = torch.rand(2, *SIZE, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    collected = lpcam.collect(network, image, SIZE, maps, [2, 4], threshold=0.5)
    with torch.no_grad():
        features = network.features(image)[0].flatten(1).T
    for label, map_HW in zip([2, 4], maps, strict=True):
        # 40 rows of pixels over 3 of the grid: 0, 13 (13.3), 26 (26.7). 56 columns over 4: 0, 14, 28, 42.
        above = map_HW[[0, 13, 26]][:, [0, 14, 28, 42]].flatten() > 0.5
        assert 0 < above.sum() < len(above)
        assert torch.equal(collected[label][0], features[above])
        assert torch.equal(collected[label][1], features[~above])


def test_a_position_exactly_at_the_threshold_joins_neither_part(network, pairs):
    maps = torch.full((1, *SIZE), 0.25, dtype=torch.double)
    maps[0, 0, 0] = 0.3
    maps[0, 26, 42] = 0.2
    inside, outside = lpcam.collect(network, pairs[0][:1], SIZE, maps, [1], threshold=0.25)[1]
    assert len(inside) == len(outside) == 1


def test_an_image_without_a_class_gives_no_rows(network, pairs):
    assert lpcam.collect(network, pairs[0][:1], SIZE, torch.zeros(0, *SIZE).double(), [], threshold=0.1) == {}


# LPCAM: k-means


def test_one_centre_is_the_mean_of_all_rows():
    rows = random_rows(30, 8)
    torch.testing.assert_close(lpcam.k_means(rows, rows[:1]), rows.mean(dim=0, keepdim=True))


def test_rows_twice_or_in_another_order_give_the_same_centres():
    rows = 10 * random_rows(60, 8)
    centres = lpcam.k_means(rows, rows[:5])
    assert len(centres) == 5
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(lpcam.k_means(torch.cat([rows, rows]), rows[:5]), centres)
    torch.testing.assert_close(lpcam.k_means(rows[order], rows[:5]), centres)


def test_a_centre_is_the_mean_of_raw_rows_not_of_unit_rows():
    rows = torch.tensor([[1.0, 0.0], [9.0, 9.0], [-1.0, 0.0]], dtype=torch.double)
    centres = lpcam.k_means(rows, torch.tensor([[1.0, 0.1], [-1.0, 0.0]], dtype=torch.double))
    torch.testing.assert_close(centres, torch.tensor([[5.0, 4.5], [-1.0, 0.0]], dtype=torch.double))


def test_a_row_between_two_centres_goes_to_the_first():
    rows = torch.tensor([[5.0, 0.0], [1.0, 1.0], [0.0, 5.0]], dtype=torch.double)
    centres = lpcam.k_means(rows, torch.eye(2).double())
    torch.testing.assert_close(centres, torch.tensor([[3.0, 0.5], [0.0, 5.0]], dtype=torch.double))


def test_seven_times_longer_rows_need_more_rounds():
    def rounds(rows: Tensor) -> int:
        last = lpcam.k_means(rows, rows[:3])
        return next(
            most for most in range(1, 101) if torch.equal(lpcam.k_means(rows, rows[:3], most_rounds=most), last)
        )

    rows = 0.1 * random_rows(80, 8)
    assert rounds(rows) == 1
    assert rounds(7 * rows) > 1


def test_the_centres_of_the_last_round_count():
    rows = 0.01 * random_rows(20, 4)
    assert not torch.equal(lpcam.k_means(rows, rows[:2]), rows[:2])


def test_a_centre_times_a_classifier_row_is_the_mean_logit_of_its_cluster(network, pairs):
    with torch.no_grad():
        rows = network.features(pairs[0][:1])[0].flatten(1).T
        logits = network.classifier(network.features(pairs[0][:1]))[0].flatten(1).T
    centres = lpcam.k_means(rows, rows[:2], most_rounds=1)
    cluster = F.cosine_similarity(rows[:, None], rows[None, :2], dim=2).argmax(dim=1)
    expected = torch.stack([logits[cluster == number].mean(dim=0) for number in range(2)])
    torch.testing.assert_close(centres @ class_rows(network).T, expected)


def test_equal_initial_rows_leave_one_centre_fewer():
    rows = random_rows(30, 8)
    twice = lpcam.k_means(rows, rows[[0, 0, 1]])
    assert twice.isfinite().all()
    torch.testing.assert_close(twice, lpcam.k_means(rows, rows[[0, 1]]))


@pytest.mark.parametrize("number", [0, 1, 3])
def test_fewer_rows_than_centres_are_their_own_centres(number):
    rows = random_rows(number, 8)
    assert torch.equal(lpcam.k_means(rows, rows[:12]), rows)
    assert len(lpcam.k_means(rows, random_rows(12, 8, seed=1))) <= number


def test_a_row_of_zeros_does_no_harm():
    rows = torch.cat([torch.zeros(1, 8).double(), random_rows(10, 8)])
    assert lpcam.k_means(rows, rows[:3]).isfinite().all()


def test_a_stop_after_the_last_round_is_logged(caplog, monkeypatch):
    monkeypatch.setattr(lpcam.LOG, "disabled", False)  # as configuring a log by file does to all that are there
    rows = 100 * random_rows(60, 8)
    with caplog.at_level(logging.WARNING):
        lpcam.k_means(rows, rows[:5], most_rounds=1)
    assert "1 rounds" in caplog.text


# LPCAM: prototypes


def shares(*values: float) -> Tensor:
    """Centres of which class 1's share among two is `values`, for classifier rows (1, 0) and (0, 0)."""
    value = torch.tensor(values, dtype=torch.double)
    return torch.stack([(value / (1 - value)).log(), torch.zeros_like(value)], dim=1)


TWO_ROWS = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.double)


def test_shares_decide_what_is_a_prototype_and_what_is_context():
    centres = shares(0.01, 0.1, 0.6, 0.89, 0.91, 0.99)
    own, context = lpcam.prototypes(centres, centres, TWO_ROWS, 1)
    assert torch.equal(own, centres[4:])
    assert torch.equal(context, centres[1:4])
    own, context = lpcam.prototypes(centres, centres, TWO_ROWS, 1, coco=True)
    assert torch.equal(own, centres[4:])
    assert torch.equal(context, centres[:2])
    own, context = lpcam.prototypes(centres, centres, TWO_ROWS, 2)
    assert torch.equal(own, centres[:1])


def test_centres_seven_times_as_long_have_other_shares_but_give_the_same_map(network, pairs):
    centres = shares(0.6, 0.7)
    assert len(lpcam.prototypes(centres, centres, TWO_ROWS, 1)[0]) == 1
    assert len(lpcam.prototypes(7 * centres, centres, TWO_ROWS, 1)[0]) == 2
    own, context = random_rows(3, 512), random_rows(2, 512, seed=1)
    once = lpcam.lpcam_maps(network, pairs, SIZE, [1], {1: (own, context)})
    torch.testing.assert_close(lpcam.lpcam_maps(network, pairs, SIZE, [1], {1: (7 * own, 3 * context)}), once)


@pytest.mark.parametrize("coco", [False, True])
def test_without_a_prototype_the_centre_of_largest_share_is_one(coco):
    centres = shares(0.3, 0.8, 0.2)
    own, _ = lpcam.prototypes(centres, centres, TWO_ROWS, 1, coco=coco)
    assert torch.equal(own, centres[1:2])


def test_no_centres_give_no_prototypes_and_no_context():
    nothing = torch.zeros(0, 2, dtype=torch.double)
    own, context = lpcam.prototypes(nothing, nothing, TWO_ROWS, 1)
    assert own.shape == context.shape == (0, 2)


# LPCAM: maps


def test_loops_over_prototypes_are_one_convolution_on_unit_features(network, pairs):
    own, context = random_rows(3, 512), random_rows(2, 512, seed=1)
    row = F.normalize(own).mean(dim=0) - F.normalize(context).mean(dim=0)
    total = torch.zeros(1, 1, *SIZE).double()
    for pair in pairs:
        with torch.no_grad():
            both = network.features(pair)
        unit = F.normalize(both[:1] + both[1:].flip(3))
        activation = F.conv2d(unit, row[None, :, None, None]).relu()
        total += F.interpolate(activation, (48, 64), mode="bilinear", align_corners=False)[..., : SIZE[0], : SIZE[1]]
    expected = total[0] / total.max()
    torch.testing.assert_close(lpcam.lpcam_maps(network, pairs, SIZE, [1], {1: (own, context)}), expected)


def test_longer_features_give_the_same_map(network, pairs):
    chosen = {3: (random_rows(3, 512), random_rows(2, 512, seed=1))}
    once = lpcam.lpcam_maps(network, pairs, SIZE, [3], chosen)
    scale_features(network, 7.0)
    torch.testing.assert_close(lpcam.lpcam_maps(network, pairs, SIZE, [3], chosen), once)


def test_prototypes_equal_to_the_context_give_a_map_of_zeros(network, pairs):
    rows = random_rows(3, 512)
    assert torch.equal(
        lpcam.lpcam_maps(network, pairs, SIZE, [1], {1: (rows, rows)}), torch.zeros(1, *SIZE, dtype=torch.double)
    )


def test_every_map_reaches_exactly_one_and_needs_no_context(network, pairs):
    chosen = {
        1: (random_rows(2, 512).abs(), torch.zeros(0, 512).double()),
        2: (random_rows(1, 512).abs(), random_rows(1, 512, 1)),
    }
    maps = lpcam.lpcam_maps(network, pairs, SIZE, [1, 2], chosen)
    assert maps.shape == (2, *SIZE)
    assert maps.amin() >= 0
    assert torch.equal(maps.amax(dim=(1, 2)), torch.ones(2).double())


def test_a_label_without_prototypes_keeps_its_cam(network, photograph, pairs):
    labels = [1, 2, 3, 4]
    maps = lpcam.lpcam_maps(network, pairs, SIZE, labels, {2: (torch.zeros(0, 512).double(), random_rows(1, 512))})
    sampled = F.interpolate(maps[None], stored_size(*SIZE), mode="bilinear", align_corners=False)[0]
    expected = cam_maps(
        network.float(), [photograph], [labels], scales=SCALES, precision="fp32", device=torch.device("cpu")
    )[0]
    torch.testing.assert_close(sampled.float(), torch.from_numpy(expected), rtol=0, atol=1e-4)


def test_no_labels_give_no_lpcam_maps(network, pairs):
    assert lpcam.lpcam_maps(network, pairs, SIZE, [], {}).shape == (0, *SIZE)


def test_the_whole_of_lpcam_ends_in_maps(network, pairs):
    labels = [1, 3]
    cams = lpcam.lpcam_maps(network, pairs, SIZE, labels, {})
    collected = lpcam.collect(network, pairs[0][:1], SIZE, cams, labels, threshold=0.5)
    chosen = {}
    for label, (inside, outside) in collected.items():
        assert len(inside) > 0
        centres = [lpcam.k_means(rows, rows[:3]) for rows in (inside, outside)]
        chosen[label] = lpcam.prototypes(*centres, class_rows(network), label)
    maps = lpcam.lpcam_maps(network, pairs, SIZE, labels, chosen)
    assert maps.isfinite().all()
    assert not torch.allclose(maps, cams, atol=0.01)


# ReCAM: losses

TARGETS = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0]], dtype=torch.double)
"""Class 4 is in neither image."""


@pytest.fixture
def images() -> Tensor:
    return random_rows(2, 3 * SIZE[0] * SIZE[1]).reshape(2, 3, *SIZE)


@pytest.fixture
def head() -> Tensor:
    return (random_rows(CLASSES, 512, seed=2) * 0.1).requires_grad_()


def pooled(network: Classifier, images: Tensor) -> Tensor:
    """v (B, N, C) of all classes at once."""
    feature = network.features(images)
    a = F.relu(torch.einsum("nc,bchw->bnhw", network.classifier.weight[:, :, 0, 0], feature))
    a = a / (a.amax(dim=(2, 3), keepdim=True) + 1e-5)
    return torch.einsum("bnhw,bchw->bnc", a, feature) / (feature.shape[2] * feature.shape[3])


def test_the_losses_equal_batched_ones(network, head, images):
    loss_cls, loss_ce = recam.loss(network, head, images, TARGETS, weight=1.0)
    torch.testing.assert_close(loss_cls, F.multilabel_soft_margin_loss(network(images), TARGETS))
    scores = torch.einsum("nc,bkc->bkn", head, pooled(network, images))
    each = -scores.log_softmax(dim=2).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(loss_ce, ((each * TARGETS).sum(dim=1) / TARGETS.sum(dim=1)).mean())


def test_the_heads_gradient_has_its_closed_form(network, head, images):
    (gradient,) = torch.autograd.grad(recam.loss(network, head, images, TARGETS)[1], head)
    expected = torch.zeros_like(gradient)
    with torch.no_grad():
        v = pooled(network, images)
        for image, target in enumerate(TARGETS):
            for c in target.nonzero().flatten():
                error = (head @ v[image, c]).softmax(dim=0) - F.one_hot(c, CLASSES)
                expected += error[:, None] * v[image, c] / (target.sum() * len(TARGETS))
    torch.testing.assert_close(gradient, expected)
    assert gradient[3].abs().max() > 0, "absent classes compete"


def test_the_softmax_loss_reaches_the_present_rows_of_the_classifier_but_not_their_length(network, head, images):
    with torch.no_grad():
        network.classifier.weight *= 1000  # beside such maps the division's 1e-5 is nothing
    (gradient,) = torch.autograd.grad(recam.loss(network, head, images, TARGETS)[1], network.classifier.weight)
    rows, gradient = class_rows(network), gradient[:, :, 0, 0]
    for c in range(3):
        assert rows[c].norm() * gradient[c].norm() > 1e-5
        assert abs(rows[c] @ gradient[c]) < 1e-5 * rows[c].norm() * gradient[c].norm()
    assert torch.equal(gradient[3], torch.zeros(512).double())


def test_nothing_is_detached(network, head, images):
    """The derivative along a random direction in w and in layer1 is that of finite differences."""
    for parameter in (network.classifier.weight, network.backbone.layer1[0].conv1.weight):
        (gradient,) = torch.autograd.grad(recam.loss(network, head, images, TARGETS)[1], parameter)
        direction = random_rows(1, parameter.numel(), seed=3).reshape(parameter.shape)
        values = []
        with torch.no_grad():
            for step in (1e-8, -2e-8):
                parameter += step * direction
                values.append(recam.loss(network, head, images, TARGETS)[1])
        slope = (values[0] - values[1]) / 2e-8
        torch.testing.assert_close(slope, (gradient * direction).sum(), rtol=1e-5, atol=0)


def test_an_image_without_a_class_beside_one_halves_the_softmax_loss(network, head, images):
    alone = recam.loss(network, head, images[:1], TARGETS[:1])[1]
    beside = recam.loss(network, head, images, torch.stack([TARGETS[0], torch.zeros(CLASSES).double()]))[1]
    torch.testing.assert_close(beside, alone / 2)


def test_one_class_has_no_softmax_loss(images):
    loss_ce = recam.loss(random_classifier(1), random_rows(1, 512), images, torch.ones(2, 1).double())[1]
    assert loss_ce == 0


# ReCAM: training


def batches(steps: int) -> list[tuple[Tensor, Tensor]]:
    return [(random_rows(2, 3 * SIZE[0] * SIZE[1], seed=step).reshape(2, 3, *SIZE), TARGETS) for step in range(steps)]


def test_without_the_softmax_loss_it_is_classifier_training(network, head):
    other = copy.deepcopy(network)
    start = head.detach().clone()
    recam.train(network, head, batches(3), weight=0.0)
    other.backbone.freeze("stem")
    optimizer = torch.optim.SGD([p for p in other.parameters() if p.requires_grad], lr=5e-5, weight_decay=1e-4)
    declines = [1.0, (2 / 3) ** 0.9, (1 / 3) ** 0.9]
    for decline, (images, targets) in zip(declines, batches(3), strict=True):
        optimizer.param_groups[0]["lr"] = 5e-5 * decline
        optimizer.zero_grad()
        F.multilabel_soft_margin_loss(other(images), targets).backward()
        optimizer.step()
    for (name, trained), expected in zip(network.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(trained, expected, rtol=1e-12, atol=1e-14, msg=name)
    decayed = start * (1 - 5e-8) * (1 - 5e-8 * declines[1]) * (1 - 5e-8 * declines[2])
    torch.testing.assert_close(head.detach(), decayed, rtol=1e-12, atol=0)


def test_all_but_the_stem_and_the_statistics_is_trained(network, head):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    start = head.detach().clone()
    recam.train(network, head, batches(1))
    parameters = dict(network.named_parameters())
    for name, value in network.state_dict().items():
        kept = name not in parameters or name.startswith("backbone.stem.")
        assert torch.equal(value, before[name]) == kept, name
    assert not torch.equal(head, start)


def test_the_first_step_is_the_gradient_of_the_weighted_sum(network, head):
    ((images, targets),) = batches(1)
    start = head.detach().clone()
    before = class_rows(network).clone()
    loss_cls, loss_ce = recam.loss(network, head, images, targets)
    wanted = torch.autograd.grad(loss_cls + 0.1 * loss_ce, [head, network.classifier.weight])
    recam.train(network, head, batches(1), weight=0.1, lr_backbone=0.5, lr_head=2.0, weight_decay=0.01)
    torch.testing.assert_close(head.detach(), start - 2.0 * (wanted[0] + 0.01 * start))
    torch.testing.assert_close(class_rows(network), before - 0.5 * (wanted[1][:, :, 0, 0] + 0.01 * before))


def test_a_batch_without_any_class_trains_and_leaves_the_head_to_decay(network, images):
    head = random_rows(CLASSES, 512)
    start = head.clone()
    nothing = torch.zeros(2, CLASSES).double()
    assert recam.loss(network, head, images, nothing)[1] == 0
    recam.train(network, head, [(images, nothing)])
    torch.testing.assert_close(head.detach(), start * (1 - 5e-8), rtol=1e-12, atol=0)


# ReCAM: maps


def test_a_head_of_ones_and_the_classifier_alone_give_cam(network, head, pairs):
    labels = [4, 1]
    expected = lpcam.lpcam_maps(network, pairs, SIZE, labels, {})
    ones = torch.ones(CLASSES, 512).double()
    assert torch.equal(recam.recam_maps(network, ones, pairs, SIZE, labels), expected)
    recam.train(network, head, batches(1), lr_backbone=0, lr_head=0)
    assert torch.equal(recam.recam_maps(network, head, pairs, SIZE, labels, product=False), expected)
    assert not torch.allclose(recam.recam_maps(network, head, pairs, SIZE, labels), expected, atol=0.01)


def test_the_product_is_taken_before_the_relu(network, head, pairs):
    maps = recam.recam_maps(network, head, pairs, SIZE, [2])
    with torch.no_grad():
        network.classifier.weight[1, :, 0, 0] *= head[1]
    torch.testing.assert_close(maps, recam.recam_maps(network, head, pairs, SIZE, [2], product=False))
    assert maps.min() >= 0
    assert maps.max() <= 1


def test_no_labels_give_no_recam_maps(network, head, pairs):
    assert recam.recam_maps(network, head, pairs, SIZE, []).shape == (0, *SIZE)
