"""Properties of the hardware that affect results; they are known before a plan is made."""

from __future__ import annotations

from dataclasses import dataclass

from amn_ray.platform.cluster import Cluster


@dataclass(frozen=True)
class Hardware:
    """What all nodes that may run networks have in common."""

    has_bf16: bool
    """Whether every node has bfloat16 instructions."""

    @property
    def precision(self) -> str:
        """What `precision=auto` means."""
        return "bf16" if self.has_bf16 else "fp32"


def hardware_here(device: str) -> Hardware:
    """The hardware of this machine; `device` is cluster.device."""
    import torch  # takes seconds, and is needed for precision=auto only

    from amn_ray.nn.precision import has_bf16

    on_gpu = device != "cpu" and torch.cuda.is_available()
    return Hardware(has_bf16(torch.device("cuda" if on_gpu else "cpu")))


def hardware_of(cluster: Cluster, precision: str) -> Hardware:
    """The hardware of a cluster: this machine's for a local Ray, else every node with CPUs is asked.

    No node is asked unless `precision` is auto.

    Raises:
        RequestError: a node does not answer.
    """
    if precision != "auto":
        return Hardware(has_bf16=precision == "bf16")
    if cluster.is_own:
        return hardware_here(cluster.config.device)
    found = cluster.ask_everywhere(hardware_here, cluster.config.device)
    return Hardware(all(node.has_bf16 for node in found))
