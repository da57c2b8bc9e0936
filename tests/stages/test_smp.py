"""Networks of segmentation-models-pytorch: as the library computes them, trained, and predicted with."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F  # noqa: N812
import torchvision
from torch import nn
from torch.nn.functional import pad

from amn_ray.core.errors import RequestError
from amn_ray.core.settings import affecting_result
from amn_ray.data.images import encode_mask, encode_png
from amn_ray.data.maps import at_most_stored, full_size
from amn_ray.data.pixels import Pixels
from amn_ray.nn.weights import initial_state
from amn_ray.stages.smp import networks
from amn_ray.stages.smp.config import AdamWConfig, SgdConfig, SmpConfig
from amn_ray.stages.smp.example import MaskedCrop
from amn_ray.stages.smp.model import SmpEncoder, SmpNet, log_probabilities
from amn_ray.stages.smp.stage import identity
from amn_ray.stages.smp.train import batch_loss, optimisation
from tests.conftest import noise

CPU = torch.device("cpu")
CLASSES = 2
KINDS = [
    ("deeplabv3plus", "resnet18"), ("segformer", "mit_b0"), ("upernet", "tu-convnext_atto"),
    ("unet", "tu-mobilenetv3_small_100"), ("upernet", "tu-swin_tiny_patch4_window7_224"),
    ("dpt", "tu-vit_tiny_patch16_224"), ("pan", "resnet18"),
]  # fmt: skip
"""Convolutional encoders and transformers, of the library and of timm, and a decoder of every kind of interface."""


def made(arch: str, encoder: str) -> SmpNet:
    torch.manual_seed(0)
    return SmpNet(arch, encoder, CLASSES).eval()


@pytest.mark.parametrize(("arch", "encoder"), KINDS)
def test_logits_are_the_librarys_for_padded_images_of_any_size(arch: str, encoder: str) -> None:
    net = made(arch, encoder)
    options = networks.check(arch, encoder)
    theirs = smp.create_model(arch, encoder_name=encoder, encoder_weights=None, classes=CLASSES + 1, **options).eval()
    own = net.state_dict()
    names = {"encoder.": "backbone.encoder.", "decoder.": "decoder.", "segmentation_head.": "head."}
    theirs.load_state_dict(
        {key: own[next(new + key.removeprefix(old) for old, new in names.items() if key.startswith(old))]
         for key in theirs.state_dict()}
    )  # fmt: skip
    image = torch.randn(1, 3, 130, 150)
    with torch.no_grad():
        expected = theirs(pad(image, (0, 10, 0, 30)))[..., :130, :150]
        assert torch.equal(net(image), expected)


@pytest.mark.parametrize(("arch", "encoder"), KINDS)
def test_every_parameter_that_trains_has_a_gradient(arch: str, encoder: str) -> None:
    """Else training on several workers would wait for it for ever."""
    net = made(arch, encoder).train()
    net(torch.randn(2, 3, 96, 128)).sum().backward()
    assert {name for name, p in net.named_parameters() if (p.grad is None) == p.requires_grad} == set()


def test_predictions_are_the_mean_probability_of_scales_and_mirror_images_at_the_size_of_the_image() -> None:
    net = made("deeplabv3plus", "resnet18")
    image = noise(50, 70)
    (found,) = log_probabilities(net, [image], [1.0], device=CPU, precision="fp32")
    normal = net.backbone.normalise(torch.from_numpy(image)[None])
    with torch.no_grad():
        straight = net(normal).softmax(1)
        mirrored = net(normal.flip(3)).softmax(1).flip(3)
    expected = ((straight + mirrored) / 2)[0].numpy()
    np.testing.assert_allclose(np.exp(found), expected, atol=1e-6)
    (both,) = log_probabilities(net, [image], [1.0, 0.5], device=CPU, precision="fp32")
    (half,) = log_probabilities(net, [image], [0.5], device=CPU, precision="fp32")
    assert both.shape == (CLASSES + 1, 50, 70)
    np.testing.assert_allclose(np.exp(both), (expected + np.exp(half)) / 2, atol=1e-6)


def test_logits_of_full_size_are_stored_at_stride_4_and_coarser_ones_as_they_are() -> None:
    logits = np.random.default_rng(0).normal(size=(3, 50, 70)).astype(np.float32)
    assert at_most_stored(logits, 50, 70).shape == (3, 13, 18)
    coarse = logits[:, :7, :9]
    assert at_most_stored(coarse, 50, 70) is coarse
    flat = np.full((1, 8, 8), 2.5, np.float32)
    assert (full_size(at_most_stored(flat, 8, 8), 8, 8) == 2.5).all()


def test_the_loss_is_the_mean_cross_entropy_of_defined_pixels() -> None:
    net = made("deeplabv3plus", "resnet18")
    label = torch.randint(0, CLASSES + 1, (2, 33, 47), dtype=torch.uint8)
    label[0, :5] = 255
    batch = {"image": torch.from_numpy(np.stack([noise(33, 47, seed) for seed in (0, 1)])), "label": label}
    config = SmpConfig(encoder="resnet18", weights=None, precision="fp32")
    logits = net(net.backbone.normalise(batch["image"]))
    expected = F.cross_entropy(logits, label.long(), ignore_index=255)
    torch.testing.assert_close(batch_loss(net, batch, config), expected)


def test_one_example_is_a_crop_of_image_and_mask_alike() -> None:
    mask = np.repeat(np.arange(3, dtype=np.uint8), 20)[None].repeat(40, 0)
    image = np.stack([mask * 100] * 3, -1)
    row = {"image": encode_png(image), "mask": encode_mask(mask)}
    example = MaskedCrop((1.0, 1.0), 32, Pixels())(row, np.random.default_rng(0))
    assert example["image"].shape == (32, 32, 4)
    assert (example["image"][..., 0] == example["label"] * 100).all()


@pytest.mark.parametrize(
    ("encoder", "optimizer"), [("resnet18", "sgd"), ("mit_b0", "adamw"), ("tu-convnext_atto", "sgd")]
)
def test_transformers_have_adamw_and_all_other_encoders_sgd_unless_one_is_named(encoder: str, optimizer: str) -> None:
    assert SmpConfig(arch="fpn", encoder=encoder, weights=None).optimizer == optimizer
    assert SmpConfig(arch="fpn", encoder=encoder, weights=None, optimizer="sgd").optimizer == "sgd"


def test_the_settings_of_the_other_optimiser_do_not_count() -> None:
    config = SmpConfig(encoder="resnet18", weights=None)
    other = SmpConfig(encoder="resnet18", weights=None, adamw=AdamWConfig(lr=1.0))
    mine = SmpConfig(encoder="resnet18", weights=None, sgd=SgdConfig(lr=1.0))
    assert identity(config) == identity(other) != identity(mine)
    assert affecting_result(config) != affecting_result(other)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_new_layers_have_their_own_rate_and_all_rates_rise_and_decay(optimizer: str) -> None:
    net = made("deeplabv3plus", "resnet18")
    settings = {"lr": 1.0, "lr_head": 10.0, "warmup": 3, "power": 2.0, "weight_decay": 0.5}
    config = SmpConfig(
        encoder="resnet18", weights=None, optimizer=optimizer, sgd=SgdConfig(**settings), adamw=AdamWConfig(**settings)
    )
    chosen, schedule = optimisation(net, config, 10)
    rates = {id(p): group["initial_lr"] for group in chosen.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in net.backbone.parameters()} == {1.0}
    assert {rates[id(p)] for p in net.new_parameters()} == {10.0}
    decays = {group["weight_decay"] for group in chosen.param_groups for p in group["params"] if p.ndim <= 1}
    assert decays == ({0.0} if optimizer == "adamw" else {0.5})
    seen = []
    for _ in range(10):
        seen.append(schedule.get_last_lr()[0])
        chosen.step()
        schedule.step()
    assert seen == pytest.approx([min(1, (step + 1) / 4) * (1 - step / 10) ** 2 for step in range(10)])


def test_a_torchvision_state_and_a_timm_file_are_the_encoders_weights(tmp_path: Path) -> None:
    resnet = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(resnet, tmp_path / "resnet18.pth")
    net = made("deeplabv3plus", "resnet18")
    initial_state(str(tmp_path / "resnet18.pth"), net.backbone, "segmenter.weights=…", "segmenter.encoder=resnet18")
    assert torch.equal(net.backbone.state_dict()["encoder.layer4.1.conv2.weight"], resnet["layer4.1.conv2.weight"])

    whole = timm.create_model("convnext_atto").state_dict()
    safetensors.torch.save_file(whole, tmp_path / "convnext.safetensors")
    convnext = made("upernet", "tu-convnext_atto")
    other = str(tmp_path / "convnext.safetensors")
    where = f"segmenter.weights={other}"
    initial_state(
        str(tmp_path / "convnext.safetensors"), convnext.backbone, where, "segmenter.encoder=tu-convnext_atto"
    )
    assert torch.equal(
        convnext.backbone.state_dict()["encoder.model.stages_3.blocks.0.mlp.fc1.weight"],
        whole["stages.3.blocks.0.mlp.fc1.weight"],
    )
    with pytest.raises(ValueError, match=r"^segmenter\.weights=.*does not fit segmenter\.encoder=resnet18 \("):
        initial_state(other, net.backbone, where, "segmenter.encoder=resnet18")


def test_files_of_weights_count_by_content(tmp_path: Path) -> None:
    for name in ("a.pth", "b.pth"):
        (tmp_path / name).write_bytes(b"the same")
    first, second = (
        identity(SmpConfig(encoder="resnet18", weights=str(tmp_path / name))) for name in ("a.pth", "b.pth")
    )
    assert first == second
    with pytest.raises(RequestError, match=r"^segmenter\.weights=.*none\.pth: not found"):
        identity(SmpConfig(encoder="resnet18", weights=str(tmp_path / "none.pth")))


def test_images_are_normalised_as_the_encoder_was_trained() -> None:
    assert SmpEncoder("xception", nn.Identity()).mean == (0.5, 0.5, 0.5)
    assert SmpEncoder("resnet18", nn.Identity()).std == (0.229, 0.224, 0.225)
    assert SmpEncoder("tu-tf_mobilenetv3_small_minimal_100", nn.Identity()).mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"arch": "segfomer"}, r"^arch=segfomer: .* has only .*; did you mean segformer\?"),
        ({"encoder": "resnt50"}, r"^encoder=resnt50: .* has no such encoder; did you mean .*resnet50"),
        ({"encoder": "tu-convnext_tinny"}, r"^encoder=tu-convnext_tinny: .*did you mean .*tu-convnext_tiny"),
        ({"encoder": "tu-convnext_tiny.mine"}, "^encoder=tu-convnext_tiny.mine: .* has no such encoder"),
        (
            {"arch": "linknet", "encoder": "mit_b0"},
            r"^encoder=mit_b0: .* cannot use it in linknet \(.*\); choose another",
        ),
        ({"arch": "deeplabv3plus", "encoder": "vgg16"}, "^encoder=vgg16: .* cannot use it in deeplabv3plus"),
        ({"optimizer": "adam"}, "^optimizer=adam: 'adam' must be one of sgd, adamw"),
        ({"weights": "imagenet"}, "^weights=imagenet: was renamed to pretrained"),
        ({"scale": [2.0, 0.5]}, "^scale="),
        ({"ema": 1.0}, r"^ema=1\.0: must be in \(0, 1\)"),
    ],
)
def test_settings_of_no_use_are_refused_in_one_sentence(settings: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as refusal:
        SmpConfig(**{"weights": None, "encoder": "resnet18"} | settings)
    assert "\n" not in str(refusal.value)


def test_where_the_library_is_missing_its_installation_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    networks.check.cache_clear()
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(ValueError, match=r"not installed; run pip install 'amn-ray\[networks\]'$"):
        SmpConfig(weights=None)


def test_an_image_alone_is_too_few_only_where_the_head_pools_to_one_place() -> None:
    assert networks.needs_two_images("deeplabv3plus", "resnet18")
    assert networks.needs_two_images("upernet", "tu-convnext_atto")
    assert not networks.needs_two_images("segformer", "mit_b0")
    assert not networks.needs_two_images("unet", "resnet18")
