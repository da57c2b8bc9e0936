"""Seeds by two thresholds alone. Legend: H W = pixels, K = classes of the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amn_ray.data.maps import combined_seed, hard_labels
from amn_ray.stages.groups import RefinementConfig


def thresholded_seed(maps_KHW: np.ndarray, keys: Sequence[int], config: RefinementConfig) -> np.ndarray:
    """The seed that a refinement starts from, unrefined.

    Args:
        maps_KHW: float32 maps of the classes `keys`, at the image's size.
        keys: K labels 1…N.
        config: thresholds.

    Returns:
        uint8 (H, W), see data.maps.combined_seed.
    """
    return combined_seed(hard_labels(maps_KHW, config.conf_fg), hard_labels(maps_KHW, config.conf_bg), keys)
