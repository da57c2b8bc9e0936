"""DRS against its steps written one after the other, and against what must hold of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import torchvision
from torch import Tensor

from amn_ray.core.errors import RequestError
from amn_ray.core.settings import build
from amn_ray.data.pixels import DEFAULT
from amn_ray.data.transforms import resize_square
from amn_ray.nn.class_activation import cam_maps
from amn_ray.nn.config import BackboneConfig
from amn_ray.stages.classifier.config import ClassifierConfig
from amn_ray.stages.drs import vgg
from amn_ray.stages.drs.config import DrsMapsConfig, DrsNetworkConfig
from amn_ray.stages.drs.example import LabelledSquare, TargetSquare
from amn_ray.stages.drs.model import DrsNet, SecondNet, square_maps
from amn_ray.stages.drs.stage import identity
from amn_ray.stages.drs.suppression import Suppression
from amn_ray.stages.drs.train import batch_loss, dropped, optimisation, second_loss
from amn_ray.stages.drs.vgg import Vgg16
from tests.conftest import encode
from tests.stages.literal import drs as literal
from tests.stages.literal.networks import COUNT, CPU, SIZE, at_stride_4, classifier, smooth

RESNET = BackboneConfig(name="resnet18")
IMAGES = [smooth(*SIZE, seed) for seed in range(3)]
KEYS = [[1, 3], [2], [4]]
SQUARES = [64, 80, 96]
"""What VGG-16 sees in these tests; 80 where it is published with 320."""
TARGETS = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]).double()


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A VGG-16 of few channels, and smaller squares."""
    widths = {"conv1": (3, 4), "conv2": (5, 5), "conv3": (6, 6, 6), "conv4": (7, 7, 7), "conv5": (8, 8, 8)}
    monkeypatch.setattr(vgg, "WIDTHS", widths)
    monkeypatch.setattr("amn_ray.stages.drs.model.SQUARE", 80)


def config(backbone: Any = RESNET, **settings: Any) -> DrsNetworkConfig:
    sizes = {"crop": 48, "long_side": [48, 64]} if backbone == "vgg16" else {"crop": 64, "long_side": [48, 80]}
    return DrsNetworkConfig(**{"backbone": backbone, "precision": "fp32", "seed": 0, **sizes, **settings})


def drs(settings: DrsNetworkConfig, second: bool = False) -> Any:
    """Random weights of some size, also of BatchNorm, in float64 and eval mode."""
    torch.manual_seed(0)
    made = (SecondNet(COUNT) if second else DrsNet(settings, COUNT)).double()
    if not settings.on_vgg:
        made.backbone.load_state_dict(classifier(COUNT, None, "resnet18").backbone.state_dict())
    with torch.no_grad():
        for name, value in made.named_parameters():
            if "gate" in name:
                value.copy_(torch.randn_like(value) / 2)
            elif settings.on_vgg and value.dim() == 4:
                torch.nn.init.kaiming_normal_(value)
            elif settings.on_vgg:
                value.copy_(torch.randn_like(value) / 5)
    return made.eval()


def convs(model: DrsNet | SecondNet) -> list[tuple[Tensor, Tensor]]:
    layers = [layer for block in vgg.WIDTHS for layer in getattr(model.backbone, block)]
    return [(layer.weight, layer.bias) for layer in (*layers, *model.extra, model.classifier)]


def gates(model: DrsNet) -> list[Tensor] | None:
    modules = [*model.suppressions.values(), *model.extra_suppressions]
    return None if modules[0].delta is not None else [module.gate.weight for module in modules]


def features(batch: int = 2, channels: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, 4, 5, generator=generator, dtype=torch.float64)


def module(delta: float | None, channels: int = 3) -> Suppression:
    torch.manual_seed(1)
    made = Suppression(channels, delta).double()
    if delta is None:
        torch.nn.init.normal_(made.gate.weight)
    return made


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("delta", [None, 0.55, 1.0])
def test_a_suppression_and_its_gradient_are_those_of_the_steps(delta: float | None, padded: bool) -> None:
    one, x = module(delta), features().requires_grad_()
    valid = torch.ones(2, 4, 5, dtype=torch.bool)
    if padded:
        valid[0, :2], valid[1, :, 4] = False, False
    found = one(x, valid[:, None].double() if padded else None)
    gate = None if delta is not None else one.gate.weight
    expected = torch.stack([literal.suppress(x[b], delta, gate, valid[b] if padded else None) for b in range(2)])
    assert torch.allclose(found, expected, atol=1e-12)
    weights = torch.rand(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    gradients = [torch.autograd.grad((made * weights).sum(), x, retain_graph=True)[0] for made in (found, expected)]
    assert torch.allclose(*gradients, atol=1e-12)


def test_a_share_of_one_is_a_plain_relu_bit_for_bit_also_in_the_gradient() -> None:
    x = features().requires_grad_()
    weights = torch.rand(x.shape, dtype=torch.float64)
    assert torch.equal(module(1.0)(x), F.relu(x))
    found = torch.autograd.grad((module(1.0)(x) * weights).sum(), x)[0]
    assert torch.equal(found, torch.autograd.grad((F.relu(x) * weights).sum(), x)[0])


def test_a_share_twice_is_its_square_once_and_scales_with_its_input() -> None:
    x = features()
    assert torch.allclose(module(0.6)(module(0.6)(x)), module(0.36)(x), atol=1e-12)
    assert torch.allclose(module(0.6)(3 * x), 3 * module(0.6)(x), atol=1e-12)
    assert not torch.allclose(module(None)(3 * x), 3 * module(None)(x), atol=1e-3), "a learned share does not"


def test_a_learned_share_without_weights_is_one_half() -> None:
    one = module(None)
    torch.nn.init.zeros_(one.gate.weight)
    assert torch.equal(one(features()), module(0.5)(features()))
    fresh = Suppression(64, None)
    assert fresh.gate.weight.std().item() == pytest.approx(0.01, rel=0.1)


def test_cut_pixels_pass_their_gradient_to_the_largest_one() -> None:
    x = features(1).requires_grad_()
    made = module(0.5)(x)
    assert torch.allclose(made.amax((2, 3)), 0.5 * x.amax((2, 3)), atol=1e-12)
    made.sum().backward()
    for channel in range(3):
        values, gradient = x[0, channel].detach(), x.grad[0, channel]
        cut = values > 0.5 * values.max()
        assert gradient[values == values.max()].item() == pytest.approx(0.5 * cut.sum().item())
        assert not gradient[cut & (values < values.max())].any()


@pytest.mark.parametrize("delta", [None, 0.55])
def test_a_resnets_logits_and_loss_are_those_of_the_steps_also_where_crops_are_padded(delta: float | None) -> None:
    settings = config(delta=delta)
    model = drs(settings)
    rgba = np.concatenate([np.stack([smooth(64, 64, n) for n in range(3)]), np.full((3, 64, 64, 1), 255, np.uint8)], -1)
    rgba[0, 40:], rgba[1, :, :25] = 0, 0
    images = model.backbone.normalise(torch.from_numpy(rgba)).double()
    valid = torch.from_numpy(rgba[..., 3] > 0)
    network = classifier(COUNT, None, "resnet18")
    network.classifier.weight = model.classifier.weight
    expected = [
        literal.resnet_logits(network, images[b], gates(model), delta, valid[b]) for b in range(3)
    ]  # fmt: skip
    found = model.logits(images, valid[:, None].double())
    assert torch.allclose(found, torch.stack(expected), atol=1e-9)
    grids = [literal.cells(valid[b], 16, (4, 4)) for b in range(3)]
    batch = {"image": torch.from_numpy(rgba), "labels": TARGETS.float()}
    expected_loss = literal.loss(expected, TARGETS, grids)
    assert batch_loss(model.float(), batch, settings).item() == pytest.approx(expected_loss.item(), rel=1e-5)
    unmasked = drs(settings).logits(images)
    assert (unmasked - found)[:2].abs().max() > 1e-3, "padding would have mattered"
    assert torch.allclose(unmasked[2], found[2], atol=1e-12)


def test_the_gradient_of_a_batch_is_the_mean_of_those_of_its_halves_also_where_one_is_padded() -> None:
    model, settings = drs(config()).float(), config()
    rgba = np.concatenate([np.stack([smooth(64, 64, n) for n in range(2)]), np.full((2, 64, 64, 1), 255, np.uint8)], -1)
    rgba[0, 40:] = 0
    batch = {"image": torch.from_numpy(rgba), "labels": TARGETS[:2].float()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    whole, first, second = (
        torch.autograd.grad(batch_loss(model, {key: value[part] for key, value in batch.items()}, settings), trained)
        for part in (slice(0, 2), slice(0, 1), slice(1, 2))
    )
    for expected, one, other in zip(whole, first, second, strict=True):
        assert torch.allclose((one + other) / 2, expected, atol=1e-4 * max(1, expected.abs().max().item()))


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("delta", [None, 0.55])
def test_vgg_16s_logits_are_those_of_the_steps(delta: float | None) -> None:
    model = drs(config("vgg16", delta=delta))
    images = torch.stack([torch.randn(3, 48, 56, dtype=torch.float64) for _ in range(2)])
    for image, found in zip(images, model.logits(images), strict=True):
        expected = literal.vgg_logits(image, convs(model), gates(model), delta)
        assert expected.shape == (COUNT, 6, 7)
        assert torch.allclose(found, expected, rtol=1e-9)
    second = drs(config("vgg16"), second=True)
    assert torch.allclose(second(images[:1])[0], literal.vgg_logits(images[0], convs(second)), atol=1e-9)


def test_vgg_16_is_torchvisions_up_to_the_pooling_that_keeps_the_size() -> None:
    torch.manual_seed(0)
    layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    own = Vgg16()
    own.load({f"features.{name}": value for name, value in layers.state_dict().items()} | {"classifier.0.weight": 0})
    image = torch.randn(1, 3, 32, 48)
    assert torch.allclose(own.features(image)["relu4_3"], layers[:23](image), atol=1e-5)
    assert own(image).shape == (1, 512, 4, 6)
    assert own.channels["relu5_3"] == 512
    assert {level: own.strides[level] for level in ("relu1_2", "relu3_1", "relu4_3", "relu5_3")} == {
        "relu1_2": 1, "relu3_1": 4, "relu4_3": 8, "relu5_3": 8,
    }  # fmt: skip
    for other in (
        {f"features.{name}": value for name, value in list(layers.state_dict().items())[:-2]},
        {"features.0.0.weight": image, "features.conv0.weight": image},
        {"conv1.weight": image},
    ):
        with pytest.raises(RuntimeError):
            own.load(other)


def made(model: Any, images=IMAGES, keys=KEYS, squares=SQUARES) -> list[np.ndarray]:
    return square_maps(model, images, keys, squares=squares, precision="fp32", device=CPU)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("second", [False, True])
def test_maps_of_squares_are_those_of_the_steps(second: bool) -> None:
    model = drs(config("vgg16"), second)
    if second:
        with torch.no_grad():  # so that some values are above 0 and few above 1
            model.classifier.weight /= 30
    steps = literal.second_maps if second else literal.maps
    highest: list[float] = []
    for image, labels, found in zip(IMAGES, KEYS, made(model), strict=True):
        square = model.backbone.normalise(torch.tensor(resize_square(image, 80))[None]).double()[0]
        expected = steps(
            lambda part: model.logits(part[None])[0] if isinstance(model, DrsNet) else model(part[None])[0],
            square, SIZE, labels, sides=SQUARES,
        )  # fmt: skip
        assert np.abs(found - at_stride_4(expected.clamp(max=1) if second else expected)).max() < 1e-9
        highest.append(expected.max().item())
    assert sum(value > 0.05 for value in highest) > 1, "maps that say something"


def test_a_resnets_maps_are_those_of_cam_with_suppressions() -> None:
    model = drs(config(delta=1.0))
    network = classifier(COUNT, None, "resnet18")
    network.classifier.weight = model.classifier.weight
    settings: Mapping[str, Any] = {"scales": [1.0, 0.5], "precision": "fp32", "device": CPU}
    plain = cam_maps(network, IMAGES, KEYS, **settings)
    for found, expected in zip(cam_maps(model, IMAGES, KEYS, **settings), plain, strict=True):
        assert np.abs(found - expected).max() < 1e-12, "a share of 1 switches it off"
    cut = cam_maps(drs(config(delta=0.5)), IMAGES, KEYS, **settings)
    assert max(np.abs(found - expected).max() for found, expected in zip(cut, plain, strict=True)) > 0.05


@pytest.mark.usefixtures("narrow")
def test_maps_reach_one_where_a_class_is_found_and_images_do_not_depend_on_one_another() -> None:
    model = drs(config("vgg16"))
    together = made(model)
    for image, labels, expected in zip(IMAGES, KEYS, together, strict=True):
        assert np.abs(made(model, [image], [labels])[0] - expected).max() < 1e-12
    pixels = square_maps(model, IMAGES, KEYS, squares=SQUARES, precision="fp32", device=CPU, at=80)
    tops = [maps_Khw.max() for image_maps in pixels for maps_Khw in image_maps]
    assert all(top == 0 or 0.9 < top <= 1 for top in tops)
    assert max(tops) > 0.99
    assert made(model, IMAGES[:1], [[]])[0].shape == (0, SIZE[0] // 4, SIZE[1] // 4)


def test_clipping_a_finished_map_would_only_turn_the_axis_of_the_threshold() -> None:
    """What DRS is not: of one class the seeds at τ · δ are the same."""
    finished = np.random.default_rng(0).random((1, 9, 9))
    clipped = np.minimum(finished, 0.6 * finished.max())
    clipped /= clipped.max()
    for tau in (0.3, 0.5, 0.9):
        assert ((clipped > tau) == (finished / finished.max() > tau * 0.6)).all()


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("off", ["delta 1", "fixed share", "one square"])
def test_each_mechanism_that_is_switched_off_alone_changes_the_maps(off: str) -> None:
    published = made(drs(config("vgg16")))
    other = {
        "delta 1": lambda: made(drs(config("vgg16", delta=1.0))),
        "fixed share": lambda: made(drs(config("vgg16", delta=0.5))),
        "one square": lambda: made(drs(config("vgg16")), squares=[80]),
    }[off]()
    change = max(np.abs(a - b).max() for a, b in zip(published, other, strict=True))
    print(f"{off}: {change:.4f} of the maximum")
    assert change > 1e-3


@pytest.mark.usefixtures("narrow")
def test_steps_on_vgg_16_are_those_written_one_after_the_other_in_every_epoch() -> None:
    """One step in each of eleven epochs, in which the rates drop twice."""
    settings = config("vgg16", lr=0.02)
    model, other = drs(settings), drs(settings)
    images = [
        torch.randn(2, 3, 48, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in range(11)
    ]
    optimizer, schedule = optimisation(model, settings, 11, 1)
    for batch in images:
        optimizer.zero_grad()
        F.multilabel_soft_margin_loss(model(batch), TARGETS[:2]).backward()
        optimizer.step()
        schedule.step()
    kinds: dict[str, list[Tensor]] = {kind: [] for kind in literal.FACTORS}
    for name, parameter in other.named_parameters():
        new = "" if name.startswith("backbone.") else "new "
        kinds[new + ("bias" if name.endswith("bias") else "weight")].append(parameter)
    literal.train(
        kinds, [[batch] for batch in images],
        lambda batch: literal.loss([literal.vgg_logits(one, convs(other), gates(other)) for one in batch], TARGETS[:2]),
        lr=0.02,
    )  # fmt: skip
    states = model.state_dict(), other.state_dict(), drs(settings).state_dict()
    for name, value in states[0].items():
        assert torch.allclose(value, states[1][name], atol=1e-8), name
        assert not torch.equal(value, states[2][name]), f"{name} has learnt"


def test_learning_rates_drop_after_epochs_four_and_nine() -> None:
    factors = [dropped((4, 9), 3)(step) for step in range(15 * 3)]
    assert factors == pytest.approx([1.0] * 12 + [0.1] * 15 + [0.01] * 18)


def test_the_second_network_learns_the_strongest_class_of_each_pixel() -> None:
    rng = np.random.default_rng(0)
    found = rng.random((2, 16, 16)) * (rng.random((2, 16, 16)) < 0.7)
    found[:, 0, 0], found[0, 0, 1] = 0.5, 1.0
    stored = np.minimum(np.floor(found * 255), 254).astype(np.uint8)
    row = {"image": encode(smooth(24, 40)), "labels": [2, 4], "keys": [2, 4], "maps": stored.tobytes()}
    expected = np.zeros((COUNT, 16, 16))
    expected[[1, 3]] = found
    example = TargetSquare(16, COUNT, DEFAULT)
    flips = set()
    for seed in range(8):
        made_of = example(row, np.random.default_rng(seed))
        assert made_of["image"].shape == (16, 16, 3)
        target = torch.from_numpy(made_of["target"]).double() / 255
        wanted = literal.targets(torch.from_numpy(expected))
        flips.add("straight" if torch.allclose(target, wanted) else "mirrored")
        assert torch.allclose(target, wanted) or torch.allclose(target.flip(2), wanted)
    assert flips == {"straight", "mirrored"}
    none = example({"image": row["image"], "labels": [], "keys": [], "maps": b""}, np.random.default_rng(0))
    assert not none["target"].any()


@pytest.mark.usefixtures("narrow")
def test_the_loss_of_the_second_network_is_that_of_the_steps() -> None:
    model = drs(config("vgg16"), second=True)
    images = np.stack([smooth(48, 48, n) for n in range(2)])
    target = np.random.default_rng(1).integers(0, 255, (2, COUNT, 48, 48), dtype=np.uint8)
    normalised = model.backbone.normalise(torch.from_numpy(images)).double()
    expected = literal.second_loss(list(model(normalised)), list(torch.from_numpy(target).double() / 255))
    batch = {"image": torch.from_numpy(images), "target": torch.from_numpy(target)}
    assert second_loss(model.float(), batch, config("vgg16")).item() == pytest.approx(expected.item(), rel=1e-5)


def test_squares_are_never_padded() -> None:
    example = LabelledSquare([384, 384], 320, COUNT, DEFAULT)
    for seed, size in enumerate([(30, 500), (500, 375), (384, 384)]):
        made_of = example({"image": encode(smooth(*size)), "labels": [2]}, np.random.default_rng(seed))
        assert made_of["image"].shape == (320, 320, 4)
        assert (made_of["image"][..., 3] == 255).all()
        assert made_of["labels"].tolist() == [0, 1, 0, 0]


def test_vgg_16_with_random_weights_learns_a_batch() -> None:
    torch.manual_seed(0)
    settings = config("vgg16", weights=None, lr=1e-2)
    model = DrsNet(settings, 2)
    optimizer, schedule = optimisation(model, settings, 4, 100)
    images = np.stack([np.full((48, 48, 3), colour, np.uint8) for colour in ((250, 10, 10), (10, 250, 10))])
    batch = {"image": torch.from_numpy(images), "labels": torch.eye(2)}
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = batch_loss(model, batch, settings)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"delta": 0.0}, "delta=0.0: must be greater than 0"),
        ({"delta": 1.5}, r"delta=1.5: must be in \[0, 1\]"),
        ({"backbone": "vgg19"}, "backbone=vgg19: must be vgg16, or null"),
        ({"backbone": "vgg16", "crop": 400}, r"crop=400: squares of 384 pixels \(long_side\) would be padded"),
        ({"weights": "vgg.pth"}, "weights=vgg.pth: are those of backbone=vgg16; the run's are backbone.weights"),
        ({"second_network": True}, "second_network=true: is for backbone=vgg16 only"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: Mapping[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DrsNetworkConfig(**settings)


def test_a_backbone_whose_layers_may_not_end_in_a_relu_is_refused() -> None:
    with pytest.raises(RequestError, match=r"maps=drs: .* backbone.name=timm/convnext_tiny may have none .*vgg16"):
        identity(DrsNetworkConfig(backbone=BackboneConfig(name="timm/convnext_tiny")))
    assert identity(DrsNetworkConfig(backbone=BackboneConfig(name="resnet18")))["weights"] is None
    with pytest.raises(RequestError, match=r"maps_network.weights=/nowhere.pth: not found"):
        identity(DrsNetworkConfig(backbone="vgg16", weights="/nowhere.pth"))
    with pytest.raises(ValueError, match="squares"):
        DrsMapsConfig(squares=[])


def test_what_is_null_is_published_for_vgg_16_and_as_for_cam_on_other_networks() -> None:
    published, as_cam = DrsNetworkConfig(backbone="vgg16"), DrsNetworkConfig()
    assert (published.epochs, published.batch_size, published.lr, published.lr_head) == (15, 10, 1e-3, 1e-2)
    cam = ClassifierConfig()
    for name in ("epochs", "batch_size", "crop", "long_side", "momentum", "weight_decay"):
        assert getattr(as_cam, name) == getattr(cam, name), name
    assert (as_cam.lr, as_cam.lr_head) == (cam.lr_backbone, cam.lr_head)


@pytest.mark.parametrize("backbone", [None, "vgg16", RESNET])
def test_settings_come_back_from_a_manifest(backbone: Any) -> None:
    settings = DrsNetworkConfig(backbone=backbone, delta=0.5)
    assert build(DrsNetworkConfig, json.loads(json.dumps(dataclasses.asdict(settings)))) == settings


def test_a_resnet_learns_with_the_classifiers_rates_and_new_layers_ten_times_faster() -> None:
    model = DrsNet(config(lr=0.2), COUNT)
    optimizer, schedule = optimisation(model, config(lr=0.2), 8, 4)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        expected = None if name.startswith("backbone.stem") else 0.2 if name.startswith("backbone") else 2.0
        assert rates.get(id(parameter)) == expected, name
    assert not any(group["nesterov"] or group["momentum"] for group in optimizer.param_groups)
    for _ in range(4):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2 * 0.5**0.9)
