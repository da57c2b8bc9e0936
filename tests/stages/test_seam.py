"""SEAM against its steps written one after the other, and against what must hold of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from amn_ray.nn.config import BackboneConfig
from amn_ray.nn.multiscale import scaled
from amn_ray.stages.seam import correlation, loss
from amn_ray.stages.seam.config import SeamNetworkConfig
from amn_ray.stages.seam.correlation import competing, spread
from amn_ray.stages.seam.loss import max_norm, one_hot, seam_losses
from amn_ray.stages.seam.model import SeamNet, seam_maps
from amn_ray.stages.seam.train import batch_loss, optimisation
from tests.stages.literal import seam as literal
from tests.stages.literal.networks import COUNT, CPU, SIZE, as_pairs, classifier, smooth

BACKBONE = BackboneConfig(name="timm/test_resnet")  # whose weights would be given, so its stem is frozen
IMAGES = [smooth(*SIZE, seed) for seed in range(3)]
KEYS = [[1, 3], [2], [4]]
SCALES = [0.5, 1.0, 1.5, 2.0]
TARGETS = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]).double()


def config(**settings: Any) -> SeamNetworkConfig:
    return SeamNetworkConfig(backbone=BACKBONE, precision="fp32", crop=96, long_side=[96, 96], dropout=0.0, **settings)


def seam(settings: SeamNetworkConfig) -> SeamNet:
    """Random weights, also of BatchNorm, in float64 and eval mode."""
    torch.manual_seed(0)
    made = SeamNet(settings, COUNT).double()
    made.backbone.load_state_dict(classifier(COUNT, None).backbone.state_dict())
    with torch.no_grad():
        made.classifier.weight *= 3
    return made.eval()


def parts(model: SeamNet) -> list[Tensor]:
    """Copies of the weights as the steps take them: head, f8_3, f8_4, f9."""
    module = model.correlation
    layers = (model.classifier, module.from_layer2, module.from_layer3, module.together)
    return [layer.weight.detach().flatten(1).clone() for layer in layers]


def crops(count: int, seed: int = 0) -> Tensor:
    return torch.cat([scaled([smooth(96, 96, seed + n)], 1, seam(config()).backbone, CPU) for n in range(count)])


def maps(settings: SeamNetworkConfig, images=IMAGES, keys=KEYS, scales=SCALES) -> list[np.ndarray]:
    return seam_maps(seam(settings), images, keys, scales=scales, precision="fp32", device=CPU)


@pytest.mark.parametrize("present_only", [False, True])
def test_maps_are_those_of_the_steps(present_only: bool) -> None:
    settings = config(present_only=present_only)
    model = seam(settings)
    for image, labels, found in zip(IMAGES, KEYS, maps(settings), strict=True):
        pairs = as_pairs(classifier(COUNT, None), image, SCALES)
        expected = literal.seam_maps(
            model.backbone, *parts(model), pairs, SIZE, labels, known_labels=present_only, stored=True
        )
        assert expected.max() > 0.9
        assert np.abs(found - expected.numpy()).max() < 1e-9


@pytest.mark.parametrize("present_only", [False, True])
def test_losses_and_their_gradients_are_those_of_the_steps(present_only: bool) -> None:
    model = seam(config(present_only=present_only))
    images = crops(3)
    found = model(images, TARGETS)
    weights = [weight.requires_grad_() for weight in parts(model)]
    expected = literal.losses(model.backbone, *weights, images, TARGETS, view_factor=0.3, known_labels=present_only)
    assert torch.allclose(torch.stack(found), torch.stack(expected), rtol=1e-10)
    assert min(expected) > 1e-3, "each says something"
    sum(found).backward()
    gradients = torch.autograd.grad(sum(expected), weights)
    module = model.correlation
    layers = (model.classifier, module.from_layer2, module.from_layer3, module.together)
    for layer, gradient in zip(layers, gradients, strict=True):
        assert torch.allclose(layer.weight.grad.flatten(1), gradient, atol=1e-10)
        assert gradient.norm() > 1e-6


def test_three_steps_are_those_written_one_after_the_other() -> None:
    settings = config(lr=0.02, lr_head=0.2)
    model, other = seam(settings), seam(settings)
    weights = parts(model)
    batches = [(crops(2, 10 * step), TARGETS[[step % 3, 1]]) for step in range(3)]
    optimizer, schedule = optimisation(model, settings, len(batches))
    for images, targets in batches:
        optimizer.zero_grad()
        sum(model(images, targets)).backward()
        optimizer.step()
        schedule.step()
    literal.train(other.backbone, *weights, batches, lr=0.02)
    for found, expected in zip(parts(model), weights, strict=True):
        assert torch.allclose(found, expected, atol=1e-9)
    states = model.backbone.state_dict(), other.backbone.state_dict(), seam(settings).backbone.state_dict()
    changed = set()
    for name, value in states[0].items():
        assert torch.allclose(value.double(), states[1][name].double(), atol=1e-9), name
        if not torch.equal(value, states[2][name]):
            changed.add(name.partition(".")[0])
    assert changed == {"layer1", "layer2", "layer3", "layer4"}, "the stem is bit-equal"
    norms = [name for name, value in states[0].items() if value.dim() == 1]
    assert all(torch.equal(states[0][name], states[2][name]) for name in norms), "and so is every BatchNorm"


def test_dropout_is_drawn_anew_for_each_view_and_only_in_training() -> None:
    settings = SeamNetworkConfig(backbone=BACKBONE, precision="fp32", crop=96, long_side=[96, 96])
    model, images = seam(settings), crops(2)
    still = [model(images, TARGETS[:2])[2].item() for _ in range(2)]
    assert still[0] == still[1]
    model.train()
    torch.manual_seed(0)
    dropped = [model(images, TARGETS[:2])[2].item() for _ in range(2)]
    assert dropped[0] != dropped[1]
    same = SeamNetworkConfig(backbone=BACKBONE, crop=96, long_side=[96, 96], view=1.0)
    views = seam(same).train()
    assert views(images, TARGETS[:2])[2] > 1e-4, "also where both views are the same image"


def test_a_batch_of_crops_has_the_loss_of_the_network() -> None:
    model = seam(config())
    rgba = np.concatenate([np.stack([smooth(96, 96, n) for n in range(2)]), np.full((2, 96, 96, 1), 255, np.uint8)], -1)
    batch = {"image": torch.from_numpy(rgba), "labels": TARGETS[:2].float()}
    single = model.float()
    expected = sum(single(model.backbone.normalise(batch["image"]), batch["labels"]))
    assert batch_loss(single, batch, config()).item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_gradient_of_a_batch_is_the_mean_of_those_of_its_halves() -> None:
    """So two workers with half of it each are one with all of it."""
    model, images = seam(config()), crops(2)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    whole, first, second = (
        torch.autograd.grad(sum(model(images[part], TARGETS[part])), trained)
        for part in (slice(0, 2), slice(0, 1), slice(1, 2))
    )
    for expected, one, other in zip(whole, first, second, strict=True):
        assert torch.allclose((one + other) / 2, expected, atol=1e-10)


def features(channels: int = 6, pixels: int = 20, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, channels, pixels, generator=generator, dtype=torch.float64)


def some_maps(pixels: int = 20) -> Tensor:
    return torch.rand(2, 3, pixels, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_pixels_with_equal_features_all_get_the_mean_of_the_map() -> None:
    found = spread(some_maps(), features()[:, :, :1].expand(-1, -1, 20))
    assert torch.allclose(found, some_maps().mean(2, keepdim=True).expand(-1, -1, 20), atol=1e-5)


def test_pixels_with_orthogonal_features_keep_their_map() -> None:
    identity = torch.eye(20, dtype=torch.float64).expand(2, -1, -1)
    assert torch.allclose(spread(some_maps(), identity), some_maps(), atol=1e-4)


def test_a_map_of_ones_stays_so_but_where_a_pixel_has_no_features() -> None:
    without = features().clone()
    without[:, :, 3] = 0
    found = spread(torch.ones_like(some_maps()), without)
    assert torch.allclose(found[:, :, [0, 1, 2, 4]], torch.ones(1, dtype=torch.float64), atol=1e-4)
    assert not found[:, :, 3].any()


def test_blocks_of_columns_change_nothing_and_pixels_may_be_permuted(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.no_grad():
        dense = spread(some_maps(), features())
        monkeypatch.setattr(correlation, "COLUMNS_AT_ONCE", 2 * 20 * 3)
        assert torch.allclose(spread(some_maps(), features()), dense, atol=1e-14)
        order = torch.randperm(20, generator=torch.Generator().manual_seed(2))
        assert torch.allclose(spread(some_maps()[..., order], features()[..., order]), dense[..., order], atol=1e-14)


def test_of_the_classes_only_the_strongest_stays_at_a_pixel() -> None:
    a = torch.tensor([0.9, 0.3, 0.1, 0.0]).view(1, 4, 1, 1)
    assert torch.allclose(one_hot(a).flatten(), torch.tensor([0.7, 0.3, 0.0, 0.0]))
    tie = torch.tensor([0.0, 0.3, 0.3, 0.1]).view(1, 4, 1, 1)
    assert torch.allclose(one_hot(tie).flatten(), torch.tensor([0.7, 0.3, 0.3, 0.0]))


def test_absent_classes_compete_unless_they_are_told_apart() -> None:
    logits = torch.zeros(1, 3, 1, 2, dtype=torch.float64)
    logits[0, 1] = torch.tensor([[1.0, 4.0]])
    logits[0, 2] = torch.tensor([[9.0, 1.0]])  # absent
    present = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    both, own = competing(logits, None)[0, :, 0], competing(logits, present)[0, :, 0]
    assert both[1, 0] == 0, "the absent class wins the first pixel"
    assert own[1, 0] == pytest.approx(0.25, abs=1e-4)
    assert not own[2].any()
    assert own[0, 0] == pytest.approx(0.75, abs=1e-4)


def test_two_equal_views_agree_and_revise_one_another_alike() -> None:
    model = seam(config(view=1.0))
    images = crops(2)
    logits, revised = model.revised(images, TARGETS[:2])
    size = (96, 96)
    parts_of_loss = seam_losses((logits, logits), (revised, revised), (size, size), TARGETS[:2])
    assert parts_of_loss[2] == 0
    half = loss.hardest((one_hot(_labelled(logits)) - _labelled(revised)).abs())
    assert parts_of_loss[3].item() == pytest.approx(2 * half.item(), rel=1e-9)
    assert torch.allclose(torch.stack(model(images, TARGETS[:2])), torch.stack(parts_of_loss), atol=1e-9)


def _labelled(logits: Tensor) -> Tensor:
    at_size = max_norm(F.interpolate(logits, (96, 96), mode="bilinear", align_corners=True))
    return at_size * F.pad(TARGETS[:2], (1, 0), value=1)[..., None, None]


def test_each_loss_reaches_its_own_weights_only() -> None:
    model = seam(config())
    classification, emptiness, agreement, revision = model(crops(2), TARGETS[:2])
    own = list(model.correlation.parameters())
    others = [p for name, p in model.named_parameters() if not name.startswith("correlation.") and p.requires_grad]
    for part, mine, not_mine in (
        (classification, others, own), (agreement, others, own), (emptiness, own, others), (revision, own, others)
    ):  # fmt: skip
        found = torch.autograd.grad(part, [*mine, *not_mine], retain_graph=True, allow_unused=True)
        assert sum(g.abs().sum() for g in found[: len(mine)] if g is not None) > 0
        assert all(g is None or not g.any() for g in found[len(mine) :])


def test_the_background_row_of_the_classifier_gets_no_gradient() -> None:
    model = seam(config())
    sum(model(crops(2), TARGETS[:2])).backward()
    assert not model.classifier.weight.grad[0].any()
    assert model.classifier.weight.grad[1:].any()


def test_a_batch_without_any_class_has_losses_all_the_same() -> None:
    found = seam(config())(crops(1), TARGETS[2:])
    assert found[1] == 0
    assert found[2] == 0
    assert all(torch.isfinite(part) for part in found)


def test_the_pooled_logits_of_the_loss_are_those_of_the_enlarged_map() -> None:
    model = seam(config())
    images = crops(2)
    logits, _ = model.revised(images, TARGETS[:2])
    enlarged = F.interpolate(logits, (96, 96), mode="bilinear", align_corners=True).mean((2, 3))[:, 1:]
    shrunk = F.interpolate(images, (28, 28), mode="bilinear", align_corners=True)
    second, _ = model.revised(shrunk, TARGETS[:2])
    second = F.interpolate(second, (28, 28), mode="bilinear", align_corners=True).mean((2, 3))[:, 1:]
    expected = [F.multilabel_soft_margin_loss(one, TARGETS[:2]) for one in (enlarged, second)]
    assert model(images, TARGETS[:2])[0].item() == pytest.approx((sum(expected) / 2).item(), rel=1e-9)
    plain = F.multilabel_soft_margin_loss(logits.mean((2, 3))[:, 1:], TARGETS[:2])
    assert abs(plain - expected[0]) > 1e-6, "corner pixels weigh less"


@pytest.mark.parametrize("off", ["emptiness", "agreement", "revision", "view", "present_only", "correlation"])
def test_each_mechanism_that_is_switched_off_alone_changes_the_maps(off: str) -> None:
    def trained(*without: int, **settings: Any) -> list[np.ndarray]:
        chosen = config(lr=0.02, lr_head=0.2, **settings)
        model = seam(chosen)
        optimizer, _ = optimisation(model, chosen, 10)
        for step in range(3):
            optimizer.zero_grad()
            found = model(crops(2, 10 * step), TARGETS[:2])
            sum(part for number, part in enumerate(found) if number not in without).backward()
            optimizer.step()
        if "correlation" in off and without == (9,):
            model.correlation.forward = lambda logits, *_: F.relu(logits)  # type: ignore[method-assign]
        return seam_maps(model, IMAGES, KEYS, scales=[1.0], precision="fp32", device=CPU)

    published = trained()
    other = {
        "emptiness": lambda: trained(1),
        "agreement": lambda: trained(2),
        "revision": lambda: trained(3),
        "view": lambda: trained(view=0.6),
        "present_only": lambda: trained(present_only=True),
        "correlation": lambda: trained(9),
    }[off]()
    change = max(np.abs(a - b).max() for a, b in zip(published, other, strict=True))
    print(f"{off}: {change:.4f} of the maximum")
    assert change > 1e-4


def test_maps_of_images_together_are_those_of_each_alone_and_of_no_label_empty() -> None:
    together = maps(config(), keys=[[1, 3], [2], [4]], scales=[1.0])
    for image, labels, expected in zip(IMAGES, KEYS, together, strict=True):
        (alone,) = maps(config(), [image], [labels], [1.0])
        assert np.abs(alone - expected).max() < 1e-9
        assert expected.min() >= 0
        assert expected.max() <= 1
    (empty,) = maps(config(), IMAGES[:1], [[]], [1.0])
    assert empty.shape == (0, SIZE[0] // 4, SIZE[1] // 4)


def test_a_crop_that_is_smaller_than_the_second_view_allows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"crop=48: the second view, 0.3 of it, would be smaller than .* 16 pixels"):
        SeamNetworkConfig(crop=48)
    with pytest.raises(ValueError, match="view"):
        SeamNetworkConfig(view=1.5)
    SeamNetworkConfig(crop=54)
