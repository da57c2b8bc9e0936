"""What all checks of a GPU share: the device, and arithmetic that can be compared with a CPU's."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def device() -> torch.device:
    """The GPU, or what AMN_GPU_TESTS_DEVICE names in its place."""
    device = torch.device(os.environ.get("AMN_GPU_TESTS_DEVICE", "cuda"))
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    return device


@pytest.fixture(autouse=True)
def no_tf32() -> None:
    """Float32 is float32, so that it can be compared with a CPU's."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


@pytest.fixture
def as_in_the_loop() -> Iterator[None]:
    """Sums are made in one order where PyTorch can, see training.loop."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
