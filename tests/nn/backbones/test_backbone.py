"""What all backbones share."""

from __future__ import annotations

from pathlib import Path

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from amn_ray.nn.backbones.backbone import backbone_in
from amn_ray.nn.classifier import Classifier
from amn_ray.nn.config import BackboneConfig


def test_the_backbone_is_found_inside_of_a_network_that_is_trained_by_several_workers(tmp_path: Path) -> None:
    network = Classifier(BackboneConfig(name="resnet18", weights=None), 3, None)
    assert backbone_in(network) is network.backbone
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        assert backbone_in(DistributedDataParallel(network)) is network.backbone
    finally:
        dist.destroy_process_group()
