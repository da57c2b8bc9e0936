"""The precision of the networks: float32, or bfloat16 if the hardware supports it. Importable without PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "bf16", "fp32")


def autocast(device: torch.device, precision: str | None) -> torch.autocast:
    """The context to run a network in.

    Args:
        device: where the network is.
        precision: `fp32`, `bf16`, or `auto` (or None): bf16 where `device` has instructions for it, else fp32. (On a
            CPU without them PyTorch emulates bfloat16, which took 7.7 times as long as float32 for ResNet-50 on an AVX2
            machine.)
    """
    import torch

    return torch.autocast(
        device.type, torch.bfloat16, enabled=precision == "bf16" or (precision in ("auto", None) and has_bf16(device))
    )


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """At least float32: what a network made under `autocast`, for sums and losses."""
    import torch

    return tensor if tensor.dtype == torch.float64 else tensor.float()


def has_bf16(device: torch.device) -> bool:
    """Whether `device` has instructions for bfloat16."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
