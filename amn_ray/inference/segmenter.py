"""A trained segmentation network as one object: image in, mask out.

`jobs/predict.py` holds it on actors, and the MLflow model wraps it: its data is the folder that `write_model` fills,
its loader is this file, which does not need Ray. Nothing in that folder is pickled.
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
from amn_ray.data.maps import as_stored, at_most_stored, full_size
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
"""Pixels. Larger images are segmented at this size, twice that of the training images, and their masks enlarged; if
the training images were scaled down (`max_side`), at that size instead."""


@dataclass(frozen=True)
class Settings:
    """Everything besides weights that determines a mask."""

    opened_by: str
    """`module:function` that opens the network, see stages.methods.OpenNetwork."""
    network: Mapping[str, Any]
    """The network's training settings, as JSON."""
    predictions: Mapping[str, Any]
    """The settings of predictions, as JSON."""
    crf: PredictionCrfConfig | None
    """None if the run did not refine its predictions by CRF."""
    classes: Sequence[str]
    pixels: Pixels
    """How the training images were read."""

    @property
    def longest(self) -> int:
        """Pixels of the longer side at which an image is segmented, if it is larger; see LONGEST."""
        return LONGEST if self.pixels.max_side is None else self.pixels.max_side

    def read(self, encoded: bytes) -> Photograph:
        """Decode an image as in training, but at its own size.

        Raises:
            BadFile: not an image, damaged, too large, or its values exceed the training's white.
        """
        image = read_image(encoded, dataclasses.replace(self.pixels, max_side=None))
        check_white(image, self.pixels)
        return image

    @classmethod
    def of(cls, run: Run) -> Settings:
        """The settings of a run's segmentation network and training images.

        Raises:
            RequestError: the run trained no network, or one that cannot be loaded here.
        """
        from amn_ray.stages.crf.stage import PREDICTION_METHOD  # imports Ray, which a logged model does not need

        table = run.artifacts["images"].manifest()
        weights = run.step("segmenter", needed_by="predict")
        opener = opener_of(weights)
        if opener is None:
            raise RequestError(
                f"predict: the run {run.folder.name} trained {weights.stage}, which cannot be loaded here; name a run "
                "with segmenter=deeplabv2, or load the plug-in that defines it"
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
    """The run's settings of predictions; those left to the pipeline get the values of the training."""
    prefix = "predictions."
    own = {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}
    return {key: network.get(key) if value in (None, "auto") else value for key, value in own.items()}


def opener_of(weights: Artifact) -> str | None:
    """The function that opens these weights, see Settings.opened_by; None if there is none."""
    from amn_ray.recipe.steps import method_of  # as above

    method = method_of("segmenter", weights.stage)
    opener = None if method is None else method.open_network
    return None if opener is None else f"{opener.__module__}:{opener.__qualname__}"


def packages_of(weights: Artifact) -> list[str]:
    """The distributions that these weights' network needs, besides those of this package without extras."""
    from amn_ray.recipe.steps import method_of  # as above

    method = method_of("segmenter", weights.stage)
    backbone = weights.manifest()["config"].get("backbone") or {}
    of_timm = backbone.get("name", "").startswith("timm/")
    return [*(() if method is None else method.packages), *["timm"] * of_timm]


class Segmenter:
    """The loaded network."""

    def __init__(self, settings: Settings, weights: bytes) -> None:
        """Args:
        settings: the settings of the run that trained it.
        weights: the content of its model.safetensors.

        Raises:
            RequestError: the plug-in that defines it is not installed here.
        """
        module, _, name = settings.opened_by.partition(":")
        try:
            opener: OpenNetwork = getattr(importlib.import_module(module), name)
        except ImportError as error:
            raise RequestError(
                f"{module}: cannot be imported ({error}), but the network was trained with it; install that plug-in "
                "here"
            ) from error
        self.settings = settings
        self.network = opener(settings.network, settings.predictions, len(settings.classes), weights)

    def logits(self, image_HWC: np.ndarray, *, for_crf: bool = False) -> np.ndarray:
        """RGB uint8 (H, W, 3) -> float32 (N+1, h, w), on a grid of the image, or of its smaller copy.

        With `for_crf` the grid is at most as fine as that on which a pipeline stores logits for the CRF.
        """
        size = limited_size(image_HWC.shape[:2], self.settings.longest)
        logits_Chw = self.network.logits([resize_image(image_HWC, *size)])[0]
        return at_most_stored(logits_Chw, *size) if for_crf else logits_Chw


def mask_of(
    image_HWC: np.ndarray, logits_Chw: np.ndarray, crf: KernelConfig | None, longest: int = LONGEST
) -> np.ndarray:
    """An image and its logits -> labels uint8 (H, W), refined by dense CRF unless `crf` is None.

    The logits are those of a copy of at most `longest` pixels; the CRF runs at that size, too, on logits as a pipeline
    stores them.
    """
    size = limited_size(image_HWC.shape[:2], longest)
    if crf is None:
        mask_HW = full_size(logits_Chw, *size).argmax(0).astype(np.uint8)
    else:
        logits_CHW = full_size(as_stored(logits_Chw, *size), *size)
        mask_HW = refined_prediction(resize_image(image_HWC, *size), logits_CHW, crf)
    return resize_label(mask_HW, *image_HWC.shape[:2])


def write_model(folder: Path, settings: Settings, weights: bytes) -> None:
    """Write everything that `_load_pyfunc` needs."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(weights)
    (folder / SETTINGS).write_text(json.dumps(dataclasses.asdict(settings), indent=2))


class ImageModel:
    """The core of what `mlflow.pyfunc.load_model` returns: a column of encoded images in, a column of masks out."""

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
