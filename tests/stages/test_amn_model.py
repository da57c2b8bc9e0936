"""AMN's loss against a loop over pixels, its maps against a plain implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image

from amn_ray.data.transforms import multi_hot, resize_image, resize_label
from amn_ray.nn.backbones.backbone import MEAN, STD
from amn_ray.nn.config import BackboneConfig
from amn_ray.stages.amn.config import AmnConfig, AmnMapsConfig
from amn_ray.stages.amn.loss import pcl_loss
from amn_ray.stages.amn.model import AmnNet, amn_maps
from tests.conftest import noise

CPU = torch.device("cpu")
SMALL = BackboneConfig(name="resnet18", weights=None)


def pcl_by_loop(logits: torch.Tensor, seed: torch.Tensor, smoothing: float) -> float:
    """Paper 4.2 with label smoothing, one pixel after another, in Python floats."""
    batch, channels, height, width = logits.shape
    sums, counts = [0.0, 0.0], [0, 0]
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                label = int(seed[b, y, x])
                if label == 255:
                    continue
                values = [float(logits[b, c, y, x]) for c in range(channels)]
                norm = math.log(sum(math.exp(v) for v in values))
                loss = 0.0
                for c, value in enumerate(values):
                    target = 1 - smoothing if c == label else smoothing / (channels - 1)
                    loss -= target * (value - norm)
                sums[label > 0] += loss
                counts[label > 0] += 1
    return sum(s / c if c else 0.0 for s, c in zip(sums, counts, strict=True)) / 2


@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 255], [0, 255], [2, 3], [255]])
@pytest.mark.parametrize("smoothing", [0.0, 0.4])
def test_the_pcl_loss_equals_a_loop_over_pixels(labels: list[int], smoothing: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64)
    seed = torch.tensor(labels)[torch.randint(len(labels), (2, 5, 6), generator=generator)].to(torch.uint8)
    loss = pcl_loss(logits, seed, smoothing)
    assert loss.item() == pytest.approx(pcl_by_loop(logits, seed, smoothing), rel=1e-9)


def test_undefined_pixels_get_no_gradient() -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    pcl_loss(logits, torch.tensor([[[0, 255], [1, 255]]]), 0.4).backward()
    assert logits.grad is not None
    assert (logits.grad[:, :, :, 1] == 0).all()
    assert (logits.grad[:, :, :, 0] != 0).any()


def test_seeds_are_shrunk_like_pillow_does_and_not_like_interpolate() -> None:
    label = np.random.default_rng(0).integers(0, 5, (512, 512), dtype=np.uint8)
    small = resize_label(label, 32, 32)
    np.testing.assert_array_equal(small, np.asarray(Image.fromarray(label).resize((32, 32), Image.Resampling.NEAREST)))
    np.testing.assert_array_equal(small, label[8::16, 8::16])
    torch_small = F.interpolate(torch.from_numpy(label)[None, None].float(), (32, 32), mode="nearest")[0, 0]
    assert (torch_small.numpy() != small).any()


@pytest.mark.parametrize(
    "placement", [[], ["layer4"], ["layer1"], ["layer3", "layer4"], ["layer2", "layer3", "layer4"]]
)
def test_label_conditioning_multiplies_after_each_named_layer(placement: list[str]) -> None:
    torch.manual_seed(0)
    net = AmnNet(AmnConfig(backbone=SMALL, lc=placement), 3).eval()
    image, labels = torch.randn(2, 3, 48, 64), torch.tensor([[1.0, 0, 0], [0, 1, 1]])
    feature = net.backbone.stem(image)
    for name in ("layer1", "layer2", "layer3", "layer4"):
        feature = getattr(net.backbone, name)(feature)
        if name in placement:
            linear = net.conditioning[name]
            feature = feature * (labels @ linear.weight.T + linear.bias)[:, :, None, None]
    torch.testing.assert_close(net(image, labels), net.head(feature))
    assert set(net.conditioning) == set(placement)


def test_conditioning_changes_the_output_and_its_absence_ignores_the_label() -> None:
    image = torch.randn(1, 3, 32, 32)
    first, second = torch.tensor([[1.0, 0, 0]]), torch.tensor([[0, 0, 1.0]])
    with_lc = AmnNet(AmnConfig(backbone=SMALL), 3).eval()
    without = AmnNet(AmnConfig(backbone=SMALL, lc=[]), 3).eval()
    assert not torch.allclose(with_lc(image, first), with_lc(image, second))
    assert torch.equal(without(image, first), without(image, second))


def test_dropout_is_off_in_evaluation() -> None:
    net = AmnNet(AmnConfig(backbone=SMALL, dropout=0.5), 3).eval()
    image, labels = torch.randn(1, 3, 32, 32), torch.ones(1, 3)
    assert torch.equal(net(image, labels), net(image, labels))
    net.train()
    assert not torch.equal(net(image, labels), net(image, labels))


def test_batchnorm_keeps_its_running_statistics_but_trains_its_affine() -> None:
    net = AmnNet(AmnConfig(backbone=SMALL), 3).train()
    before = {name: value.clone() for name, value in net.named_buffers()}
    net(torch.randn(2, 3, 64, 64), torch.ones(2, 3)).square().sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())
    assert net.backbone.layer4[0].bn1.weight.grad is not None


def test_conv1_and_bn1_are_frozen_when_weights_are_given() -> None:
    frozen = AmnNet(AmnConfig(backbone=BackboneConfig(name="resnet18", weights="pretrained")), 3)
    names = {name for name, p in frozen.named_parameters() if not p.requires_grad}
    assert names == {"backbone.stem.0.weight", "backbone.stem.1.weight", "backbone.stem.1.bias"}


@pytest.mark.parametrize("subset", [False, True])
def test_amn_maps_equal_the_method_step_by_step(subset: bool) -> None:
    torch.manual_seed(3)
    config = AmnMapsConfig(scales=[1.0, 0.5], precision="fp32", softmax_subset=subset)
    net = AmnNet(AmnConfig(backbone=SMALL), 4).eval()
    image, keys = noise(50, 70), [2, 3]
    made = amn_maps(net, [image], [keys], num_classes=4, config=config, device=CPU)[0]

    labels = torch.from_numpy(multi_hot(keys, 4))[None]
    logits = []
    for scale in (1.0, 0.5):
        scaled = resize_image(image, round(50 * scale), round(70 * scale)).astype(np.float32) / 255
        x = torch.from_numpy((scaled - MEAN) / STD).float().permute(2, 0, 1)[None]
        with torch.no_grad():
            mean = (net(x, labels) + net(x.flip(3), labels).flip(3)) / 2
        logits.append(F.interpolate(mean, (13, 18), mode="bilinear", align_corners=False))
    mean = torch.stack(logits).mean(0)[0]
    probability = mean[[0, 2, 3]].softmax(0)[1:] if subset else mean.softmax(0)[[2, 3]]
    np.testing.assert_allclose(made, probability.numpy(), atol=1e-4)


def test_the_map_of_a_flipped_image_is_the_flipped_map() -> None:
    torch.manual_seed(0)
    config = AmnMapsConfig(scales=[1.0, 1.5], precision="fp32")
    net = AmnNet(AmnConfig(backbone=SMALL), 3).eval()
    image = noise(64, 96)
    straight = amn_maps(net, [image], [[1]], num_classes=3, config=config, device=CPU)[0]
    flipped = np.ascontiguousarray(image[:, ::-1])
    mirrored = amn_maps(net, [flipped], [[1]], num_classes=3, config=config, device=CPU)[0]
    np.testing.assert_allclose(mirrored, straight[:, :, ::-1], atol=1e-4)
