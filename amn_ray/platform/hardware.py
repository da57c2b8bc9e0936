"""Properties of the hardware that affect results, determined before a plan is made."""

from __future__ import annotations

from dataclasses import dataclass

from amn_ray.platform.cluster import Cluster


@dataclass(frozen=True)
class Hardware:
    """Properties that all nodes that may run networks share."""

    has_bf16: bool
    """Whether every node has bfloat16 instructions."""

    @property
    def precision(self) -> str:
        """What `precision=auto` means."""
        return "bf16" if self.has_bf16 else "fp32"


def hardware_here(device: str) -> Hardware:
    """The hardware of this machine; `device` is cluster.device."""
    import torch  # takes seconds, and only precision=auto needs it

    from amn_ray.nn.precision import has_bf16

    on_gpu = device != "cpu" and torch.cuda.is_available()
    return Hardware(has_bf16(torch.device("cuda" if on_gpu else "cpu")))


def hardware_of(cluster: Cluster, precision: str) -> Hardware:
    """The hardware of a cluster: this machine for a local Ray, else all nodes with CPUs are queried.

    No node is queried unless `precision` is auto.

    Raises:
        RequestError: a node does not answer.
    """
    if precision != "auto":
        return Hardware(has_bf16=precision == "bf16")
    if cluster.is_own:
        return hardware_here(cluster.config.device)
    found = cluster.ask_everywhere(hardware_here, cluster.config.device)
    return Hardware(all(node.has_bf16 for node in found))
