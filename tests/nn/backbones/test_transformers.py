"""Vision transformers of timm as backbones, against timm itself. The networks have random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import nn
from torch.nn.functional import pad

from amn_ray.nn.backbones.backbone import is_transformer
from amn_ray.nn.backbones.registry import build_backbone, known_strides
from amn_ray.nn.classifier import Classifier
from amn_ray.nn.config import LAYERS, BackboneConfig, stride_of
from amn_ray.nn.weights import backbone_state, load_backbone
from tests.nn.backbones.steps import STAGES

PLAIN = ["timm/test_vit", "timm/vit_tiny_patch16_224", "timm/deit_tiny_distilled_patch16_224"]
"""With one token before those of the grid, and with two."""
STAGED = ["timm/swin_tiny_patch4_window7_224", "timm/pvt_v2_b0"]
"""Channels last, and first."""


def config(name: str, weights: Path | None = None) -> BackboneConfig:
    return BackboneConfig(name=name, weights=None if weights is None else str(weights), batchnorm="batch")


def whole(name: str) -> nn.Module:
    """timm's network, head and all."""
    torch.manual_seed(1)
    options = {} if "pvt" in name else {"dynamic_img_size": True}
    return timm.create_model(name.removeprefix("timm/"), **options).eval()


@pytest.mark.parametrize("name", PLAIN)
def test_levels_of_a_plain_one_are_the_grids_after_each_quarter_of_its_blocks(name: str) -> None:
    theirs = whole(name)
    ours = build_backbone(config(name), 16).eval()
    ours.load(theirs.state_dict())
    image = torch.randn(2, 3, 96, 160)
    depth = len(theirs.blocks)
    with torch.no_grad():
        found = ours.features(image)
        ends = [depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
        last, expected = theirs.forward_intermediates(image, indices=ends)
        expected[-1] = last[:, theirs.num_prefix_tokens :].transpose(1, 2).unflatten(2, (6, 10))
    assert list(found) == list(LAYERS)
    for level, feature in zip(LAYERS, expected, strict=True):
        torch.testing.assert_close(found[level], feature)
        assert feature.shape == (2, ours.channels[level], 6, 10)
    assert set(ours.strides.values()) == {16}


@pytest.mark.parametrize("name", STAGED)
def test_one_in_stages_has_its_own_stride_and_its_last_level_is_normalised_as_for_its_head(name: str) -> None:
    theirs = whole(name)
    ours = build_backbone(config(name), 16).eval()
    ours.load(theirs.state_dict())
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = theirs.forward_features(image)
        expected = expected.permute(0, 3, 1, 2) if expected.shape[-1] == ours.channels["layer4"] else expected
        torch.testing.assert_close(ours(image), expected)
    assert [ours.strides[level] for level in LAYERS] == [4, 8, 16, 32]
    assert known_strides(name) == ours.strides
    assert stride_of(name) == 32


@pytest.mark.parametrize("name", [PLAIN[0], *STAGED])
@pytest.mark.parametrize("size", [(1, 1), (33, 50)])
def test_images_of_any_size_are_padded_to_whole_patches(name: str, size: tuple[int, int]) -> None:
    net = build_backbone(config(name), 16).eval()
    stride = net.strides["layer4"]
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        found = net(image)
        assert found.shape[-2:] == tuple(-(-side // stride) for side in size)
        assert torch.equal(found, net(pad(image, (0, -size[1] % stride, 0, -size[0] % stride))))


@pytest.mark.parametrize("name", [PLAIN[2], *STAGED])
def test_what_follows_a_level_goes_on_to_the_next_one(name: str) -> None:
    net = build_backbone(config(name), 16).eval()
    image = torch.randn(1, 3, 64, 64)
    seen: dict[str, torch.Tensor] = {}

    def change(level: str, feature: torch.Tensor) -> torch.Tensor:
        seen[level] = feature
        return feature * 0 if level == "layer2" else feature

    with torch.no_grad():
        changed = net(image, change)
        unchanged = net.features(image)
    torch.testing.assert_close(seen["layer2"], unchanged["layer2"])
    assert not torch.allclose(seen["layer3"], unchanged["layer3"])
    assert torch.equal(changed, seen["layer4"])
    assert torch.equal(net(image), net(image, lambda level, feature: feature)), "no hook is left behind"


@pytest.mark.parametrize("until", ["stem", *LAYERS])
def test_freezing_a_plain_one_ends_with_the_named_level(until: str) -> None:
    net = build_backbone(config("timm/vit_tiny_patch16_224"), 16)
    net.freeze(until)
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    blocks = {int(name.split(".")[2]) for name in frozen if ".blocks." in name}
    last = 0 if until == "stem" else 3 * (LAYERS.index(until) + 1)
    assert blocks == set(range(last))
    assert ("network.pos_embed" in frozen) == (until != "stem")
    assert any("network.norm" in name for name in frozen) == (until == "layer4")


@pytest.mark.parametrize("name", [PLAIN[0], STAGED[0]])
def test_files_in_timms_names_are_loaded_and_those_of_others_refused(tmp_path: Path, name: str) -> None:
    network = whole(name)
    safetensors.torch.save_file(network.state_dict(), tmp_path / "weights.safetensors")
    net = build_backbone(config(name), 16).eval()
    load_backbone(net, safetensors.torch.save(backbone_state(config(name, tmp_path / "weights.safetensors"))))
    image = torch.randn(1, 3, 64, 64)
    other = build_backbone(config(name), 16).eval()
    other.load(network.state_dict())
    with torch.no_grad():
        assert torch.equal(net(image), other(image))
    with pytest.raises(ValueError, match=r"weights=.*: does not fit backbone\.name=timm/vit_small_patch16_224 \("):
        backbone_state(config("timm/vit_small_patch16_224", tmp_path / "weights.safetensors"))


@pytest.mark.parametrize("stage", ["classifier", "amn"])
@pytest.mark.parametrize("name", [PLAIN[0], STAGED[0]])
def test_classifier_and_amn_train_a_step_and_make_their_maps(name: str, stage: str) -> None:
    torch.manual_seed(0)
    STAGES[stage](config(name))


def test_irn_uses_the_levels_of_one_in_stages() -> None:
    torch.manual_seed(0)
    STAGES["irn"](config(STAGED[0]))


def test_the_classifier_stops_the_gradient_where_it_is_told_to() -> None:
    net = Classifier(config("timm/vit_tiny_patch16_224"), 3, "layer2")
    net(torch.randn(1, 3, 32, 32)).sum().backward()
    reached = {
        int(name.split(".")[3]) for name, p in net.named_parameters() if ".blocks." in name and p.grad is not None
    }
    assert reached == set(range(6, 12))


def test_what_computes_attention_is_a_transformer() -> None:
    assert is_transformer(whole(PLAIN[0]))
    assert is_transformer(whole(STAGED[1]))
    assert not is_transformer(timm.create_model("convnext_atto"))
    assert not is_transformer(timm.create_model("resnet18"))


@pytest.mark.parametrize(
    ("name", "words"),
    [("timm/vit_small_patch14_dinov2", "powers of 2"), ("timm/vit_small_patch8_224", "16 in layer4")],
)
def test_other_patches_are_refused(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"^name={name}: has the strides layer1 .*{words}"):
        config(name)
