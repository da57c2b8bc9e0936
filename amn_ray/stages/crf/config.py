"""Settings of the dense CRF (docs/method.md 3, 6 and 10). AMN's conf_fg and conf_bg are in amn/amn.yaml."""

from __future__ import annotations

from dataclasses import dataclass

from amn_ray.core.checks import check_positive
from amn_ray.stages.groups import PredictionRefinementConfig, RefinementConfig


@dataclass(kw_only=True)
class KernelConfig:
    """The dense CRF's kernels. These defaults refine CAM's and AMN's maps; for one of them alone set `refined.…` or
    `amn_refined.…`, such as amn_refined.iterations=5.
    """

    gaussian_sxy: float = 3
    gaussian_compat: float = 3
    bilateral_sxy: float = 50
    bilateral_srgb: float = 5
    bilateral_compat: float = 10
    iterations: int = 10

    def __post_init__(self) -> None:
        check_positive(self, "gaussian_sxy", "bilateral_sxy", "bilateral_srgb", "iterations")


@dataclass(kw_only=True)
class CrfConfig(KernelConfig, RefinementConfig):
    """From maps to seeds, at two thresholds (method 3 and 6)."""

    gt_prob: float = 0.7
    """The probability assigned to the thresholded label."""

    def __post_init__(self) -> None:
        KernelConfig.__post_init__(self)
        RefinementConfig.__post_init__(self)
        if not 0 < self.gt_prob < 1:
            raise ValueError(f"gt_prob={self.gt_prob}: must be between 0 and 1, both excluded")


@dataclass(kw_only=True)
class PredictionCrfConfig(KernelConfig, PredictionRefinementConfig):
    """From a network's predictions to refined ones (method 10)."""

    gaussian_sxy: float = 1
    bilateral_sxy: float = 67
    bilateral_srgb: float = 3
    bilateral_compat: float = 4
