"""The typed configuration of a pipeline, and how Hydra's YAML becomes it.

Every key is a field of a dataclass that stands beside the code it configures; an unknown key, a wrong type or a value
out of range is refused before anything starts.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from amn_ray.core.checks import check_choice
from amn_ray.core.errors import RequestError
from amn_ray.core.places import without_secrets
from amn_ray.data.source import DatasetConfig
from amn_ray.nn.config import BackboneConfig
from amn_ray.platform import submitted
from amn_ray.platform.cluster import ClusterConfig
from amn_ray.platform.tracking_config import TrackingConfig
from amn_ray.stages.amn.config import AmnConfig
from amn_ray.stages.cam.config import CamConfig
from amn_ray.stages.crf.config import CrfConfig, KernelConfig
from amn_ray.stages.deeplab.config import DeepLabConfig
from amn_ray.stages.irn.config import IrnConfig

STEPS = ("images", "cam", "seed", "amn", "amn_seed", "irn", "deeplab", "deeplab_crf")
"""What the pipeline makes, in this order."""
BRANCHES = ("amn", "cam")
GROUPS = ("dataset", "recipe", "branch", "cluster")
"""The folders of conf/ that a pipeline is composed of."""


@dataclass(kw_only=True)
class CrfConfigs:
    """The CRF after CAM (method 3), after AMN (method 6), and after DeepLab (method 10)."""

    cam: CrfConfig = field(default_factory=CrfConfig)
    amn: CrfConfig = field(default_factory=lambda: CrfConfig(conf_fg=0.45, conf_bg=0.15))
    deeplab: KernelConfig = field(
        default_factory=lambda: KernelConfig(
            gaussian_sxy=1, gaussian_compat=3, bilateral_sxy=67, bilateral_srgb=3, bilateral_compat=4
        )
    )


@dataclass(kw_only=True)
class PipelineConfig:
    """Everything that `jobs/pipeline.py` can be told."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    store: str = "outputs"
    """Directory or URL of all artifacts."""
    until: str = "deeplab_crf"
    """The last step: images, cam, seed, amn, amn_seed, irn, deeplab or deeplab_crf."""
    branch: str = "amn"
    """Whose maps IRN refines: amn, or cam, which skips AMN (the paper's baseline)."""
    seed: int = 0
    """Of everything random in training."""
    precision: str = "auto"
    """auto (bf16 where the hardware computes it, else fp32), bf16 or fp32, in all networks."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    cam: CamConfig = field(default_factory=CamConfig)
    crf: CrfConfigs = field(default_factory=CrfConfigs)
    amn: AmnConfig = field(default_factory=AmnConfig)
    irn: IrnConfig = field(default_factory=IrnConfig)
    deeplab: DeepLabConfig = field(default_factory=DeepLabConfig)

    def __post_init__(self) -> None:
        check_choice(self, "until", STEPS)
        if self.deeplab.backbone.weights is None and self.deeplab.backbone.name != self.backbone.name:
            raise ValueError(
                f"deeplab.backbone.weights=null: DeepLab then starts from the classifier's {self.backbone.name}, but "
                f"deeplab.backbone.name={self.deeplab.backbone.name}; make the names equal or name its weights"
            )
        check_choice(self, "branch", BRANCHES)
        if self.branch == "cam" and self.until.startswith("amn"):
            raise ValueError(f"until={self.until}: branch=cam skips AMN; set until=seed or until=irn")
        # One backbone for all stages but DeepLab. (YAML cannot say `cam.backbone: ${backbone}`: OmegaConf merges no
        # interpolation into a typed node.)
        for name, stage in (("cam", self.cam), ("amn", self.amn), ("irn", self.irn)):
            if stage.backbone not in (BackboneConfig(), self.backbone):
                raise ValueError(f"{name}.backbone: is the same in cam, amn and irn; set backbone.* instead")
            stage.backbone = self.backbone

    def reaches(self, step: str) -> bool:
        """Whether the pipeline makes this step."""
        skipped = self.branch == "cam" and step in ("amn", "amn_seed")
        return not skipped and STEPS.index(step) <= STEPS.index(self.until)


def load(composed: DictConfig) -> Any:
    """The composed YAML as checked dataclasses, of the type that its schema names.

    Raises:
        RequestError: a value is out of its range, or a path would not last as long as the results that go there; the
            sentence begins with the full key.
    """
    _check(composed, ())
    loaded = OmegaConf.to_object(composed)
    submitted.check_places(flat(loaded), written="store" if isinstance(loaded, PipelineConfig) else "out")
    return loaded


def _check(node: Any, path: tuple[str, ...]) -> None:
    """Build each dataclass on its own, the innermost first, so that an error can be told with its full key."""
    if not isinstance(node, DictConfig):
        return
    for name in node:
        if not OmegaConf.is_interpolation(node, name):
            _check(node[name], (*path, str(name)))
    try:
        OmegaConf.to_object(node)
    except ValueError as error:
        raise RequestError(".".join((*path, str(error)))) from error


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dataclasses as one level of dotted keys, as they may be stored: passwords in URLs are left out."""
    result: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            result |= flat(value, f"{prefix}{item.name}.")
        else:
            result[f"{prefix}{item.name}"] = without_secrets(value) if isinstance(value, str) else value
    return result
