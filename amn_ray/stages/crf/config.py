"""Settings of the CRF stage; the defaults are method.md's (VOC)."""

from __future__ import annotations

from dataclasses import dataclass

from amn_ray.core.checks import check_fraction, check_positive


@dataclass(kw_only=True)
class KernelConfig:
    """The dense CRF's kernels. The defaults are those that refine seeds (method 3)."""

    gaussian_sxy: float = 3
    gaussian_compat: float = 3
    bilateral_sxy: float = 50
    bilateral_srgb: float = 5
    bilateral_compat: float = 10
    iterations: int = 10

    def __post_init__(self) -> None:
        check_positive(self, "gaussian_sxy", "bilateral_sxy", "bilateral_srgb", "iterations")


@dataclass(kw_only=True)
class CrfConfig(KernelConfig):
    """From maps to seeds, at two thresholds. The defaults are the CAM's."""

    conf_fg: float = 0.30
    """τ of the run that decides what is foreground."""
    conf_bg: float = 0.05
    """τ of the run that decides, together with the other one, what is background."""
    gt_prob: float = 0.7
    """The trust in the thresholded label."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self, "conf_fg", "conf_bg")
        if not 0 < self.gt_prob < 1:
            raise ValueError(f"gt_prob={self.gt_prob}: must be between 0 and 1, both excluded")
        if self.conf_bg > self.conf_fg:
            raise ValueError(
                f"conf_bg={self.conf_bg}: must not be above crf.conf_fg={self.conf_fg}, or sure background would "
                "reach into sure foreground"
            )
