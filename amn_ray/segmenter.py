"""A trained segmentation network as one object: image in, mask out.

`jobs/predict.py` holds it on actors, and MLflow's model is one: the folder that `write_model` fills is its data, this
file its loader. Nothing in that folder is pickled.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amn_ray.artifacts import Artifact
from amn_ray.data.images import decode_image, encode_palette_mask
from amn_ray.data.transforms import resize_image, resize_label
from amn_ray.nn.config import BackboneConfig
from amn_ray.nn.maps import full_size
from amn_ray.stages.crf.config import KernelConfig
from amn_ray.stages.crf.model import refined_prediction
from amn_ray.stages.deeplab.config import DeepLabConfig

if TYPE_CHECKING:
    import pandas as pd

WEIGHTS = "model.safetensors"
SETTINGS = "settings.json"
LONGEST = 1024
"""Pixels. Larger images are segmented at this size, twice that of the training's images, and their masks enlarged."""


@dataclass(frozen=True)
class Settings:
    """What, besides weights, decides a mask."""

    network: DeepLabConfig
    crf: KernelConfig
    classes: Sequence[str]

    @classmethod
    def of(cls, predictions: Artifact, images: Artifact, crf: KernelConfig) -> Settings:
        """From what a run made: DeepLab, and the images that it was trained on."""
        network = predictions.manifest()["config"]
        plain = {"network": network, "crf": dataclasses.asdict(crf), "classes": images.manifest()["classes"]}
        return cls.parse(plain)

    @classmethod
    def parse(cls, plain: dict[str, Any]) -> Settings:
        """The reverse of dataclasses.asdict."""
        network = plain["network"] | {"backbone": BackboneConfig(**plain["network"]["backbone"])}
        return cls(DeepLabConfig(**network), KernelConfig(**plain["crf"]), plain["classes"])


class Segmenter:
    """The network, loaded."""

    def __init__(self, settings: Settings, weights: bytes) -> None:
        from amn_ray.nn.weights import load_module, pick_device  # PyTorch, for those that hold the network
        from amn_ray.stages.deeplab.model import DeepLabNet

        self.settings = settings
        self.device = pick_device()
        model = DeepLabNet(settings.network, len(settings.classes))
        self.model = load_module(model, weights).to(self.device)

    def logits(self, image_HWC: np.ndarray) -> np.ndarray:
        """RGB uint8 (H, W, 3) -> float32 (N+1, h, w), at stride 8 of the image (of a smaller copy, see LONGEST)."""
        from amn_ray.stages.deeplab.model import predict

        small = resize_image(image_HWC, *working_size(image_HWC))
        return predict(self.model, [small], device=self.device, precision=self.settings.network.precision)[0]


def working_size(image_HWC: np.ndarray) -> tuple[int, int]:
    """(height, width) at which an image is segmented."""
    height, width = image_HWC.shape[:2]
    scale = min(1.0, LONGEST / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def mask_of(image_HWC: np.ndarray, logits_Chw: np.ndarray, crf: KernelConfig | None) -> np.ndarray:
    """An image and its logits -> labels uint8 (H, W), refined by dense CRF unless that is None."""
    size = working_size(image_HWC)
    logits_CHW = full_size(logits_Chw, *size)
    if crf is None:
        mask_HW = logits_CHW.argmax(0).astype(np.uint8)
    else:
        mask_HW = refined_prediction(resize_image(image_HWC, *size), logits_CHW, crf)
    return resize_label(mask_HW, *image_HWC.shape[:2])


def write_model(folder: Path, settings: Settings, weights: bytes) -> None:
    """Everything that `_load_pyfunc` needs."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(weights)
    (folder / SETTINGS).write_text(json.dumps(dataclasses.asdict(settings), indent=2))


class ImageModel:
    """What `mlflow.pyfunc.load_model` returns at its core: a column of encoded images in, one of masks out."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter

    def predict(self, images: pd.DataFrame) -> pd.DataFrame:
        """`image` (encoded in any format that Pillow reads) -> `mask` (palette PNG of labels 0…N), with CRF."""
        return images["image"].map(self._predict).to_frame("mask")

    def _predict(self, encoded: bytes) -> bytes:
        image_HWC = decode_image(encoded, upright=True)
        logits_Chw = self.segmenter.logits(image_HWC)
        return encode_palette_mask(mask_of(image_HWC, logits_Chw, self.segmenter.settings.crf))


def _load_pyfunc(data_path: str) -> ImageModel:
    """MLflow's entry point."""
    folder = Path(data_path)
    settings = Settings.parse(json.loads((folder / SETTINGS).read_text()))
    return ImageModel(Segmenter(settings, (folder / WEIGHTS).read_bytes()))
