"""DeepLabv2's sizes, dilations, parameters and loss against plain PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torchvision.models import resnet50

from amn_ray.nn.backbones.resnet import ResNet
from amn_ray.nn.config import BackboneConfig
from amn_ray.stages.deeplabv2.example import grid_size
from amn_ray.stages.deeplabv2.loss import segmentation_loss
from amn_ray.stages.deeplabv2.model import DeepLabNet, largest

SMALL = BackboneConfig(name="resnet18", weights=None)
SCALES = [1.0, 0.75, 0.5]


def defined(labels: list[torch.Tensor]) -> list[torch.Tensor]:
    return [(label != 255).sum() for label in labels]


@pytest.mark.parametrize("size", [(65, 65), (33, 97), (1, 1)])
def test_the_sizes_of_all_outputs_are_known_beforehand(size: tuple[int, int]) -> None:
    net = DeepLabNet(SMALL, 3, SCALES).eval()
    outputs = net(torch.randn(1, 3, *size))
    assert [tuple(output.shape[-2:]) for output in outputs] == [grid_size(size, scale) for scale in [*SCALES, 1]]


def test_the_backbone_is_torchvisions_dilated_one_but_for_the_first_blocks() -> None:
    """With the first blocks' dilation set back, features equal torchvision's replace_stride_with_dilation."""
    torch.manual_seed(0)
    reference = resnet50(weights=None, replace_stride_with_dilation=[False, True, True]).eval()
    ours = ResNet(BackboneConfig(weights=None), output_stride=8).eval()
    ours.load(reference.state_dict())
    for layer, dilation in ((ours.layer3, 1), (ours.layer4, 2)):
        conv = layer[0].conv2
        assert conv.dilation == (2 * dilation, 2 * dilation)
        conv.dilation = conv.padding = (dilation, dilation)
    image = torch.randn(1, 3, 49, 65)
    expected = nn.Sequential(*list(reference.children())[:-2])(image)
    torch.testing.assert_close(ours(image), expected)


def test_the_last_output_is_the_largest_logit_of_all_scales() -> None:
    pyramid = [torch.zeros(1, 1, 2, 2), torch.full((1, 1, 1, 1), -1.0), torch.tensor([[[[5.0]]]])]
    assert (largest(pyramid) == 5).all()
    pyramid[0][0, 0, 0, 1] = 7
    assert largest(pyramid)[0, 0].tolist() == [[5, 7], [5, 5]]


def test_the_loss_is_the_sum_of_pytorchs_cross_entropies() -> None:
    torch.manual_seed(0)
    pyramid = [torch.randn(2, 4, size, size) for size in (5, 3, 2, 5)]
    labels = [torch.randint(0, 4, (2, logits.shape[2], logits.shape[3])) for logits in pyramid]
    labels[0][0, :2] = 255
    expected = sum(F.cross_entropy(o, label, ignore_index=255) for o, label in zip(pyramid, labels, strict=True))
    torch.testing.assert_close(segmentation_loss(pyramid, labels, defined(labels)), expected)


def test_a_batch_in_parts_has_the_loss_of_the_whole() -> None:
    torch.manual_seed(0)
    pyramid, labels = [torch.randn(4, 3, 5, 5)], [torch.randint(0, 3, (4, 5, 5))]
    labels[0][0, :4] = 255
    counts = defined(labels)
    whole = segmentation_loss(pyramid, labels, counts)
    parts = [segmentation_loss([pyramid[0][i : i + 1]], [labels[0][i : i + 1]], counts) for i in range(4)]
    torch.testing.assert_close(torch.stack(parts).sum(), whole)


def test_undefined_pixels_alone_give_a_loss_of_zero() -> None:
    labels = [torch.full((1, 2, 2), 255)]
    assert segmentation_loss([torch.randn(1, 3, 2, 2)], labels, defined(labels)).item() == 0


def test_all_convolutions_train_and_no_batchnorm_that_keeps_its_statistics() -> None:
    net = DeepLabNet(BackboneConfig(name="resnet18"), 3, SCALES)
    for module in net.backbone.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            assert all(p.requires_grad == isinstance(module, nn.Conv2d) for p in module.parameters())
