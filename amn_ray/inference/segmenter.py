"""A trained segmentation network as one object: image in, mask out.

`jobs/predict.py` holds it on actors, and MLflow's model is one: the folder that `write_model` fills is its data, this
file its loader, which needs no Ray. Nothing in that folder is pickled.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amn_ray.core.artifacts import Artifact
from amn_ray.core.errors import RequestError
from amn_ray.core.settings import build
from amn_ray.data.images import Photograph, encode_palette_mask, read_image
from amn_ray.data.maps import full_size
from amn_ray.data.photograph_checks import check_white
from amn_ray.data.pixels import Pixels
from amn_ray.data.transforms import limited_size, resize_image, resize_label
from amn_ray.recipe.records import Run
from amn_ray.stages.crf.config import KernelConfig, PredictionCrfConfig
from amn_ray.stages.crf.model import refined_prediction

if TYPE_CHECKING:
    import pandas as pd

    from amn_ray.stages.methods import OpenNetwork

REFINEMENT = "choices.prediction_refinement"
WEIGHTS = "model.safetensors"
SETTINGS = "settings.json"
LONGEST = 1024
"""Pixels. Larger images are segmented at this size, twice that of the training's images, and their masks enlarged;
where the training's images were scaled down (`max_side`), at theirs."""


@dataclass(frozen=True)
class Settings:
    """What, besides weights, decides a mask."""

    opened_by: str
    """`module:function` that opens the network, see stages.methods.OpenNetwork."""
    network: Mapping[str, Any]
    """Of its training, as JSON."""
    predictions: Mapping[str, Any]
    """Likewise."""
    crf: PredictionCrfConfig | None
    """None where the run did not refine its predictions by CRF."""
    classes: Sequence[str]
    pixels: Pixels
    """How the training's images were read."""

    @property
    def longest(self) -> int:
        """Pixels of the longer side at which an image is segmented, if it is larger; see LONGEST."""
        return LONGEST if self.pixels.max_side is None else self.pixels.max_side

    def read(self, encoded: bytes) -> Photograph:
        """An encoded image, read by the training's rule but at the file's own size.

        Raises:
            BadFile: not an image, damaged, too large, or its values are beyond the training's white.
        """
        image = read_image(encoded, dataclasses.replace(self.pixels, max_side=None))
        check_white(image, self.pixels)
        return image

    @classmethod
    def of(cls, run: Run) -> Settings:
        """From what a run made: the segmentation network, and the images that it was trained on.

        Raises:
            RequestError: the run has trained none, or one of another kind.
        """
        from amn_ray.stages.crf.stage import PREDICTION_METHOD  # which brings Ray; a logged model does without

        table = run.artifacts["images"].manifest()
        weights = run.step("segmenter", needed_by="predict")
        opener = opener_of(weights)
        if opener is None:
            raise RequestError(
                f"predict: the run {run.folder.name} trained {weights.stage}, which cannot be loaded here; name a run "
                "with segmenter=deeplabv2, or load the plug-in that brings it"
            )
        network = weights.manifest()["config"]
        has_crf = run.settings[REFINEMENT] == PREDICTION_METHOD.name
        return cls(
            opener,
            network,
            _predictions(run.settings, network),
            run.node(PredictionCrfConfig, "predictions_refined") if has_crf else None,
            table["classes"],
            Pixels.of(table),
        )


def _predictions(settings: Mapping[str, Any], network: Mapping[str, Any]) -> dict[str, Any]:
    """The run's settings of predictions; what they take from the pipeline is what the training took."""
    prefix = "predictions."
    own = {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}
    return {key: network.get(key) if value in (None, "auto") else value for key, value in own.items()}


def opener_of(weights: Artifact) -> str | None:
    """What opens these weights, see Settings; None if nothing does."""
    from amn_ray.recipe.steps import method_of  # as above

    method = method_of("segmenter", weights.stage)
    opener = None if method is None else method.open_network
    return None if opener is None else f"{opener.__module__}:{opener.__qualname__}"


class Segmenter:
    """The network, loaded."""

    def __init__(self, settings: Settings, weights: bytes) -> None:
        """Args:
        settings: of the run that trained it.
        weights: the content of its model.safetensors.

        Raises:
            RequestError: the plug-in that brings it is not here.
        """
        module, _, name = settings.opened_by.partition(":")
        try:
            opener: OpenNetwork = getattr(importlib.import_module(module), name)
        except ImportError as error:
            raise RequestError(
                f"{module}: cannot be imported ({error}), but the network was trained by it; install that plug-in here"
            ) from error
        self.settings = settings
        self.network = opener(settings.network, settings.predictions, len(settings.classes), weights)

    def logits(self, image_HWC: np.ndarray) -> np.ndarray:
        """RGB uint8 (H, W, 3) -> float32 (N+1, h, w), on a grid of the image or of its smaller copy."""
        small = resize_image(image_HWC, *limited_size(image_HWC.shape[:2], self.settings.longest))
        return self.network.logits([small])[0]


def mask_of(
    image_HWC: np.ndarray, logits_Chw: np.ndarray, crf: KernelConfig | None, longest: int = LONGEST
) -> np.ndarray:
    """An image and its logits -> labels uint8 (H, W), refined by dense CRF unless that is None.

    The logits are those of a copy of at most `longest` pixels, at which the CRF works, too.
    """
    size = limited_size(image_HWC.shape[:2], longest)
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
        """`image` (encoded in any format that Pillow reads) -> `mask` (palette PNG of labels 0…N)."""
        return images["image"].map(self._predict).to_frame("mask")

    def _predict(self, encoded: bytes) -> bytes:
        settings = self.segmenter.settings
        image_HWC = settings.read(encoded).rgb
        logits_Chw = self.segmenter.logits(image_HWC)
        return encode_palette_mask(mask_of(image_HWC, logits_Chw, settings.crf, settings.longest))


def _load_pyfunc(data_path: str) -> ImageModel:
    """MLflow's entry point."""
    folder = Path(data_path)
    settings = build(Settings, json.loads((folder / SETTINGS).read_text()))
    return ImageModel(Segmenter(settings, (folder / WEIGHTS).read_bytes()))
