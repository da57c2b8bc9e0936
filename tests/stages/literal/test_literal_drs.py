"""The literal DRS against what must hold of any implementation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from tests.stages.literal import drs
from tests.stages.literal.drs import cells, maps, rate, resnet_logits, second_loss, second_maps, suppress, train
from tests.stages.literal.networks import COUNT, SIZE, classifier

LAYERS = ("layer1", "layer2", "layer3", "layer4")
WIDTHS = {64: 4, 128: 5, 256: 6, 512: 8}
"""VGG-16's channels, and those of the tests' narrow one."""
DELTA = 0.55
LN3 = math.log(3)
"""sigmoid(LN3) = 0.75."""


def double(values: Sequence) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def gradients(outputs: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Of a sum in which every output has a weight of its own."""
    weights = random(*outputs.shape, seed=9)
    return torch.autograd.grad((outputs * weights).sum(), list(parameters))


@cache
def convolutions() -> list[drs.Convolution]:
    """Random weights of a narrow VGG-16 with its head. Not to be changed."""
    outs = [WIDTHS[width] for width in cfgs["D"] if width != "M"] + [WIDTHS[512]] * 3 + [COUNT]
    ins = [3, *outs[:-1]]
    convs = []
    for number, (out, width) in enumerate(zip(outs, ins, strict=True)):
        side = 1 if number == 16 else 3
        weight = random(out, width, side, side, seed=number) * math.sqrt(4 / (side**2 * width))
        convs.append((weight.requires_grad_(), (0.1 * random(out, seed=50 + number)).requires_grad_()))
    return convs


@cache
def vgg_gates(size: float = 1.0) -> list[Tensor]:
    """W of the 16 modules. Not to be changed."""
    widths = [len(bias) for _, bias in convolutions()[:-1]]
    return [(size * random(width, width, seed=70 + i)).requires_grad_() for i, width in enumerate(widths)]


def leaves(convs: Sequence[drs.Convolution]) -> list[Tensor]:
    return [tensor for conv in convs for tensor in conv]


class Module(nn.Module):
    """The DRS module on a batch, without loops; which of min, max and mean are differentiated is left to PyTorch."""

    def __init__(self, delta: float | None, gate_CC: Tensor | None, valid_B1hw: Tensor | None = None) -> None:
        super().__init__()
        self.delta, self.gate_CC, self.valid_B1hw = delta, gate_CC, valid_B1hw

    def forward(self, x_BChw: Tensor) -> Tensor:
        relu = x_BChw.clamp(min=0)
        valid = torch.ones_like(x_BChw[:, :1]) if self.valid_B1hw is None else self.valid_B1hw.double()
        top = (relu * valid).amax(dim=(2, 3), keepdim=True)
        if self.gate_CC is None:
            return relu if self.delta is None else torch.minimum(relu, self.delta * top)
        mean_BC = (relu * valid).sum(dim=(2, 3)) / valid.sum(dim=(2, 3))
        gate_BC = (mean_BC @ self.gate_CC.T).sigmoid()
        return torch.minimum(relu, gate_BC[:, :, None, None] * top)


def torchvision_logits(
    images_BCHW: Tensor, gates: Sequence[Tensor] | None = None, delta: float | None = None
) -> Tensor:
    """torchvision's own layers, changed as the method says, with the narrow network's weights."""
    layers = list(make_layers([width if width == "M" else WIDTHS[width] for width in cfgs["D"]]))
    assert isinstance(layers.pop(), nn.MaxPool2d)
    pools = [layer for layer in layers if isinstance(layer, nn.MaxPool2d)]
    layers[layers.index(pools[3])] = nn.MaxPool2d(3, stride=1, padding=1)
    for layer in [layer for layer in layers if isinstance(layer, nn.Conv2d)][-3:]:
        layer.dilation = layer.padding = (2, 2)
    for _ in range(3):
        layers += [nn.Conv2d(WIDTHS[512], WIDTHS[512], 3, padding=1), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Conv2d(WIDTHS[512], COUNT, 1))
    given = iter(leaves(convolutions()))
    number = 0
    for position, layer in enumerate(network):
        if isinstance(layer, nn.Conv2d):
            for name in ("weight", "bias"):
                delattr(layer, name)
                setattr(layer, name, next(given))  # the tensor itself, so that gradients reach it
        elif isinstance(layer, nn.ReLU):
            network[position] = Module(delta, None if gates is None else gates[number])
            number += 1
    assert (number, next(given, None)) == (16, None)
    return network(images_BCHW)


# The module


def test_values_above_delta_times_their_channels_maximum_become_that() -> None:
    features = double([[[-1, 2], [4, 8]], [[-1, -2], [-4, 0]], [[10, 1], [9, -20]]])
    expected = [[[0, 2], [4, 4]], [[0, 0], [0, 0]], [[5, 1], [5, 0]]]
    assert suppress(features, 0.5).tolist() == expected


def test_a_learnt_limit_depends_on_the_means_of_all_channels() -> None:
    # Maxima 8 and 1, means 3.5 (after the ReLU) and 1.
    features = double([[[-1, 2], [4, 8]], [[1, 1], [1, 1]]])
    gate = double([[0, LN3], [-LN3 / 3.5, 0]])
    close(suppress(features, gate_CC=gate), double([[[0, 2], [4, 6]], [[0.25, 0.25], [0.25, 0.25]]]))


def test_without_delta_and_matrix_it_is_a_relu() -> None:
    features = random(3, 4, 5)
    assert torch.equal(suppress(features), F.relu(features))


@pytest.mark.parametrize("delta", [1.0, 1.5])
def test_delta_of_one_or_more_is_a_relu_to_the_last_bit_with_its_gradient(delta: float) -> None:
    # Among the pixels are equal maxima and zeros, and a channel without a positive one.
    features = torch.cat([random(3, 4, 5).round(), -random(1, 4, 5).abs()]).requires_grad_()
    assert (features[:1] == features[:1].max()).sum() > 1
    suppressed = suppress(features, delta)
    assert torch.equal(suppressed, F.relu(features))
    (gradient,), (expected,) = gradients(suppressed, [features]), gradients(F.relu(features), [features])
    assert torch.equal(gradient, expected)


def test_twice_is_once_with_the_square_of_delta() -> None:
    features = random(3, 4, 5)
    assert torch.equal(suppress(suppress(features, 0.5), 0.5), suppress(features, 0.25))
    close(suppress(suppress(features, DELTA), DELTA), suppress(features, DELTA**2))


def test_a_factor_of_the_input_is_one_of_the_output_with_a_fixed_delta_only() -> None:
    features, gate = random(3, 4, 5), random(3, 3, seed=1)
    assert torch.equal(suppress(8 * features, DELTA), 8 * suppress(features, DELTA))
    difference = suppress(8 * features, gate_CC=gate) - 8 * suppress(features, gate_CC=gate)
    assert difference.abs().max() > 0.1


def test_the_maximum_of_each_channel_becomes_delta_times_it() -> None:
    features = random(3, 4, 5)
    close(suppress(features, DELTA).amax(dim=(1, 2)), DELTA * features.amax(dim=(1, 2)))


def test_a_matrix_of_zeros_is_delta_of_one_half_but_it_learns() -> None:
    features, gate = random(3, 4, 5).requires_grad_(), torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    learnable, fixed = suppress(features, gate_CC=gate), suppress(features, 0.5)
    assert torch.equal(learnable, fixed)
    (of_features, of_gate), (expected,) = gradients(learnable, [features, gate]), gradients(fixed, [features])
    assert torch.equal(of_features, expected)
    assert (of_gate != 0).all()


def test_the_maximum_gets_the_gradients_of_the_clipped_pixels_times_delta() -> None:
    features = double([[[1, 5], [6, 8]], [[-3, 2], [0.5, 0.25]]]).requires_grad_()
    # Clipped are 5, 6 and 8 at 4; and 2 at 1.
    (gradient,) = torch.autograd.grad(suppress(features, 0.5).sum(), features)
    assert gradient.tolist() == [[[1, 0], [0, 1.5]], [[0, 0.5], [1, 1]]]


def test_of_equal_maxima_one_gets_the_gradient() -> None:
    features = double([[[1, 8], [2, 8]]]).requires_grad_()
    (gradient,) = torch.autograd.grad(suppress(features, 0.5).sum(), features)
    assert gradient.tolist() == [[[1, 1], [1, 0]]]


def test_the_matrix_gets_the_gradients_of_the_clipped_pixels() -> None:
    features = double([[[1, 5], [6, 8]], [[0, 1], [0, 0]]])
    gate = double([[0, -4 * LN3], [0, 4 * LN3]]).requires_grad_()
    # g = 0.25 and 0.75: clipped at 2 and at 0.75 are 3 pixels and 1.
    (gradient,) = torch.autograd.grad(suppress(features, gate_CC=gate).sum(), gate)
    # Number · m · g·(1 − g) · mean, of means 5 and 0.25.
    expected = double([[3 * 8 * 5, 3 * 8 * 0.25], [1 * 5, 1 * 0.25]]) * 0.1875
    close(gradient, expected)


def test_the_gradient_passes_through_maximum_and_mean() -> None:
    features, gate = random(2, 3, 4).requires_grad_(), random(2, 2, seed=1).requires_grad_()
    valid = torch.ones(3, 4, dtype=torch.bool)
    valid[1:, 2:] = False
    for mask in (None, valid):
        assert torch.autograd.gradcheck(lambda x, mask=mask: suppress(x, DELTA, valid_hw=mask), (features,))
        assert torch.autograd.gradcheck(
            lambda x, w, mask=mask: suppress(x, gate_CC=w, valid_hw=mask), (features, gate)
        )  # fmt: skip


def test_padding_is_clipped_but_enters_neither_maximum_nor_mean() -> None:
    features = double([[[1, 4], [100, 2]]])
    valid = torch.tensor([[True, True], [False, True]])
    assert suppress(features, 0.5, valid_hw=valid).tolist() == [[[1, 2], [2, 2]]]
    # The mean of the valid positions is 7/3; g = 0.75.
    gate = double([[LN3 * 3 / 7]])
    close(suppress(features, gate_CC=gate, valid_hw=valid), double([[[1, 3], [3, 2]]]))
    everywhere = torch.ones(2, 2, dtype=torch.bool)
    for run in ({"delta": 0.5}, {"gate_CC": gate}):
        assert torch.equal(suppress(features, valid_hw=everywhere, **run), suppress(features, **run))


# The backbone


@pytest.mark.parametrize("mode", ["plain", "fixed", "learnable"])
def test_images_of_a_batch_have_the_logits_and_gradients_of_torchvisions_layers(mode: str) -> None:
    gates = vgg_gates() if mode == "learnable" else None
    delta = DELTA if mode == "fixed" else None
    images = random(2, 3, 32, 48)
    each = torch.stack([drs.vgg_logits(image, convolutions(), gates, delta) for image in images])
    expected = torchvision_logits(images, gates, delta)
    assert each.shape == (2, COUNT, 4, 6)
    assert (each.std(dim=(2, 3)) > 1e-3).all()
    close(each, expected, 1e-11)
    parameters = leaves(convolutions()) + (gates or [])
    for gradient, other in zip(gradients(each, parameters), gradients(expected, parameters), strict=True):
        assert gradient.abs().max() > 1e-12
        close(gradient, other, 1e-9)


@pytest.mark.parametrize("delta", [1.0, 1.5])
def test_a_network_with_delta_of_one_or_more_is_the_plain_one_to_the_last_bit(delta: float) -> None:
    image = random(3, 32, 48)
    parameters = leaves(convolutions())
    logits, plain = (drs.vgg_logits(image, convolutions(), delta=each) for each in (delta, None))
    assert torch.equal(logits, plain)
    for gradient, expected in zip(gradients(logits, parameters), gradients(plain, parameters), strict=True):
        assert torch.equal(gradient, expected)


def test_a_network_with_matrices_of_zeros_has_delta_of_one_half() -> None:
    image = random(3, 32, 48)
    zeros = [torch.zeros_like(gate) for gate in vgg_gates()]
    logits = drs.vgg_logits(image, convolutions(), zeros)
    assert torch.equal(logits, drs.vgg_logits(image, convolutions(), delta=0.5))
    assert not torch.equal(logits, drs.vgg_logits(image, convolutions()))


@pytest.mark.parametrize(("size", "grid"), [((32, 48), (4, 6)), ((37, 55), (4, 6)), ((40, 56), (5, 7))])
def test_the_stride_is_8(size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert drs.vgg_logits(random(3, *size), convolutions()).shape == (COUNT, *grid)


@pytest.mark.parametrize(
    ("number", "profile"),
    [
        (10, [1, 1, 1, 1, 1]),  # conv4_3: three cells, which pool4 widens
        (11, [1, 1, 2, 1, 2, 1, 1]),  # conv5, dilated, on the three cells that pool4 makes of one
        (13, [1, 1, 2, 1, 2, 1, 1]),
        (14, [1, 2, 3, 2, 1]),  # the new ones, not dilated
        (16, [1, 2, 3, 2, 1]),
    ],
)
def test_a_pixel_reaches_as_far_as_dilation_and_pooling_say(number: int, profile: list[int]) -> None:
    """Convolutions of one channel that change nothing, but for one that sums its nine values."""
    convs = []
    for position in range(1, 18):
        width, side = (3 if position == 1 else 1), (1 if position == 17 else 3)
        weight = torch.zeros(1, width, side, side, dtype=torch.float64)
        weight[0, 0, side // 2, side // 2] = 1
        if position == number:
            weight[0, 0] = 1
        convs.append((weight, double([0])))
    convs[16] = (convs[16][0], double([0.5]))
    image = torch.zeros(3, 72, 72, dtype=torch.float64)
    image[0, 37, 33] = 1
    row = torch.zeros(9, dtype=torch.float64)
    row[4 - len(profile) // 2 : 5 + len(profile) // 2] = double(profile)
    assert torch.equal(drs.vgg_logits(image, convs)[0], torch.outer(row, row) + 0.5)


# On a ResNet


@cache
def resnet_gates() -> list[Tensor]:
    """W of the four modules. Not to be changed."""
    channels = classifier(COUNT, None).backbone.channels
    return [(0.3 * random(channels[name], channels[name], seed=i)).requires_grad_() for i, name in enumerate(LAYERS)]


@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_a_module_follows_each_layer_of_a_resnet(learnable: bool, padded: bool) -> None:
    network = classifier(COUNT, "layer2").requires_grad_(True)
    gates, delta = (resnet_gates(), None) if learnable else (None, DELTA)
    images = random(2, 3, *SIZE)
    valid = torch.zeros(2, *SIZE, dtype=torch.bool)
    valid[0, :33], valid[1, :20, 17:] = True, True

    def after(level: str, feature_BChw: Tensor) -> Tensor:
        if level == "stem":
            return feature_BChw
        stride = network.backbone.strides[level]
        covered = F.max_pool2d(valid[:, None].double(), stride, ceil_mode=True)
        assert covered.shape[2:] == feature_BChw.shape[2:]
        gate_CC = gates[LAYERS.index(level)] if gates else None
        return Module(delta, gate_CC, covered if padded else None)(feature_BChw)

    each = torch.stack(
        [
            resnet_logits(network, image, gates, delta, valid_HW if padded else None)
            for image, valid_HW in zip(images, valid, strict=True)
        ]
    )
    expected = network.classifier(network.backbone(images, after))
    close(each, expected, 1e-11)
    # Nothing is detached, whatever the classifier's training does.
    parameters = [*network.parameters(), *(gates or [])]
    for gradient, other in zip(gradients(each, parameters), gradients(expected, parameters), strict=True):
        assert gradient.abs().max() > 1e-12
        close(gradient, other, 1e-9)
    if padded:
        assert (
            each - torch.stack([resnet_logits(network, image, gates, delta) for image in images])
        ).abs().max() > 1e-3


@pytest.mark.parametrize("delta", [None, 1.0, 1.5])
def test_a_resnet_with_delta_of_one_or_more_is_the_classifier_to_the_last_bit(delta: float | None) -> None:
    network = classifier(COUNT, None)
    image = random(3, *SIZE)
    logits, expected = resnet_logits(network, image, delta=delta), network.classifier(network.features(image[None]))[0]
    assert torch.equal(logits, expected)
    parameters = list(network.parameters())
    for gradient, other in zip(gradients(logits, parameters), gradients(expected, parameters), strict=True):
        assert torch.equal(gradient, other)


def test_an_image_without_padding_is_valid_everywhere() -> None:
    network, image = classifier(COUNT, None), random(3, *SIZE)
    everywhere = torch.ones(*SIZE, dtype=torch.bool)
    for run in ({"gates": resnet_gates()}, {"delta": DELTA}):
        logits = resnet_logits(network, image, valid=everywhere, **run)
        assert torch.equal(logits, resnet_logits(network, image, **run))


def test_a_position_is_valid_if_any_pixel_of_its_cell_is() -> None:
    valid = torch.zeros(5, 7, dtype=torch.bool)
    valid[1, 4] = valid[4, 6] = valid[3, 0] = True
    # Cells of 4×4; those at the border hold fewer pixels.
    assert cells(valid, 4, (2, 2)).tolist() == [[True, True], [False, True]]
    # Cells beyond the image hold none.
    assert cells(valid, 4, (3, 2)).tolist() == [[True, True], [False, True], [False, False]]


# 1 Training


def test_the_loss_is_the_soft_margin_of_the_mean_logits() -> None:
    # Means 0 and LN3 (after a ReLU they would be higher); −log of 0.5 and of 0.75 or 0.25.
    logits = double([[[-2, 2]], [[-LN3, 3 * LN3]]])
    both = [-math.log(0.5 * 0.75) / 2, -math.log(0.5 * 0.25) / 2]
    for targets, expected in (([0, 1], both[0]), ([1, 0], both[1])):
        assert drs.loss([logits], double([targets])).item() == pytest.approx(expected, abs=1e-14)
    several, targets = random(3, COUNT, 4, 5), (random(3, COUNT, seed=1) > 0).double()
    expected = F.multilabel_soft_margin_loss(several.mean(dim=(2, 3)), targets)
    close(drs.loss(list(several), targets), expected)


def test_a_batchs_loss_is_the_mean_of_its_images() -> None:
    images, targets = random(2, 3, 24, 32), (random(2, COUNT, seed=1) > 0).double()
    alone = [
        drs.loss([drs.vgg_logits(image, convolutions(), vgg_gates())], target[None])
        for image, target in zip(images, targets, strict=True)
    ]
    together = drs.loss(list(torchvision_logits(images, vgg_gates())), targets)
    close(sum(alone) / 2, together)
    parameters = leaves(convolutions()) + vgg_gates()
    both = [gradients(value[None], parameters) for value in (sum(alone) / 2, together)]
    for gradient, expected in zip(*both, strict=True):
        close(gradient, expected, 1e-9)


def test_padding_is_not_pooled() -> None:
    logits = double([[[5, 0], [-7, 1]]]), double([[[2, 4]]])
    valid = torch.tensor([[True, False], [False, True]]), torch.tensor([[True, True]])
    scores = (3, 3)
    expected = -(F.logsigmoid(double([scores[0]])) + F.logsigmoid(-double([scores[1]]))) / 2
    close(drs.loss(logits, double([[1], [0]]), valid), expected[0])


@pytest.mark.parametrize(("kind", "factor"), [("weight", 1), ("bias", 2), ("new weight", 10), ("new bias", 20)])
def test_the_rate_is_a_tenth_from_epoch_5_and_again_from_epoch_10(kind: str, factor: int) -> None:
    rates = [rate(kind, epoch) for epoch in range(1, 16)]
    assert rates == pytest.approx([1e-3 * factor] * 4 + [1e-4 * factor] * 5 + [1e-5 * factor] * 6)
    assert rate(kind, 9, lr=0.5) == pytest.approx(0.05 * factor)


def test_two_steps_by_hand() -> None:
    parameter = double([1.0])
    # The gradient is the batch. d = 2.5, v = 2.5, −0.1·(2.5 + 0.9·2.5): 0.525.
    train({"weight": [parameter]}, [[2.0]], lambda batch: batch * parameter.sum(), lr=0.1, weight_decay=0.5)
    assert parameter.item() == pytest.approx(0.525)
    parameter = double([1.0])
    # Then d = −1 + 0.2625 = −0.7375, v = 2.25 − 0.7375 = 1.5125, −0.1·(−0.7375 + 1.36125): 0.462625.
    train({"weight": [parameter]}, [[2.0, -1.0]], lambda batch: batch * parameter.sum(), lr=0.1, weight_decay=0.5)
    assert parameter.item() == pytest.approx(0.462625)


def test_the_schedule_is_that_of_pytorch() -> None:
    """Groups of four rates over twelve epochs of a quadratic loss; one parameter never has a gradient."""
    kinds = ["weight", "bias", "new weight", "new bias"]
    starts = [random(3, seed=i) for i in range(5)]
    epochs = [[random(4, 3, seed=10 * epoch + step) for step in range(2)] for epoch in range(1, 13)]

    def loss_of(parameters: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda batch: sum(((p - row) ** 2).sum() for p, row in zip(parameters[:4], batch, strict=True))

    mine = [start.clone() for start in starts]
    groups = {kind: [parameter] for kind, parameter in zip(kinds, mine[:4], strict=True)}
    groups["weight"].append(mine[4])
    train(groups, epochs, loss_of(mine), lr=1e-3)

    theirs = [start.clone().requires_grad_() for start in starts]
    factors = (1, 2, 10, 20, 1)
    optimizer = torch.optim.SGD(
        [{"params": [parameter], "lr": 1e-3 * factor} for parameter, factor in zip(theirs, factors, strict=True)],
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
    )
    for epoch, batches in enumerate(epochs, start=1):
        if epoch in (5, 10):
            for group in optimizer.param_groups:
                group["lr"] /= 10
        for batch in batches:
            optimizer.zero_grad()
            (loss_of(theirs)(batch) + 0 * theirs[4].sum()).backward()
            optimizer.step()
    for parameter, expected, start in zip(mine, theirs, starts, strict=True):
        close(parameter.detach(), expected.detach())
        assert (parameter != start).all()


# 2 Maps


def fixed_logits(by_side: dict[int, list]) -> drs.Network:
    """Logits that depend on the square's side alone."""
    return lambda square_3SS: double(by_side[square_3SS.shape[1]])


SQUARE = torch.zeros(3, 10, 10, dtype=torch.float64)


def test_a_map_is_rectified_upsampled_corner_to_corner_and_divided_by_its_maximum() -> None:
    network = fixed_logits({8: [[[9, 9]], [[-4, 2]]]})
    (map_HW,) = maps(network, SQUARE, (2, 3), [2], sides=[8])
    # Rectified after upsampling, the middle would be 0; of other corners, the left would not be 0.
    close(map_HW, double([[0, 1, 2]] * 2) / (2 + 1e-5))


def test_maps_are_divided_at_each_scale_before_the_maximum_over_scales() -> None:
    network = fixed_logits({8: [[[100, 0, 50]]], 12: [[[0, 1, 0]]]})
    (map_HW,) = maps(network, SQUARE, (1, 3), [1], sides=[8, 12])
    close(map_HW, double([[100 / (100 + 1e-5), 1 / (1 + 1e-5), 50 / (100 + 1e-5)]]))


def test_the_maximum_that_divides_is_that_of_the_image_not_of_the_grid() -> None:
    # Three columns to two: the middle one is not seen.
    network = fixed_logits({8: [[[1, 7, 4]]]})
    close(maps(network, SQUARE, (1, 2), [1], sides=[8]), double([[[1, 4]]]) / (4 + 1e-5))


def test_the_network_sees_the_square_at_each_side_without_antialiasing() -> None:
    square = torch.zeros(3, 8, 8, dtype=torch.float64)
    square[0, 1], square[0, 6, :] = 1, 4
    square[1] = random(8, 8)
    seen = []

    def network(square_3SS: Tensor) -> Tensor:
        seen.append(square_3SS)
        return torch.ones(1, 1, 1, dtype=torch.float64)

    maps(network, square, (2, 3), [1], sides=[2, 8, 16])
    assert [tuple(each.shape) for each in seen] == [(3, 2, 2), (3, 8, 8), (3, 16, 16)]
    # Rows 1.5 and 5.5 of the square.
    close(seen[0][0], double([[0.5, 0.5], [2, 2]]))
    assert torch.equal(seen[1], square)
    # Rows −0.25 (the border's), 0.25, 0.75, …
    close(seen[2][0, :4, 0], double([0, 0.25, 0.75, 0.75]))


def test_maps_reach_1_where_the_class_has_a_positive_logit_and_are_0_elsewhere() -> None:
    def network(square_3SS: Tensor) -> Tensor:
        logits = drs.vgg_logits(square_3SS, convolutions(), vgg_gates())
        # The classes' logits have both signs, but for class 2.
        logits = logits - logits.mean(dim=(1, 2), keepdim=True)
        return torch.stack([logits[0], -logits[1].abs(), *logits[2:]])

    square = random(3, 40, 40)
    found = maps(network, square, SIZE, [1, 2, 4], sides=[32, 40, 48])
    assert found.shape == (3, *SIZE)
    assert 0 <= found.min() <= found.max() <= 1
    assert (found.amax(dim=(1, 2))[[0, 2]] > 0.999).all()
    assert (found[1] == 0).all()
    assert torch.equal(found, maps(network, square, SIZE, [1, 2, 4], sides=[32, 40, 48]))
    # No class knows of another, and one scale never lowers what another gives.
    assert torch.equal(found[2:], maps(network, square, SIZE, [4], sides=[32, 40, 48]))
    assert (found >= maps(network, square, SIZE, [1, 2, 4], sides=[32])).all()


@pytest.mark.parametrize("make", [maps, second_maps])
def test_an_image_without_labels_has_no_maps(make: Callable[..., Tensor]) -> None:
    found = make(fixed_logits({}), SQUARE, SIZE, [])
    assert (found.shape, found.dtype) == ((0, *SIZE), torch.float64)


def test_the_published_sides() -> None:
    assert drs.SIDES == (256, 320, 384)


def test_suppression_is_more_than_a_finished_map_that_is_clipped() -> None:
    """A clipped map of one class has the regions of another threshold; the network's have not."""
    square = random(3, 40, 40)
    plain, suppressed = (
        maps(lambda x, d=delta: drs.vgg_logits(x, convolutions(), delta=d), square, SIZE, [1], sides=[40])[0]
        for delta in (None, DELTA)
    )
    clipped = torch.minimum(plain, DELTA * plain.max())
    for tau in (0.1, 0.3, 0.5, 0.9):
        assert torch.equal(clipped / clipped.max() > tau, plain / plain.max() > tau * DELTA)
    # Where the plain map rises from one pixel to another by much, the network's falls by much.
    rises = plain.flatten()[:, None] - plain.flatten()[None]
    falls = suppressed.flatten()[None] - suppressed.flatten()[:, None]
    assert ((rises > 0.05) & (falls > 0.05)).any()


# 3 Refinement


def test_each_pixel_keeps_its_strongest_class_and_ties_keep_all() -> None:
    maps_NHW = double([[[0.5, 0.3, 1.0, 0]], [[0.501, 0.4, 0.999, 0]], [[0.1, 0, 0, 0]]])
    # floor(255·a): 127 and 127, 76 and 102, 255 and 254, which both become 254.
    expected = double([[[127, 0, 254, 0]], [[127, 102, 254, 0]], [[0, 0, 0, 0]]]) / 255
    close(drs.targets(maps_NHW), expected)


def test_the_second_loss_is_the_mean_square_of_the_upsampled_output() -> None:
    outputs = [double([[[-1, 1]], [[0, 2]]]), double([[[0, 0]], [[1, 0]]])]
    learnt = [double([[[0, 0, 1]], [[0, 0.5, 0]]]), double([[[0, 0, 0]], [[1, 1, 0]]])]
    # −1, 0, 1 and 0, 1, 2; then 0, 0, 0 and 1, 0.5, 0. (After a ReLU the first would be 0.)
    squares = [1, 0, 0, 0, 0.25, 4, 0, 0, 0, 0, 0.25, 0]
    assert second_loss(outputs, learnt).item() == pytest.approx(sum(squares) / 12)


def test_second_maps_are_the_largest_output_of_any_scale_and_are_not_divided() -> None:
    network = fixed_logits({8: [[[5, 5]], [[-4, 2]]], 12: [[[5, 5]], [[-3, -1]]]})
    (map_HW,) = second_maps(network, SQUARE, (2, 3), [2], sides=[8, 12])
    # Upsampled −4, −1, 2 and −3, −2, −1; rectified before that, the middle would be 1.
    close(map_HW, double([[0, 0, 2]] * 2))


def test_the_second_network_sees_the_squares_of_the_first() -> None:
    square = random(3, 8, 8)
    seen: dict[str, list[Tensor]] = {"first": [], "second": []}

    def network(name: str) -> drs.Network:
        def run(square_3SS: Tensor) -> Tensor:
            seen[name].append(square_3SS)
            return torch.ones(1, 1, 1, dtype=torch.float64)

        return run

    maps(network("first"), square, (2, 3), [1], sides=[2, 16])
    second_maps(network("second"), square, (2, 3), [1], sides=[2, 16])
    assert len(seen["first"]) == 2
    assert all(torch.equal(*both) for both in zip(*seen.values(), strict=True))


def test_an_image_is_fitted_by_the_second_network_that_learnt_its_target() -> None:
    """Logits that equal the target have no loss, and their maps are the target."""
    maps_NHW = torch.zeros(3, 1, 4, dtype=torch.float64)
    maps_NHW[0], maps_NHW[2] = double([[0.2, 0.9, 0, 0.6]]), double([[0.4, 0.3, 1, 0]])
    learnt = drs.targets(maps_NHW)
    assert second_loss([learnt], [learnt]).item() == 0
    assert torch.equal(second_maps(lambda square: learnt, SQUARE, (1, 4), [1, 3], sides=[8]), learnt[[0, 2]])
