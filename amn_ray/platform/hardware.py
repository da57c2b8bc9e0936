"""What networks run on, as far as it changes their results: known before a plan is made."""

from __future__ import annotations

from dataclasses import dataclass

from amn_ray.platform.cluster import Cluster


@dataclass(frozen=True)
class Hardware:
    """Of every node that may work."""

    has_bf16: bool
    """Whether all of them have instructions for bfloat16."""

    @property
    def precision(self) -> str:
        """What `precision=auto` is."""
        return "bf16" if self.has_bf16 else "fp32"


def hardware_here(device: str) -> Hardware:
    """Of this machine; `device` is cluster.device."""
    import torch  # here: seconds, and only where precision=auto

    from amn_ray.nn.precision import has_bf16

    on_gpu = device != "cpu" and torch.cuda.is_available()
    return Hardware(has_bf16(torch.device("cuda" if on_gpu else "cpu")))


def hardware_of(cluster: Cluster, precision: str) -> Hardware:
    """Of a cluster: of this machine where Ray is our own, else each node that has CPUs is asked.

    Where `precision` is not auto nobody need be asked.

    Raises:
        RequestError: a node does not answer.
    """
    if precision != "auto":
        return Hardware(has_bf16=precision == "bf16")
    if cluster.is_own:
        return hardware_here(cluster.config.device)
    found = cluster.ask_everywhere(hardware_here, cluster.config.device)
    return Hardware(all(node.has_bf16 for node in found))
