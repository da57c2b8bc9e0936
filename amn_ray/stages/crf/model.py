"""Dense CRF: on hard labels, twice, on one lattice; and on a network's probabilities.

Legend: H W = pixels, K = classes of the image; local labels are 0 = background, 1…K = its classes in the maps' order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydensecrf.densecrf import DenseCRF2D
from pydensecrf.utils import unary_from_labels, unary_from_softmax

from amn_ray.data.maps import combined_seed, hard_labels
from amn_ray.stages.crf.config import CrfConfig, KernelConfig


class ImageCrf:
    """The dense CRF of one image. Its lattices depend on the image only and are built once, for any number of runs."""

    def __init__(self, image_HWC: np.ndarray, num_labels: int, config: KernelConfig) -> None:
        self.config = config
        self.num_labels = num_labels
        self.height, self.width = image_HWC.shape[:2]
        self.crf = DenseCRF2D(self.width, self.height, num_labels)
        self.crf.addPairwiseGaussian(sxy=config.gaussian_sxy, compat=config.gaussian_compat)
        self.crf.addPairwiseBilateral(
            sxy=config.bilateral_sxy,
            srgb=config.bilateral_srgb,
            rgbim=np.array(image_HWC, order="C"),  # pydensecrf needs a writable, contiguous array
            compat=config.bilateral_compat,
        )

    def refine(self, labels_HW: np.ndarray, gt_prob: float) -> np.ndarray:
        """Hard local labels int32 (H, W), trusted with `gt_prob` -> refined ones uint8 (H, W)."""
        return self.infer(unary_from_labels(labels_HW, self.num_labels, gt_prob=gt_prob, zero_unsure=False))

    def infer(self, unary: np.ndarray) -> np.ndarray:
        """Energies (labels, H·W) -> local labels uint8 (H, W)."""
        self.crf.setUnaryEnergy(np.ascontiguousarray(unary, np.float32))
        energy = np.array(self.crf.inference(self.config.iterations))
        return energy.argmax(0).reshape(self.height, self.width).astype(np.uint8)


def refined_seed(image_HWC: np.ndarray, maps_KHW: np.ndarray, keys: Sequence[int], config: CrfConfig) -> np.ndarray:
    """The refined seed of an image (method 3).

    Args:
        image_HWC: uint8 RGB.
        maps_KHW: float32 maps of the classes `keys`, at the image's size.
        keys: K labels 1…N.
        config: thresholds and kernels.

    Returns:
        uint8 (H, W), see data.maps.combined_seed.
    """
    if not keys:
        return np.zeros(image_HWC.shape[:2], np.uint8)
    crf = ImageCrf(image_HWC, len(keys) + 1, config)
    sure_foreground = crf.refine(hard_labels(maps_KHW, config.conf_fg), config.gt_prob)
    any_foreground = crf.refine(hard_labels(maps_KHW, config.conf_bg), config.gt_prob)
    return combined_seed(sure_foreground, any_foreground, keys)


def refined_prediction(image_HWC: np.ndarray, logits_CHW: np.ndarray, config: KernelConfig) -> np.ndarray:
    """A segmentation network's prediction after dense CRF (method 10).

    Args:
        image_HWC: uint8 RGB.
        logits_CHW: float32, all N+1 labels, at the image's size.
        config: kernels.

    Returns:
        uint8 (H, W): labels 0…N.
    """
    exponentials = np.exp(logits_CHW - logits_CHW.max(0))
    probability_CHW = exponentials / exponentials.sum(0)
    return ImageCrf(image_HWC, len(logits_CHW), config).infer(unary_from_softmax(probability_CHW))
