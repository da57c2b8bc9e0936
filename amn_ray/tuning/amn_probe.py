"""A cheap measurement of AMN after each training epoch, with which a study can stop a bad trial early.

It is the mIoU of the maps at one scale, on the stored grid, at the best τ, on some images of the selection split (never
the report split, see evaluation/selection.py). It reads ground truth, and does not affect the training.

Legend: h w = the stored grid, C = N+1 labels, T = thresholds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray.tune.integration.ray_train import TuneReportCallback

from amn_ray.core.artifacts import Artifact
from amn_ray.core.errors import RequestError
from amn_ray.core.events import Observer
from amn_ray.data.images import decode_image, decode_mask
from amn_ray.data.maps import modulate
from amn_ray.data.pixels import Pixels
from amn_ray.data.transforms import resize_label
from amn_ray.evaluation.confusion import mean_iou
from amn_ray.evaluation.selection import selection_ids
from amn_ray.evaluation.thresholds import confusion_curve, count_image, threshold_grid
from amn_ray.recipe.plan import Plan
from amn_ray.stages.amn.config import AmnMapsConfig
from amn_ray.stages.score.stage import scored

MAX_IMAGES = 64
PROBE = "probe_miou"
EPOCH = "epoch"
OBJECTIVE = "objective"
"""The value that the search uses for a trial: the study's metric, or the last probe if the trial was stopped."""


@dataclass(frozen=True)
class AmnProbe:
    """See the module's docstring; training workers call it."""

    config: AmnMapsConfig
    images: Artifact
    truth: Artifact
    seeds: Artifact
    ids: Sequence[str]

    def __call__(self, model: Any, device: Any, rank: int, num_workers: int) -> dict[str, float]:
        """Workers divide the images among themselves; each returns the mIoU in [0, 1] of all of them."""
        import torch
        import torch.distributed as dist

        manifest = self.images.manifest()
        num_classes, pixels = len(manifest["classes"]), Pixels.of(manifest)
        grid = threshold_grid(101)
        with torch.no_grad():
            counts = [
                self._count(model, device, image_id, num_classes, pixels, grid)
                for image_id in self.ids[rank::num_workers]
            ]
        confusion_TCC = torch.from_numpy(confusion_curve(counts, num_classes, len(grid))).to(device)
        if num_workers > 1:
            dist.all_reduce(confusion_TCC)
        return {PROBE: float(np.nanmax(mean_iou(confusion_TCC.cpu().numpy())))}

    def _count(self, model: Any, device: Any, image_id: str, num_classes: int, pixels: Pixels, grid: np.ndarray) -> Any:
        from amn_ray.stages.amn.model import amn_maps

        (row,) = self.images.table().take([image_id], ["image", "labels"])
        true_HW = decode_mask(self.truth.table().take([image_id], ["mask"])[0]["mask"])
        seed_HW = decode_mask(self.seeds.table().take([image_id], ["mask"])[0]["mask"])
        config = dataclasses.replace(self.config, scales=self.config.scales[:1])
        (maps_Khw,) = amn_maps(
            model,
            [decode_image(row["image"], pixels)],
            [row["labels"]],
            num_classes=num_classes,
            config=config,
            device=device,
        )
        h, w = maps_Khw.shape[1:]
        if row["labels"]:
            maps_Khw = modulate(maps_Khw, resize_label(seed_HW, h, w))
        return count_image(maps_Khw, row["labels"], resize_label(true_HW, h, w), grid)


STEP = "amn"
"""The step whose training is watched."""


class AmnWatch(Observer):
    """The observer with which a study monitors the training of AMN in its trials.

    Raises:
        RequestError: the trial does not train AMN, or does not make maps with it.
    """

    def __init__(self, plan: Plan) -> None:
        maps = plan.get("amn_maps")
        if maps is None:
            raise RequestError(
                "study.asha: watches the training of AMN, but these trials make no AMN maps; set study.asha=null"
            )
        self.maps: AmnMapsConfig = maps.settings

    def probe(self, step: str, settings: Any, artifacts: Mapping[str, Artifact]) -> AmnProbe | None:
        """The probe, on images of the selection split; None without ground truth."""
        if step != STEP or "maps_score" not in artifacts:
            return None
        trained = artifacts["refined"].table()
        ids = [image_id for image_id in selection_ids(scored(artifacts["maps_score"])) if image_id in trained]
        if not ids:
            return None
        chosen = [ids[i] for i in np.linspace(0, len(ids) - 1, min(MAX_IMAGES, len(ids))).astype(int)]
        return AmnProbe(self.maps, artifacts["images"], artifacts["truth"], artifacts["refined"], chosen)

    def callbacks(self, step: str) -> Sequence[Any]:
        """Forwards each epoch's report from Ray Train to Ray Tune."""
        return [_Epoch()] if step == STEP else []


class _Epoch(TuneReportCallback):
    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """See ray.train.UserCallback."""
        report = metrics[0]
        if PROBE in report:
            forwarded = {PROBE: report[PROBE], OBJECTIVE: report[PROBE], EPOCH: report["epoch"]}
            super().after_report(run_context, [forwarded], None)
