"""IRN's walk and training step, at the sizes of photographs (500×375 is 125×94 at stride 4)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import torch

from amn_ray.stages.irn import loss
from amn_ray.stages.irn.config import WalkConfig
from amn_ray.stages.irn.walk import random_walk, transition
from benchmarks.numerics import Row
from benchmarks.timing import in_turn

GRID, RADIUS = 128, 10
"""A crop of 512 at stride 4, and the reach of its pairs."""
FEW, BATCH = 4, 32
"""Numbers of crops: so few that all paths fit into memory, and the paper's batch."""


def scene(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two maps and edges between 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, height, width, generator=generator), torch.rand(height, width, generator=generator)


def walk() -> Iterator[Row]:
    """The sparse walk against eight squarings of the dense matrix."""
    # The powers fill with numbers below 1e-38, which slowed the dense product over 50 times here.
    torch.set_flush_denormal(True)
    config = WalkConfig(power=1.3)
    maps_Khw, edge_hw = scene(48, 60)

    def dense() -> torch.Tensor:
        matrix = transition(edge_hw, config.radius, config.beta).to_dense()
        for _ in range(config.doublings):
            matrix = matrix @ matrix
        state_PK = (maps_Khw**config.power * (1 - edge_hw)).flatten(1).T
        return (matrix @ state_PK).T.reshape(maps_Khw.shape)

    def sparse() -> torch.Tensor:
        return random_walk(maps_Khw, edge_hw, config)

    torch.testing.assert_close(sparse(), dense(), rtol=1e-3, atol=1e-6)
    seconds = in_turn({"dense": dense, "sparse": sparse}, rounds=7)
    yield "random walk at 48×60, K = 2", "power of the dense matrix", seconds["dense"] / seconds["sparse"], "≥ 20"

    torch.set_flush_denormal(False)
    large = scene(94, 125)
    seconds = in_turn({"sparse": lambda: random_walk(*large, config)}, rounds=3)
    entries = transition(large[1], config.radius, config.beta).values().numel()
    pixels = large[1].numel()
    operations = config.doublings * pixels**3 / (2**config.doublings * entries * len(large[0]))
    yield "random walk at 94×125, K = 2: seconds", "", seconds["sparse"], "≤ 2"
    yield "its multiplications", "the dense matrix's (counted)", operations, ""


def loss_step(plain: bool, images: int) -> Callable[[], None]:
    """One forward and backward pass of the loss."""
    torch.manual_seed(0)
    edge = torch.rand(images, GRID, GRID).requires_grad_()
    shift = torch.randn(images, 2, GRID, GRID).requires_grad_()
    seed = torch.randint(0, 3, (images, GRID // 8, GRID // 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    if plain:
        keep: Any = lambda function, *arguments, use_reentrant: function(*arguments)  # noqa: E731
        loss.checkpoint = keep

    def step() -> None:
        loss.irn_loss(edge, shift, seed, RADIUS).backward()

    return step


def measure_step(plain: bool, images: int) -> tuple[float, float]:
    """(median seconds, GiB that the step adds to a process)."""
    step = loss_step(plain, images)
    Path("/proc/self/clear_refs").write_text("5")  # resets the kernel's record of the largest memory
    before = psutil.Process().memory_info().rss
    seconds = in_turn({"step": step}, rounds=3)["step"]
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    return seconds, (int(peak[1]) * 1024 - before) / 2**30


def training_step() -> Iterator[Row]:
    """One direction of pairs at a time against all paths in memory."""
    spawn = get_context("spawn")
    measured = {}
    for case in ((True, FEW), (False, FEW), (False, BATCH)):
        with ProcessPoolExecutor(1, spawn, torch.set_num_threads, (torch.get_num_threads(),)) as process:
            measured[case] = process.submit(measure_step, *case).result()
    (plain_seconds, plain_memory), (seconds, memory) = measured[True, FEW], measured[False, FEW]
    name = f"IRN's loss and gradient, {FEW} crops of 512"
    yield f"{name}: GiB", "", memory, ""
    yield "the same with all paths in memory: GiB", "", plain_memory, ""
    yield f"{name}: speed", "all paths in memory", plain_seconds / seconds, ""
    yield f"the same, {BATCH} crops: GiB", "", measured[False, BATCH][1], ""
