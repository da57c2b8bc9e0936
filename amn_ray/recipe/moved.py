"""Names of version 0.1 that are gone: refused with the new name, never taken for something else."""

from __future__ import annotations

from collections.abc import Mapping

from amn_ray.core.errors import RequestError

TRAINING = (
    "epochs", "batch_size", "crop", "long_side", "lr_backbone", "lr_head", "momentum", "weight_decay", "power",
    "detach_after", "seed",
)  # fmt: skip
"""Settings of CAM that were about its training."""
KEYS: Mapping[str, str] = {
    **{f"cam.{name}": f"classifier.{name}" for name in TRAINING},
    "cam.scales": "maps.scales",
    "cam.threshold": "maps.threshold",
    "cam": "classifier (its training) or maps (what is made with it)",
    "amn.scales": "amn_maps.scales",
    "amn.threshold": "amn_maps.threshold",
    "amn.softmax_subset": "amn_maps.softmax_subset",
    "crf.cam": "refined",
    "crf.amn": "amn_refined",
    "crf.deeplab": "predictions_refined",
    "crf": "refined, amn_refined or predictions_refined",
    "irn.walk": "pseudo_masks",
    "deeplab.scales": "segmenter.scales (of training) and predictions.scales",
    "deeplab.accumulate": "segmenter.grad_accumulation",
    "deeplab": "segmenter",
    "branch": "activation (branch=cam is activation=none, branch=amn is activation=amn)",
    "stage": "step",
}
"""A key, or what it begins with, and where that is now; the first that fits counts."""
STEPS: Mapping[str, str] = {
    "cam": "maps",
    "seed": "refined",
    "amn_seed": "amn_refined",
    "deeplab": "predictions",
    "deeplab_crf": "predictions_refined",
}
"""What a step of 0.1 made, and the step that makes it now. (`irn` and `amn` are steps still: of the weights alone.)"""


def refuse_old_key(key: str) -> None:
    """Refuse a setting of 0.1.

    Raises:
        RequestError: it is one.
    """
    bare = key.lstrip("+~")
    for old, new in KEYS.items():
        if bare == old or bare.startswith(f"{old}."):
            rest = bare.removeprefix(old) if new.replace("_", "").replace(".", "").isalnum() else ""
            raise RequestError(f"{key}: is called {new}{rest} since version 0.2; see CHANGELOG.md")


def refuse_old_step(key: str, value: str) -> None:
    """Refuse a step of 0.1, as in `until=seed`, or a metric of one, as in `study.metric=irn/miou`.

    Raises:
        RequestError: it is one.
    """
    step, _, metric = value.partition("/")
    if step in STEPS:
        new = STEPS[step] + (f"/{metric}" if metric else "")
        raise RequestError(f"{key}={value}: is called {new} since version 0.2; see CHANGELOG.md")
    if step in ("irn", "amn") and metric.endswith("miou"):
        new = {"irn": "pseudo_masks", "amn": "amn_maps"}[step]
        raise RequestError(f"{key}={value}: is called {new}/{metric} since version 0.2; see CHANGELOG.md")
