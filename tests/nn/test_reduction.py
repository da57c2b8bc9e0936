"""Two real processes with half a batch each have the gradient of one with all of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from amn_ray.stages.amn.loss import pcl_loss
from amn_ray.stages.deeplabv2.loss import segmentation_loss
from amn_ray.stages.irn.loss import irn_loss

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
LOSSES: dict[str, Loss] = {
    "pcl": lambda out, seed: pcl_loss(out, seed, 0.4),
    "irn": lambda out, seed: irn_loss(out[:, 0].sigmoid(), out[:, 1:], seed, 3),
    "deeplab": lambda out, seed: segmentation_loss([out, out / 2], [seed, seed], [(seed != 255).sum()] * 2),
}
"""(network's output, seed) -> loss."""


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4, 3, 6, 6, generator=generator, dtype=torch.float64)
    # Very different numbers of foreground and undefined pixels per image, so that local means would be wrong.
    seed = torch.zeros(4, 6, 6, dtype=torch.uint8)
    seed[0, :1] = 1
    seed[1, :5] = 2
    seed[2, 3:] = 255
    seed[3] = 1
    return features, seed


def model() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Conv2d(3, 3, 1).double()


def worker(rank: int, folder: str, loss: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    net = DistributedDataParallel(model())
    features, seed = batch()
    half = slice(2 * rank, 2 * rank + 2)
    LOSSES[loss](net(features[half]), seed[half]).backward()
    if rank == 0:
        torch.save(net.module.weight.grad, f"{folder}/gradient.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_of_two_workers_has_the_gradient_of_one(tmp_path: Path, loss: str) -> None:
    mp.spawn(worker, args=(str(tmp_path), loss), nprocs=2)
    single = model()
    features, seed = batch()
    LOSSES[loss](single(features), seed).backward()
    torch.testing.assert_close(torch.load(tmp_path / "gradient.pt"), single.weight.grad, rtol=1e-12, atol=1e-14)
