"""Parameter groups and learning rates that several trainings share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, PolynomialLR


def groups_without_decay(parameters: Iterable[nn.Parameter], **options: Any) -> list[dict[str, Any]]:
    """Two groups with these options; that of the biases and normalisations has no weight decay. Frozen ones are left
    out.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim > 1]
    vectors = [parameter for parameter in trained if parameter.ndim <= 1]
    return [{"params": matrices, **options}, {"params": vectors, **options, "weight_decay": 0.0}]


def polynomial(optimizer: Optimizer, num_steps: int, power: float, warmup: int = 0) -> LRScheduler:
    """Learning rates times (1 − step / num_steps)^power, which rise linearly in the first `warmup` steps."""
    if warmup == 0:
        return PolynomialLR(optimizer, num_steps, power)

    def factor(step: int) -> float:
        risen = min(1.0, (step + 1) / (warmup + 1))
        return risen * max(0.0, 1 - step / num_steps) ** power

    return LambdaLR(optimizer, factor)
