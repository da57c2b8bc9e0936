"""The classifier: where its gradient stops, its activation, and its way through the store."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from amn_ray.core.artifacts import MODEL, Store
from amn_ray.nn.classifier import Classifier, load_classifier
from amn_ray.nn.config import LAYERS, BackboneConfig
from amn_ray.nn.weights import to_bytes

SMALL = BackboneConfig(name="resnet18", weights=None)


@pytest.mark.parametrize("detach_after", [None, *LAYERS])
def test_the_gradient_stops_after_the_named_layer(detach_after: str | None) -> None:
    net = Classifier(SMALL, 4, detach_after).train()
    net(torch.randn(2, 3, 64, 64)).sum().backward()
    touched = {name.split(".")[1] for name, p in net.backbone.named_parameters(prefix="b") if p.grad is not None}
    trainable = {name.split(".")[1] for name, p in net.backbone.named_parameters(prefix="b") if p.requires_grad}
    later = {None: {"stem", *LAYERS}} | {layer: set(LAYERS[i + 1 :]) for i, layer in enumerate(LAYERS)}
    assert touched == trainable == later[detach_after]
    assert net.classifier.weight.grad is not None


def test_logits_are_the_mean_of_what_the_activation_cuts_off_below_zero() -> None:
    torch.manual_seed(0)
    net = Classifier(SMALL, 4, "layer2").eval()
    image = torch.randn(2, 3, 48, 64)
    feature = net.backbone(image)
    score = torch.einsum("nc,bchw->bnhw", net.classifier.weight[:, :, 0, 0], feature)
    torch.testing.assert_close(net.activation(image), F.relu(score), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(net(image), score.mean((2, 3)), rtol=1e-4, atol=1e-4)


def test_a_stored_classifier_comes_back_as_it_was_trained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = {"backbone": asdict(BackboneConfig(name="resnet34", weights="given", batchnorm="batch")), "crop": 64}
    trained = Classifier(BackboneConfig(name="resnet34", weights=None), 3, "layer1").eval()
    weights = Store.open(str(tmp_path)).artifact("classifier", 1, {}, {})
    weights.write(MODEL, to_bytes(trained, {})[0])
    weights.commit(config=config | {"detach_after": "layer1"}, inputs={}, code={}, seconds=0, result={})
    loaded = load_classifier(weights, 3)
    assert not loaded.training
    assert loaded.detach_after == "layer1"
    assert not loaded.backbone.running_statistics
    image = torch.randn(1, 3, 40, 40)
    torch.testing.assert_close(loaded(image), trained(image))
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in trained.state_dict().items())
