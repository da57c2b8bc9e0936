"""The literal RIB and AdvCAM against what must hold of any implementation."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from amn_ray.nn.class_activation import cam_maps
from amn_ray.nn.classifier import Classifier
from tests.stages.literal.advcam import advcam_maps, climb, factor, grad_cam, steps_at
from tests.stages.literal.networks import COUNT, SIZE, as_pairs, classifier, smooth
from tests.stages.literal.rib import Batch, both_sides, descend, pool, rib_maps, share_covered

STRIDE = 16
RIB_SCALES = (1.0, 0.5, 1.5)
ADVCAM_SCALES = (0.5, 1.0)
FAST = {"lr_backbone": 1e-3, "lr_head": 1e-2, "coverage": 1.0}
"""Rates at which a few steps change the maps of random weights, and nothing stops them."""
STILL = {"lr_backbone": 0.0, "lr_head": 0.0}
LABELS = [1, 3]


@cache
def balanced(detach_after: str | None) -> Classifier:
    """Every class has logits of both signs."""
    network = classifier(COUNT, detach_after)
    image = as_pairs(network, smooth(*SIZE), (1.0,))[0]
    with torch.no_grad():
        # Rows orthogonal to the mean feature.
        mean = network.features(image).mean(dim=(0, 2, 3))
        rows = network.classifier.weight[:, :, 0, 0]
        rows = rows - (rows @ mean)[:, None] * mean / (mean @ mean)
        network.classifier.weight.copy_(rows[:, :, None, None])
        network.classifier.weight *= 5 / network.classifier(network.features(image)).max()
    return network


def tiny(detach_after: str | None) -> Classifier:
    return copy.deepcopy(balanced(detach_after))


@pytest.fixture
def stopped() -> Classifier:
    """For RIB."""
    return tiny("layer2")


@pytest.fixture
def open_() -> Classifier:
    """For AdvCAM: gradients reach the image."""
    return tiny(None)


def logits_of(network: Classifier, image_BCHW: Tensor) -> Tensor:
    with torch.no_grad():
        return network.classifier(network.features(image_BCHW))


def upsampled(map_hw: Tensor, size: tuple[int, int] = SIZE) -> Tensor:
    covered = [-(-side // STRIDE) * STRIDE for side in size]
    return F.interpolate(map_hw[None, None], covered, mode="bilinear")[0, 0, : size[0], : size[1]]


def cam(network: Classifier, pairs: Sequence[Tensor], labels: Sequence[int]) -> Tensor:
    """Plain CAM (K, H, W)."""
    maps = []
    for label in labels:
        activations = [F.relu(logits_of(network, pair)[:, label - 1]) for pair in pairs]
        total_HW = sum(upsampled(image + mirror.flip(1)) for image, mirror in activations)
        maps.append(total_HW / (total_HW.max() + 1e-5))
    return torch.stack(maps)


def crops(seed: int, count: int = 2) -> Batch:
    """Auxiliary images with the labels 2 and 4."""
    source = torch.Generator().manual_seed(seed)
    targets_BN = torch.zeros(count, COUNT, dtype=torch.float64)
    targets_BN[:, 1] = 1
    targets_BN[1:, 3] = 1
    return torch.randn(count, 3, 32, 32, generator=source, dtype=torch.float64), targets_BN


def state(network: Classifier) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(network: Classifier, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def no_positive_pixel(network: Classifier, label: int) -> None:
    """Features are not negative, so a negative row of the classifier gives negative logits."""
    with torch.no_grad():
        network.classifier.weight[label - 1] = -network.classifier.weight[label - 1].abs()


def test_the_tiny_network_has_logits_of_both_signs_in_every_class(stopped: Classifier) -> None:
    for pair in as_pairs(stopped, smooth(*SIZE), (1.0, 1.5)):
        logits_2Nhw = logits_of(stopped, pair)
        assert (logits_2Nhw.amax(dim=(0, 2, 3)) > 0.1).all()
        assert (logits_2Nhw.amin(dim=(0, 2, 3)) < -0.1).all()


class TestRib:
    def test_one_step_is_plain_cam(self, stopped: Classifier) -> None:
        pairs = as_pairs(stopped, smooth(*SIZE), RIB_SCALES)
        maps, taken = rib_maps(stopped, pairs, SIZE, LABELS, [crops(0)], scales=RIB_SCALES, steps=1)
        assert taken == 1
        assert maps.shape == (2, *SIZE)
        torch.testing.assert_close(maps, cam(stopped, pairs, LABELS), rtol=0, atol=1e-12)

    def test_one_step_is_the_maps_of_the_cam_stage(self, stopped: Classifier) -> None:
        image = smooth(*SIZE)
        pairs = as_pairs(stopped, image, RIB_SCALES)
        maps, _ = rib_maps(stopped, pairs, SIZE, LABELS, [None], scales=RIB_SCALES, steps=1)
        sampled = F.interpolate(maps[None], (10, 14), mode="bilinear")[0].float()
        network = stopped.float()
        expected = cam_maps(
            network, [image], [LABELS], scales=RIB_SCALES, precision="fp32", device=torch.device("cpu")
        )[0]  # fmt: skip
        torch.testing.assert_close(sampled, torch.from_numpy(expected), rtol=0, atol=1e-4)

    @pytest.mark.parametrize("coverage", [0.0, 1.0])
    def test_without_a_learning_rate_any_number_of_steps_is_cam(self, stopped: Classifier, coverage: float) -> None:
        pairs = as_pairs(stopped, smooth(*SIZE), RIB_SCALES)
        settings = {"scales": RIB_SCALES, "steps": 3, **STILL, "coverage": coverage}
        maps, taken = rib_maps(stopped, pairs, SIZE, LABELS, [None] * 3, **settings)
        assert taken == (3 if coverage else 1)
        torch.testing.assert_close(maps, cam(stopped, pairs, LABELS), rtol=0, atol=1e-5)

    def test_steps_change_the_maps_and_leave_the_network_as_it_was(self, stopped: Classifier) -> None:
        before = state(stopped)
        pairs = as_pairs(stopped, smooth(*SIZE), RIB_SCALES)
        settings = {"scales": RIB_SCALES, "steps": 3, **FAST}
        maps, taken = rib_maps(stopped, pairs, SIZE, LABELS, [crops(k) for k in range(3)], **settings)
        assert taken == 3
        assert (maps - cam(stopped, pairs, LABELS)).abs().max() > 0.01
        assert same(stopped, before)
        assert all(parameter.grad is None for parameter in stopped.parameters())
        assert not any(parameter.requires_grad for parameter in stopped.backbone.layer2.parameters())
        again, _ = rib_maps(stopped, pairs, SIZE, LABELS, [crops(k) for k in range(3)], **settings)
        assert torch.equal(maps, again)

    def test_it_is_the_sum_of_the_cams_on_the_way(self, stopped: Classifier) -> None:
        """Fine-tuned by torch's SGD, with a loss written in one line."""
        pairs = as_pairs(stopped, smooth(*SIZE), RIB_SCALES)
        batches = [crops(k) for k in range(3)]
        maps, _ = rib_maps(stopped, pairs, SIZE, LABELS, batches, scales=RIB_SCALES, steps=4, **FAST)
        network = copy.deepcopy(stopped)
        layers = [network.backbone.layer3, network.backbone.layer4]
        groups = [
            {"params": [p for layer in layers for p in layer.parameters()], "lr": FAST["lr_backbone"]},
            {"params": [network.classifier.weight], "lr": FAST["lr_head"]},
        ]
        optimizer = torch.optim.SGD(groups, lr=0, weight_decay=1e-4)
        decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: (1 - k / 4) ** 0.9)
        total_KHW = torch.zeros(2, *SIZE, dtype=torch.float64)
        present_BN = torch.tensor([[1.0, 0, 1, 0]] * 2, dtype=torch.float64)
        for crops_BCHW, targets_BN in batches:
            for pair in pairs:
                both_Khw = both_sides(F.relu(logits_of(network, pair)))[[0, 2]]
                total_KHW += torch.stack([upsampled(map_hw) for map_hw in both_Khw])
            rows = [(pairs[0], present_BN), (pairs[2], present_BN), (crops_BCHW, targets_BN)]
            loss = torch.zeros((), dtype=torch.float64)
            for image_BCHW, y_BN in rows:
                z_BNhw = network.classifier(network.features(image_BCHW))
                top = z_BNhw.detach().amax(dim=(2, 3), keepdim=True)
                loss = loss - (z_BNhw * ((z_BNhw < 0.4 * top) & (top > 0))).mean(dim=(2, 3)).mul(y_BN).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
        expected = total_KHW / (total_KHW.amax(dim=(1, 2), keepdim=True) + 1e-5)
        torch.testing.assert_close(maps, expected, rtol=0, atol=1e-9)

    def test_it_ends_with_the_auxiliary_images(self, stopped: Classifier) -> None:
        pairs = as_pairs(stopped, smooth(*SIZE), RIB_SCALES)
        run = {"scales": RIB_SCALES, **FAST}
        maps, taken = rib_maps(stopped, pairs, SIZE, LABELS, [None] * 3, steps=10, **run)
        assert taken == 3
        # The learning rate decays over the number asked for.
        sooner, _ = rib_maps(stopped, pairs, SIZE, LABELS, [None] * 3, steps=3, **run)
        assert not torch.equal(maps, sooner)

    def test_no_auxiliary_images_can_be_said_in_three_ways(self, stopped: Classifier) -> None:
        pairs = as_pairs(stopped, smooth(*SIZE), (1.0,))
        nothing = (torch.zeros(0, 3, 32, 32, dtype=torch.float64), torch.zeros(0, COUNT, dtype=torch.float64))
        run = {"scales": (1.0,), "steps": 2, **FAST}
        results = [
            rib_maps(stopped, pairs, SIZE, LABELS, auxiliary, **run)[0]
            for auxiliary in ([None] * 2, [nothing] * 2, [], [crops(0)] * 2)
        ]
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])
        assert not torch.equal(results[0], results[3])

    def test_only_scale_one_half_gives_no_rows_of_the_loss(self, stopped: Classifier) -> None:
        pairs = as_pairs(stopped, smooth(*SIZE), (0.5,))
        run = {"scales": (0.5,), "steps": 3, "weight_decay": 0.0, **FAST}
        maps, taken = rib_maps(stopped, pairs, SIZE, LABELS, [], **run)
        assert taken == 3
        torch.testing.assert_close(maps, cam(stopped, pairs, LABELS), rtol=0, atol=1e-5)

    def test_it_stops_when_the_pooled_logits_are_too_large(self, stopped: Classifier) -> None:
        pairs = as_pairs(stopped, smooth(*SIZE), (1.0,))
        for limit, expected in ((0.0, 1), (float("inf"), 3)):
            run = {"scales": (1.0,), "steps": 3, "limit": limit, **FAST}
            assert rib_maps(stopped, pairs, SIZE, LABELS, [None] * 3, **run)[1] == expected

    def test_an_image_without_labels_has_no_maps(self, stopped: Classifier) -> None:
        maps, taken = rib_maps(stopped, as_pairs(stopped, smooth(*SIZE), (1.0,)), SIZE, [], [], scales=(1.0,))
        assert (maps.shape, maps.dtype, taken) == ((0, *SIZE), torch.float64, 0)

    def test_a_class_without_a_positive_pixel_has_a_map_of_zeros(self, stopped: Classifier) -> None:
        no_positive_pixel(stopped, 3)
        pairs = as_pairs(stopped, smooth(*SIZE), RIB_SCALES)
        maps, _ = rib_maps(stopped, pairs, SIZE, LABELS, [None] * 2, scales=RIB_SCALES, steps=2, **FAST)
        assert maps[0].max() > 0.9
        assert (maps[1] == 0).all()

    def test_a_data_set_of_one_class_works(self) -> None:
        network = classifier(1, "layer2")
        pairs = as_pairs(network, smooth(*SIZE), (1.0,))
        maps, taken = rib_maps(network, pairs, SIZE, [1], [], scales=(1.0,), steps=2, coverage=1.0)
        assert taken == 2
        assert maps.isfinite().all()

    def test_pooling_everything_is_the_mean(self) -> None:
        logits_BNhw = torch.randn(3, 80, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        assert (logits_BNhw.amax(dim=(2, 3)) > 0).all()
        torch.testing.assert_close(pool(logits_BNhw, float("inf")), logits_BNhw.mean(dim=(2, 3)))

    def test_pooled_pixels_share_the_gradient(self) -> None:
        logits = torch.tensor([[[[1.0, 0.3, -2.0, 0.5]], [[-1.0, -2.0, -3.0, -4.0]], [[0.0, -1.0, 0.0, 0.0]]]])
        logits = logits.double().requires_grad_()
        pooled = pool(logits, 0.4)
        torch.testing.assert_close(pooled, torch.tensor([[-1.7 / 4, 0, 0]]).double())
        pooled.sum().backward()
        assert logits.grad.tolist() == [[[[0, 0.25, 0.25, 0]], [[0] * 4], [[0] * 4]]]

    def test_each_row_has_its_own_maximum(self) -> None:
        mirror_only = torch.tensor([[[[-1.0, -2.0]]], [[[2.0, 0.5]]]], dtype=torch.float64)
        assert pool(mirror_only, 0.4).tolist() == [[0.0], [0.25]]

    def test_the_last_of_80_classes_is_pooled_like_the_first(self) -> None:
        logits = torch.randn(1, 80, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        torch.testing.assert_close(pool(logits.flip(1), 0.5).flip(1), pool(logits, 0.5), rtol=0, atol=0)

    def test_coverage_is_of_the_union(self) -> None:
        maps_Khw = torch.tensor([[[10.0, 3.1, 3.0, 0.0]], [[0.1, 0.0, 0.0, 1.0]], [[0.0] * 4]], dtype=torch.float64)
        assert share_covered(maps_Khw) == 0.75
        assert share_covered(maps_Khw[2:]) == 0

    def test_the_first_step_of_the_classifier_has_a_closed_form(self, stopped: Classifier) -> None:
        image_BCHW, y_BN = crops(5)
        before = state(stopped)
        with torch.no_grad():
            features_BChw = stopped.features(image_BCHW)
            logits_BNhw = stopped.classifier(features_BChw)
            top = logits_BNhw.amax(dim=(2, 3), keepdim=True)
            mask_BNhw = ((logits_BNhw / top < 0.4) & (top > 0)).double()
            pooled_NC = torch.einsum("bn,bchw,bnhw->nc", y_BN, features_BChw, mask_BNhw) / logits_BNhw[0, 0].numel()
        loss = -(pool(stopped.classifier(stopped.features(image_BCHW)), 0.4) * y_BN).sum()
        descend(stopped, loss, 1e-3, 1e-2, 1e-4)
        old_NC = before["classifier.weight"][:, :, 0, 0]
        expected = old_NC + 1e-2 * (pooled_NC - 1e-4 * old_NC)
        torch.testing.assert_close(stopped.classifier.weight.detach()[:, :, 0, 0], expected, rtol=0, atol=1e-13)
        for name, value in stopped.state_dict().items():
            trained = name.startswith(("backbone.layer3", "backbone.layer4", "classifier")) and "running" not in name
            assert torch.equal(value, before[name]) != (trained and "num_batches" not in name), name


class TestAdvcam:
    def closed(self, logits_2hw: Tensor, row_C: Tensor) -> Tensor:
        """The closed formula of r_image + flip(r_mirror) for a linear head."""
        counts_2 = (logits_2hw.detach() > 0).sum(dim=(1, 2))
        if counts_2.sum() == 0:
            return 0 * logits_2hw[0]
        image, mirror = F.relu(logits_2hw) * (counts_2.double() / (counts_2.sum() * (row_C > 0).sum()))[:, None, None]
        return image + mirror.flip(1)

    def weighted_cam(self, network: Classifier, pairs: Sequence[Tensor], *times: int) -> Tensor:
        """CAM within the weights of the two sides, of the sum of so many maps at each scale."""
        maps = []
        for label in LABELS:
            row_C = network.classifier.weight.detach()[label - 1, :, 0, 0]
            each = [upsampled(self.closed(logits_of(network, pair)[:, label - 1], row_C)) for pair in pairs]
            total_HW = sum(n * map_HW for n, map_HW in zip(times, each, strict=True))
            maps.append(total_HW / (total_HW.max() + 1e-5))
        return torch.stack(maps)

    def test_grad_cam_is_the_closed_formula_in_value_and_gradient(self, open_: Classifier) -> None:
        no_positive_pixel(open_, 2)
        for pair in as_pairs(open_, smooth(*SIZE), (0.5, 1.0, 1.5)):
            for position in range(COUNT):
                results = []
                for formula in (False, True):
                    x = pair.clone().requires_grad_()
                    features = open_.features(x)
                    logits = open_.classifier(features)
                    row_C = open_.classifier.weight.detach()[position, :, 0, 0]
                    map_hw = (
                        self.closed(logits[:, position], row_C) if formula else grad_cam(features, logits, position)
                    )
                    spread = torch.linspace(1, 2, map_hw.numel(), dtype=torch.float64).view(map_hw.shape)
                    (gradient,) = torch.autograd.grad((map_hw * spread).sum(), x)
                    results.append((map_hw.detach(), gradient))
                (literal, slope), (expected, expected_slope) = results
                assert (literal.max() == 0) == (position == 1)
                torch.testing.assert_close(literal, expected, rtol=1e-9, atol=1e-14)
                torch.testing.assert_close(slope, expected_slope, rtol=1e-7, atol=1e-13)

    def test_grad_cam_of_a_class_in_the_mirror_image_only(self) -> None:
        row_C = torch.tensor([1.0, -1.0, 2.0], dtype=torch.float64)
        features = torch.zeros(2, 3, 1, 2, dtype=torch.float64)
        features[0, 1] = 1  # the image: logits −1, −1
        features[1, :, 0, 1] = torch.tensor([1.0, 0, 1])  # the mirror image: logits 0, 3
        features.requires_grad_()
        logits = torch.einsum("c,bchw->bhw", row_C, features)[:, None]
        # One positive pixel with two positive entries; weights row / 2.
        assert grad_cam(features, logits, 0).tolist() == [[1.5, 0.0]]

    def test_one_step_is_cam_within_the_weights_of_the_two_sides(self, open_: Classifier) -> None:
        pairs = as_pairs(open_, smooth(*SIZE), ADVCAM_SCALES)
        maps = advcam_maps(open_, pairs, SIZE, LABELS, scales=ADVCAM_SCALES, steps=1)
        assert maps.shape == (2, *SIZE)
        torch.testing.assert_close(maps, self.weighted_cam(open_, pairs, 1, 1), rtol=0, atol=1e-12)
        correlation = torch.corrcoef(torch.stack([maps.flatten(), cam(open_, pairs, LABELS).flatten()]))
        assert correlation[0, 1] > 0.95

    def test_a_still_image_is_cam_within_the_weights_of_the_two_sides(self, open_: Classifier) -> None:
        pairs = as_pairs(open_, smooth(*SIZE), ADVCAM_SCALES)
        run = {"scales": ADVCAM_SCALES, "step_size": 0.0}
        maps = advcam_maps(open_, pairs, SIZE, LABELS, steps=3, **run)
        torch.testing.assert_close(maps, self.weighted_cam(open_, pairs, 3, 3), rtol=0, atol=1e-12)
        # Divided by their numbers of steps, scales count the same although these differ.
        equal = advcam_maps(open_, pairs, SIZE, LABELS, steps=7, equal_weights=True, **run)
        torch.testing.assert_close(equal, self.weighted_cam(open_, pairs, 1, 1), rtol=0, atol=1e-12)
        # As published, the factor 2 is on every scale.
        for steps, times in ((7, (5, 7)), (11, (10, 22))):
            maps = advcam_maps(open_, pairs, SIZE, LABELS, steps=steps, **run)
            torch.testing.assert_close(maps, self.weighted_cam(open_, pairs, *times), rtol=0, atol=1e-12)
            assert (maps - equal).abs().max() > 1e-3

    def test_steps_change_the_maps_and_leave_the_network_as_it_was(self, open_: Classifier) -> None:
        for parameter in open_.parameters():
            parameter.grad = torch.ones_like(parameter)
        before = state(open_)
        pairs = as_pairs(open_, smooth(*SIZE), (1.0,))
        originals = [pair.clone() for pair in pairs]
        maps = advcam_maps(open_, pairs, SIZE, LABELS, scales=(1.0,), steps=5)
        assert (maps - self.weighted_cam(open_, pairs, 1)).abs().max() > 0.01
        assert 0 <= maps.min() <= maps.max() <= 1
        assert same(open_, before)
        assert all((parameter.grad == 1).all() and parameter.requires_grad for parameter in open_.parameters())
        assert all(torch.equal(pair, original) for pair, original in zip(pairs, originals, strict=True))
        assert torch.equal(maps, advcam_maps(open_, pairs, SIZE, LABELS, scales=(1.0,), steps=5))

    def test_the_first_step_does_not_depend_on_the_penalty(self, open_: Classifier) -> None:
        pairs = as_pairs(open_, smooth(*SIZE), (1.0,))
        for steps, equal in ((2, True), (3, False)):
            maps = [
                advcam_maps(open_, pairs, SIZE, LABELS, scales=(1.0,), steps=steps, penalty=penalty)
                for penalty in (0.0, 700.0)
            ]
            assert torch.equal(*maps) == equal

    def test_a_penalty_holds_the_map_where_it_is_high(self, open_: Classifier) -> None:
        (pair,) = as_pairs(open_, smooth(*SIZE), (1.0,))
        changes = []
        for penalty in (0.0, 700.0):
            maps_hw, _ = climb(open_, pair, 1, steps=6, step_size=0.02, penalty=penalty, region=0.5)
            high = maps_hw[-1] > 0.5 * maps_hw[-1].max()
            changes.append((high * (maps_hw[-1] - maps_hw[0]).abs()).sum())
        assert changes[1] < 0.5 * changes[0]

    def test_a_step_has_the_size_asked_for_and_stays_in_the_range_of_the_pair(self, open_: Classifier) -> None:
        (pair,) = as_pairs(open_, smooth(*SIZE), (1.0,))
        _, inputs = climb(open_, pair, 3, steps=4, step_size=0.08, penalty=7.0, region=0.5)
        assert len(inputs) == 5
        for x, moved in itertools.pairwise(inputs):
            free = (moved > x.min()) & (moved < x.max())
            assert (moved - x).abs().max() <= 0.08 + 1e-12
            if (moved - x).abs()[free].max() < 0.08 - 1e-9:  # the pixel of the largest gradient was clamped
                assert not free.all()
            assert x.min() <= moved.min() <= moved.max() <= x.max()
        # The image is moved by the gradient's direction in both of the pair.
        assert all((inputs[1][side] != pair[side]).any() for side in (0, 1))
        _, (x, moved) = climb(open_, pair, 3, steps=1, step_size=1e-4, penalty=7.0, region=0.5)
        assert (moved - x).abs().max().item() == pytest.approx(1e-4, rel=1e-6)

    def test_the_path_is_that_of_the_closed_formula(self, open_: Classifier) -> None:
        """Steps so large that values meet the bounds, also after these have shrunk."""
        source = torch.Generator().manual_seed(3)
        image_BCHW = torch.randn(1, 3, *SIZE, generator=source, dtype=torch.float64)
        pair = torch.cat([image_BCHW, image_BCHW.flip(3)])
        row_C = open_.classifier.weight.detach()[2, :, 0, 0]
        _, inputs = climb(open_, pair, 3, steps=4, step_size=3.0, penalty=70.0, region=0.4)
        assert inputs[1].max() < pair.max()
        assert (inputs[2] == inputs[1].max()).sum() > 1
        x, first_hw = pair, None
        for expected in inputs[1:]:
            x = x.detach().requires_grad_()
            logits_2Nhw = open_.classifier(open_.features(x))
            map_hw = self.closed(logits_2Nhw[:, 2], row_C)
            first_hw = map_hw.detach() if first_hw is None else first_hw
            signs_N = torch.tensor([-1.0, -1, 1, -1], dtype=torch.float64)
            height = (F.relu(logits_2Nhw).mean(dim=(2, 3)).sum(0) * signs_N).sum()
            change = (map_hw - first_hw).abs()[map_hw > 0.4 * map_hw.max()].sum()
            (gradient,) = torch.autograd.grad(height - 70 * change, x)
            x = torch.clamp(x + 3 * gradient / gradient.abs().max(), x.min().item(), x.max().item())
            torch.testing.assert_close(x.detach(), expected, rtol=0, atol=1e-8)

    def test_small_steps_climb(self, open_: Classifier) -> None:
        (pair,) = as_pairs(open_, smooth(*SIZE), (1.0,))
        _, inputs = climb(open_, pair, 1, steps=5, step_size=1e-4, penalty=0.0, region=0.5)
        heights = []
        for x in inputs:
            scores_N = F.relu(logits_of(open_, x)).mean(dim=(2, 3)).sum(0)
            heights.append((2 * scores_N[0] - scores_N.sum()).item())
        assert heights == sorted(set(heights))

    def test_classes_do_not_know_of_each_other(self, open_: Classifier) -> None:
        no_positive_pixel(open_, 2)
        pairs = as_pairs(open_, smooth(*SIZE), (1.0,))
        run = {"scales": (1.0,), "steps": 3}
        maps = advcam_maps(open_, pairs, SIZE, [2, 3], **run)
        assert (maps[0] == 0).all()
        assert maps[1].max() > 0.9
        assert torch.equal(maps, torch.cat([advcam_maps(open_, pairs, SIZE, [label], **run) for label in (2, 3)]))

    def test_a_symmetric_image_gives_symmetric_maps(self, open_: Classifier) -> None:
        size = (32, 48)  # whole cells of the grid
        half = smooth(32, 24)
        pairs = as_pairs(open_, np.concatenate([half, half[:, ::-1]], axis=1), (1.0,))
        maps = advcam_maps(open_, pairs, size, LABELS, scales=(1.0,), steps=3)
        torch.testing.assert_close(maps, maps.flip(2), rtol=0, atol=1e-9)

    def test_an_image_without_labels_has_no_maps(self, open_: Classifier) -> None:
        maps = advcam_maps(open_, as_pairs(open_, smooth(*SIZE), (1.0,)), SIZE, [], scales=(1.0,))
        assert (maps.shape, maps.dtype) == ((0, *SIZE), torch.float64)

    @pytest.mark.parametrize(("steps", "at_half", "times"), [(5, 5, 1), (6, 5, 1), (10, 5, 1), (11, 5, 2), (27, 13, 2)])
    def test_scale_one_half_has_fewer_steps(self, steps: int, at_half: int, times: int) -> None:
        assert (steps_at(0.5, steps), steps_at(1.0, steps)) == (at_half, steps)
        assert (factor((0.5, 1.0), steps), factor((1.0,), steps)) == (times, 1)
