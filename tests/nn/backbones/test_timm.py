"""timm's networks as backbones, against timm itself. The networks have random weights; nothing is downloaded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn
from torch.nn.functional import pad

from amn_ray.nn.backbones.backbone import LEVELS
from amn_ray.nn.backbones.registry import build_backbone
from amn_ray.nn.backbones.resnet import ResNet
from amn_ray.nn.backbones.timm import TimmNetwork
from amn_ray.nn.classifier import Classifier
from amn_ray.nn.config import LAYERS, BackboneConfig
from amn_ray.nn.weights import backbone_state, load_backbone, to_bytes
from tests.nn.backbones.steps import STAGES

SMALL = ["timm/test_convnext", "timm/mobilenetv3_small_050"]
"""One that rounds its grids down, without BatchNorm, and one that rounds them up, with it; stems of stride 4 and 2."""
CHAINS = [*SMALL, "timm/test_efficientnet", "timm/resnet18", "timm/regnety_002"]


def config(name: str, weights: Path | str | None = None, batchnorm: str = "batch") -> BackboneConfig:
    return BackboneConfig(name=name, weights=None if weights is None else str(weights), batchnorm=batchnorm)


def published(name: str) -> nn.Module:
    """timm's whole network, head and all, with statistics of BatchNorm that say something."""
    torch.manual_seed(1)
    network = timm.create_model(name.removeprefix("timm/"))
    with torch.no_grad():
        network.train()(torch.randn(4, 3, 64, 64))
    return network.eval()


@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize("name", CHAINS)
def test_features_are_timms(name: str, output_stride: int) -> None:
    state = published(name).state_dict()
    ours = build_backbone(config(name), output_stride).eval()
    ours.load(state)
    theirs = timm.create_model(name.removeprefix("timm/"), features_only=True, output_stride=output_stride).eval()
    flat = {key.replace(".", "_"): value for key, value in state.items()}
    theirs.load_state_dict({key: flat[key.replace(".", "_")] for key in theirs.state_dict()})
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        features, expected = ours.features(image), theirs(image)[-4:]
    assert list(features) == list(ours.channels) == list(ours.strides) == list(LEVELS)
    assert all(torch.equal(features[layer], feature) for layer, feature in zip(LAYERS, expected, strict=True))
    assert ours.strides["layer4"] == output_stride
    for level, feature in features.items():
        stride = ours.strides[level]
        assert feature.shape == (2, ours.channels[level], 64 // stride, 96 // stride)


@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("size", [(1, 1), (17, 31), (33, 50)])
def test_grids_are_rounded_up_for_images_of_any_size(name: str, output_stride: int, size: tuple[int, int]) -> None:
    net = build_backbone(config(name), output_stride).eval()
    with torch.no_grad():
        features = net.features(torch.randn(1, 3, *size))
    for level, feature in features.items():
        grid = [-(-extent // net.strides[level]) for extent in size]
        assert all(there >= needed for there, needed in zip(feature.shape[-2:], grid, strict=True))
        assert level != "layer4" or list(feature.shape[-2:]) == grid


def test_images_are_padded_only_for_networks_that_would_round_down() -> None:
    image = torch.randn(1, 3, 33, 50)
    rounds_down, rounds_up = (build_backbone(config(name), 16).eval() for name in SMALL)
    with torch.no_grad():
        assert torch.equal(rounds_down(image), rounds_down(pad(image, (0, 14, 0, 15))))
        whole = timm.create_model("mobilenetv3_small_050", features_only=True, output_stride=16).eval()
        flat = {key.partition(".")[2].replace(".", "_"): value for key, value in rounds_up.state_dict().items()}
        whole.load_state_dict({key: flat[key.replace(".", "_")] for key in whole.state_dict()})
        assert torch.equal(rounds_up(image), whole(image)[-1])


def test_its_resnet_is_torchvisions_but_for_dilation() -> None:
    state = torchvision.models.resnet18(weights=None).state_dict()
    theirs, ours = build_backbone(config("timm/resnet18"), 16).eval(), ResNet(config("resnet18")).eval()
    theirs.load(state)
    ours.load(state)
    assert (theirs.channels, theirs.strides) == (ours.channels, ours.strides)
    image = torch.randn(1, 3, 49, 65)
    with torch.no_grad():
        found, expected = theirs.features(image), ours.features(image)
    for level in LEVELS[:-1]:
        torch.testing.assert_close(found[level], expected[level])


def test_what_follows_a_level_goes_on_to_the_next_one() -> None:
    net = build_backbone(config(SMALL[1]), 16).eval()
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        cut = net(image, lambda level, out: torch.zeros_like(out) if level == "layer2" else out)
        expected = net.layer4(net.layer3(torch.zeros(1, net.channels["layer2"], 4, 4)))
    assert torch.equal(cut, expected)


@pytest.mark.parametrize("until", LEVELS)
@pytest.mark.parametrize("name", SMALL)
def test_freezing_ends_with_the_named_level(name: str, until: str) -> None:
    net = build_backbone(config(name), 16)
    assert all(p.requires_grad for p in net.parameters())
    net.freeze(until)
    frozen = {key.partition(".")[0] for key, p in net.named_parameters() if not p.requires_grad}
    training = {key.partition(".")[0] for key, p in net.named_parameters() if p.requires_grad}
    last = LEVELS.index(until) + 1
    assert (frozen, training) == (set(LEVELS[:last]), set(LEVELS[last:]))


def test_with_weights_the_stem_is_frozen_and_batchnorm_keeps_its_statistics() -> None:
    net = build_backbone(config(SMALL[1], "given", batchnorm="running"), 16).train()
    assert {key.partition(".")[0] for key, p in net.named_parameters() if not p.requires_grad} == {"stem"}
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    fresh = build_backbone(config(SMALL[1]), 16).train()
    assert all(module.training for module in fresh.modules())


def test_images_are_normalised_as_the_network_was_trained() -> None:
    for name in ("timm/tf_mobilenetv3_small_minimal_100", SMALL[1]):
        data = timm.data.resolve_data_config({}, model=timm.create_model(name.removeprefix("timm/")))
        rgba = torch.tensor([[[[255, 128, 0, 255], [9, 9, 9, 0]]]], dtype=torch.uint8)
        out = TimmNetwork(name, 16).normalise(rgba)
        for channel, (value, mean, std) in enumerate(zip((1, 128 / 255, 0), data["mean"], data["std"], strict=True)):
            torch.testing.assert_close(out[0, channel, 0], torch.tensor([(value - mean) / std, 0.0]))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", SMALL)
def test_every_stage_trains_a_step_and_makes_its_maps(name: str, stage: str) -> None:
    torch.manual_seed(0)
    STAGES[stage](config(name))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("name", SMALL)
def test_files_in_timms_names_are_loaded(tmp_path: Path, name: str, suffix: str) -> None:
    network, path = published(name), tmp_path / f"weights.{suffix}"
    save: Any = torch.save if suffix == "pth" else safetensors.torch.save_file
    save(network.state_dict(), path)
    state = backbone_state(config(name, path))
    net = build_backbone(config(name), 16).eval()
    load_backbone(net, safetensors.torch.save(state))
    expected = {key.replace(".", "_"): value for key, value in network.state_dict().items()}
    for key, value in net.state_dict().items():
        assert torch.equal(value, expected[key.partition(".")[2].replace(".", "_")]), key


@pytest.mark.parametrize("name", SMALL)
def test_another_stages_network_is_a_start(name: str) -> None:
    trained = Classifier(config(name), 3, None)
    net = build_backbone(config(name), 8)
    load_backbone(net, to_bytes(trained, {})[0])
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in trained.backbone.state_dict().items())


@pytest.mark.parametrize("other", ["timm/resnet34", "timm/test_convnext", "timm/resnet26"])
def test_another_networks_weights_are_refused(tmp_path: Path, other: str) -> None:
    safetensors.torch.save_file(published(other).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"backbone.weights=.*: does not fit backbone.name=timm/resnet18 \("):
        backbone_state(config("timm/resnet18", tmp_path / "other.safetensors"))


def test_half_of_a_network_is_refused(tmp_path: Path) -> None:
    state = published(SMALL[0]).state_dict()
    torch.save({key: value for key, value in state.items() if not key.startswith("stages.2")}, tmp_path / "half.pth")
    with pytest.raises(ValueError, match="does not fit"):
        backbone_state(config(SMALL[0], tmp_path / "half.pth"))


def test_pretrained_is_what_timm_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    create, asked = timm.create_model, []

    def downloading(name: str, pretrained: bool = False, **settings: Any) -> nn.Module:
        asked.append((name, pretrained))
        return published(name) if pretrained else create(name, **settings)

    network = published("test_convnext.r160_in1k")
    monkeypatch.setattr(timm, "create_model", downloading)
    state = backbone_state(config("timm/test_convnext.r160_in1k", "pretrained"))
    assert ("test_convnext.r160_in1k", True) in asked
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_weights_that_cannot_be_downloaded_or_do_not_exist_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"backbone\.weights=pretrained: timm has no weights .*; give a local"):
        backbone_state(config("timm/convnext_atto_rms", "pretrained"))
    create = timm.create_model

    def offline(name: str, pretrained: bool = False, **settings: Any) -> nn.Module:
        if pretrained:
            raise RuntimeError("no route to the hub")
        return create(name, **settings)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ValueError, match=r"could not be downloaded \(no route to the hub\); give a local"):
        backbone_state(config(SMALL[0], "pretrained"))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("timm/convnet_tiny", ["has no such network", "timm/convnext_tiny"]),
        ("timm/", ["must be one of", "timm/NAME"]),
        ("timm/hf-hub:some/one", ["has no such network"]),
        ("timm/test_convnext.mine", ["no such weights of test_convnext", "r160_in1k"]),
        ("timm/vgg11", ["output stride 16", "timm/convnext_tiny"]),
        ("timm/cait_xxs24_224", ["output stride 16", "timm/convnext_tiny"]),
        ("timm/xception41", ["modules that follow one another", "timm/convnext_tiny"]),
        ("timm/lambda_resnet26rpt_256", ["images of any size", "timm/convnext_tiny"]),
        ("timm/mobilevitv2_050", ["grid", "timm/convnext_tiny"]),
    ],
)
def test_networks_of_no_use_are_refused_in_one_sentence(name: str, parts: list[str]) -> None:
    with pytest.raises(ValueError, match=f"^name={name}: ") as refusal:
        BackboneConfig(name=name)
    assert all(part in str(refusal.value) for part in parts)
    assert "\n" not in str(refusal.value)


def test_where_timm_is_missing_its_installation_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from amn_ray.nn.backbones import timm as ours

    ours.strides.cache_clear()
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"name=timm/test_convnext: .*pip install 'amn-ray\[networks\]'"):
        BackboneConfig(name="timm/test_convnext")


def test_naming_a_network_leaves_the_random_numbers_alone() -> None:
    from amn_ray.nn.backbones import timm as ours

    ours.strides.cache_clear()
    torch.manual_seed(3)
    BackboneConfig(name="timm/test_convnext")
    drawn = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(3))
