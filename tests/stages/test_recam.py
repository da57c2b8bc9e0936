"""ReCAM against its steps written one after the other, and against what must hold of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from amn_ray.nn.class_activation import cam_maps
from amn_ray.nn.config import BackboneConfig
from amn_ray.nn.weights import to_bytes
from amn_ray.stages.recam.config import RecamNetworkConfig
from amn_ray.stages.recam.loss import recam_losses
from amn_ray.stages.recam.model import RecamNet
from amn_ray.stages.recam.train import batch_loss, network, optimisation
from tests.stages.literal import recam as literal
from tests.stages.literal.networks import COUNT, CPU, SIZE, as_pairs, at_stride_4, classifier, smooth

BACKBONE = BackboneConfig(name="timm/test_resnet", weights=None)
IMAGES = [smooth(*SIZE, seed) for seed in range(3)]
KEYS = [[1, 3], [2], [4]]
TARGETS = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]).double()


def config(**settings: object) -> RecamNetworkConfig:
    return RecamNetworkConfig(backbone=BACKBONE, precision="fp32", seed=0, **settings)  # type: ignore[arg-type]


def recam(settings: RecamNetworkConfig) -> RecamNet:
    """In float64, from a classifier's weights."""
    torch.manual_seed(0)
    start, _ = to_bytes(classifier(COUNT, None), {})
    made = RecamNet(BACKBONE, COUNT).double()
    made.start_from(start)
    return made.eval()


def batch(seed: int) -> dict[str, Tensor]:
    images = np.stack([smooth(48, 48, seed + n) for n in range(3)])
    rgba = np.concatenate([images, np.full((*images.shape[:3], 1), 255, np.uint8)], -1)
    return {"image": torch.from_numpy(rgba), "labels": TARGETS}


def test_four_steps_are_those_written_one_after_the_other() -> None:
    settings = config(lr_backbone=1e-3, lr_head=1e-2, weight=0.7)
    model = recam(settings)
    other, head = classifier(COUNT, None), model.recam.weight.detach().clone()
    optimizer, schedule = optimisation(model, settings, 4)
    batches = [batch(10 * step) for step in range(4)]
    for one in batches:
        optimizer.zero_grad()
        classification, reactivation = model(model.backbone.normalise(one["image"]).double(), one["labels"])
        (classification + settings.weight * reactivation).backward()
        optimizer.step()
        schedule.step()
    normalised = [(other.backbone.normalise(one["image"]).double(), one["labels"]) for one in batches]
    literal.train(other, head, normalised, weight=0.7, lr_backbone=1e-3, lr_head=1e-2)
    assert torch.allclose(model.recam.weight, head, atol=1e-10)
    assert torch.allclose(model.classifier.weight, other.classifier.weight, atol=1e-10)
    states = model.backbone.state_dict(), other.backbone.state_dict()
    assert all(torch.allclose(value, states[1][name], atol=1e-10) for name, value in states[0].items())
    before = classifier(COUNT, None).backbone.state_dict()
    changed = {name.partition(".")[0] for name, value in states[0].items() if not torch.equal(value, before[name])}
    assert changed == {"layer1", "layer2", "layer3", "layer4"}, "the stem is bit-equal"


def test_the_loss_of_training_is_that_of_the_network_in_its_precision() -> None:
    settings = config()
    model = recam(settings).float()
    one = batch(0) | {"labels": TARGETS.float()}
    image = model.backbone.normalise(one["image"])
    features = model.backbone(image)
    parts = recam_losses(features, model.classifier.weight.flatten(1), model.recam.weight, one["labels"])
    assert batch_loss(model, one, settings).item() == pytest.approx((parts[0] + parts[1]).item(), rel=1e-5)
    assert batch_loss(model, one, config(weight=0.0)).item() == pytest.approx(parts[0].item(), rel=1e-5)


@pytest.mark.parametrize("product", [True, False])
def test_maps_are_cams_with_both_classifiers_or_with_the_further_trained_one(product: bool) -> None:
    model = recam(config())
    cam = classifier(COUNT, None)
    made = cam_maps(model.as_classifier(BACKBONE, product=product).double(), IMAGES, KEYS,
                    scales=[1.0, 0.5], precision="fp32", device=CPU)  # fmt: skip
    head = model.recam.weight.detach()
    for image, labels, maps_Khw in zip(IMAGES, KEYS, made, strict=True):
        expected = literal.recam_maps(cam, head, as_pairs(cam, image, [1.0, 0.5]), SIZE, labels, product=product)
        assert np.abs(maps_Khw - at_stride_4(expected)).max() < 1e-9
    plain = cam_maps(cam, IMAGES, KEYS, scales=[1.0, 0.5], precision="fp32", device=CPU)
    change = max(np.abs(a - b).max() for a, b in zip(made, plain, strict=True))
    print(f"product={product}: {change:.3f} from CAM")
    assert change > 0.1 if product else change < 1e-12


def tensors(count: int = COUNT) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(2, 8, 3, 4, generator=generator, dtype=torch.float64)
    weights = (torch.randn(count, 8, generator=generator, dtype=torch.float64) + 1).requires_grad_()
    head = torch.randn(count, 8, generator=generator, dtype=torch.float64).requires_grad_()
    return features, weights, head


def test_the_gradient_of_the_new_classifier_is_that_of_softmax_in_closed_form() -> None:
    features, weights, head = tensors()
    targets = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 0]]).double()
    _, entropy = recam_losses(features, weights, head, targets)
    expected = torch.zeros_like(head)
    for b, k in ((0, 0), (0, 2), (1, 1)):
        map_hw = F.relu(torch.einsum("c,chw->hw", weights[k], features[b]))
        pooled = (map_hw / (map_hw.max() + 1e-5) * features[b]).mean((1, 2))
        onehot = F.one_hot(torch.tensor(k), COUNT)
        expected += torch.outer((head @ pooled).softmax(0) - onehot, pooled) / targets[b].sum() / 2
    (gradient,) = torch.autograd.grad(entropy, head)
    assert torch.allclose(gradient, expected)


def test_the_entropy_reaches_the_map_of_each_class_that_is_there_and_no_other() -> None:
    features, weights, head = tensors()
    _, entropy = recam_losses(features, weights, head, torch.tensor([[1.0, 0, 1, 0], [1, 0, 0, 0]]).double())
    (gradient,) = torch.autograd.grad(entropy, weights)
    assert gradient[[0, 2]].abs().sum(1).min() > 1e-3
    assert not gradient[[1, 3]].any()
    scale = (weights * gradient).sum(1)
    assert scale.abs().max() < 1e-3 * gradient.abs().max(), "a map that is divided by its maximum has no scale"


def test_an_image_without_a_class_counts_in_the_batch_and_adds_nothing() -> None:
    features, weights, head = tensors()
    one = recam_losses(features[:1], weights, head, torch.tensor([[1.0, 0, 0, 0]]).double())[1]
    both = recam_losses(features, weights, head, torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]]).double())[1]
    assert both.item() == pytest.approx(one.item() / 2)
    none = recam_losses(features, weights, head, torch.zeros(2, COUNT).double())[1]
    assert none.item() == 0
    none.backward()


def test_two_workers_with_half_of_a_batch_each_have_the_loss_of_one() -> None:
    features, weights, head = tensors()
    targets = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0]]).double()
    halves = [recam_losses(features[n : n + 1], weights, head, targets[n : n + 1]) for n in range(2)]
    for part, whole in enumerate(recam_losses(features, weights, head, targets)):
        assert (halves[0][part] + halves[1][part]).item() / 2 == pytest.approx(whole.item())


def test_the_weights_of_another_network_are_not_taken_over_in_part() -> None:
    model = RecamNet(BACKBONE, COUNT)
    state, _ = to_bytes(classifier(COUNT, None).float().backbone, {})
    with pytest.raises(RuntimeError, match="Missing key"):
        model.start_from(state)


def test_making_a_classifier_of_it_leaves_the_network_as_it_is() -> None:
    model = recam(config())
    before = model.classifier.weight.clone()
    model.as_classifier(BACKBONE, product=True)
    assert torch.equal(model.classifier.weight, before)


def test_with_one_class_there_is_nothing_to_tell_apart() -> None:
    features, weights, head = tensors(1)
    assert recam_losses(features, weights, head, torch.ones(2, 1).double())[1].item() == pytest.approx(0)


def test_training_starts_from_the_classifier_and_a_new_one_drawn_by_the_seed() -> None:
    start, _ = to_bytes(classifier(COUNT, None).float(), {})
    torch.manual_seed(1)
    one = network(config(), COUNT, start)
    torch.manual_seed(2)
    other = network(config(), COUNT, start)
    assert torch.equal(one.classifier.weight, other.classifier.weight)
    assert torch.equal(one.classifier.weight, classifier(COUNT, None).float().classifier.weight)
    assert not torch.equal(one.recam.weight, other.recam.weight)
    bound = one.recam.in_features**-0.5
    assert one.recam.weight.abs().max() <= bound
