"""Names removed since version 0.1: rejected with the new name, never reinterpreted."""

from __future__ import annotations

from collections.abc import Mapping

from amn_ray.core.errors import RequestError

TRAINING = (
    "epochs", "batch_size", "crop", "long_side", "lr_backbone", "lr_head", "momentum", "weight_decay", "power",
    "detach_after", "seed",
)  # fmt: skip
"""Settings of `cam` that were about training."""
KEYS: Mapping[str, str] = {
    **{f"cam.{name}": f"classifier.{name}" for name in TRAINING},
    "cam.scales": "maps.scales",
    "cam.threshold": "maps.threshold",
    "cam": "classifier (training) or maps (inference)",
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
"""Old key, or its prefix -> the new one; the first match applies."""
STEPS: Mapping[str, str] = {
    "cam": "maps",
    "seed": "refined",
    "amn_seed": "amn_refined",
    "deeplab": "predictions",
    "deeplab_crf": "predictions_refined",
}
"""A step of 0.1 -> the step that makes its result now. (`irn` and `amn` are still steps, but make only weights.)"""


def refuse_old_key(key: str) -> None:
    """Reject a setting of 0.1.

    Raises:
        RequestError: it is one.
    """
    bare = key.lstrip("+~")
    for old, new in KEYS.items():
        if bare == old or bare.startswith(f"{old}."):
            rest = bare.removeprefix(old) if new.replace("_", "").replace(".", "").isalnum() else ""
            raise RequestError(f"{key}: was renamed to {new}{rest} in version 0.2; see CHANGELOG.md")


def refuse_old_step(key: str, value: str) -> None:
    """Reject a step of 0.1, as in `until=seed`, or a metric of one, as in `study.metric=irn/miou`.

    Raises:
        RequestError: it is one.
    """
    step, _, metric = value.partition("/")
    if step in STEPS:
        new = STEPS[step] + (f"/{metric}" if metric else "")
        raise RequestError(f"{key}={value}: was renamed to {new} in version 0.2; see CHANGELOG.md")
    if step in ("irn", "amn") and metric.endswith("miou"):
        new = {"irn": "pseudo_masks", "amn": "amn_maps"}[step]
        raise RequestError(f"{key}={value}: was renamed to {new}/{metric} in version 0.2; see CHANGELOG.md")
