"""One pipeline: validated and planned, then run and observed."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from amn_ray.core.artifacts import Store, fingerprint
from amn_ray.core.console import log
from amn_ray.core.errors import RequestError
from amn_ray.core.events import Observer, RunEnded
from amn_ray.core.folders import Folder
from amn_ray.core.provenance import missing_modules
from amn_ray.data.listing import Summary, list_splits
from amn_ray.platform.cluster import Cluster
from amn_ray.platform.hardware import hardware_here, hardware_of
from amn_ray.recipe import records
from amn_ray.recipe.config import PipelineConfig
from amn_ray.recipe.plan import Plan, make_plan
from amn_ray.recipe.runner import Runner
from amn_ray.stages.score.stage import any_score
from amn_ray.stages.selected_images.stage import SelectedImagesConfig
from amn_ray.training.config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A validated and planned pipeline, ready to run."""

    config: PipelineConfig
    splits: Mapping[str, Summary]
    store: Store
    cluster: Cluster
    plan: Plan
    identity: str
    """Fingerprint of settings and data, wherever they are: the same command resumes the same run."""

    @property
    def folder(self) -> Folder:
        """The run's folder in the store's `runs/`."""
        return records.folder(self.store).folder(self.identity)

    def run(self, observers: Sequence[Observer], tracking_uri: str, since: float | None = None) -> RunEnded:
        """Build what is missing; `since`: see Runner.

        Raises:
            RequestError: the request cannot be met.
            RunError: a stage failed.
        """
        return Runner(self.plan, self.store, self.cluster, observers, tracking_uri, since).run()


def prepare(
    config: PipelineConfig, cluster: Cluster | None = None, splits: Mapping[str, Summary] | None = None
) -> Pipeline:
    """Validate and plan a pipeline.

    Args:
        config: all settings.
        cluster: where it runs; None: as `config.cluster` says.
        splits: the data set, if it was listed already.

    Raises:
        RequestError: the request cannot be met, as far as this is known before anything runs.
    """
    if missing := missing_modules():
        raise RequestError(f"this machine {missing}")
    if config.until in NOW_WEIGHTS:
        log("until", f"{config.until} makes only weights; until={NOW_WEIGHTS[config.until]} makes what it made in 0.1")
    splits = _listed(config) if splits is None else splits
    store = Store.open(config.store)
    cluster = Cluster(config.cluster) if cluster is None else cluster
    plan = make_plan(config, splits, store, hardware_of(cluster, config.precision))
    check_plan(plan, splits)
    settings = dataclasses.replace(config, store="", rebuild=[], run=None, plan=False)
    identity = fingerprint(settings, [_identity(split) for split in splits.values()])
    return Pipeline(config=config, splits=splits, store=store, cluster=cluster, plan=plan, identity=identity)


NOW_WEIGHTS = {"amn": "amn_maps", "irn": "pseudo_masks"}
"""Steps that made more in version 0.1."""


def look_ahead(config: PipelineConfig) -> Plan:
    """The plan on this machine, without Ray; nothing runs.

    Raises:
        RequestError: as `prepare`.
    """
    splits = _listed(config)
    plan = make_plan(config, splits, Store.reading(config.store), hardware_here(config.cluster.device))
    check_plan(plan, splits)
    return plan


def _listed(config: PipelineConfig) -> dict[str, Summary]:
    splits = list_splits(config.dataset, needs_val=needs_val(config))
    for label, count in splits["train"].unknown_classes.items():
        log("images", f"warning: {count} objects of class {label!r} are ignored, it is not in the class list")
    for warning in dict.fromkeys(warning for summary in splits.values() for warning in summary.warnings):
        log("images", f"warning: {warning}")
    return splits


def needs_val(config: PipelineConfig) -> bool:
    """Whether the pipeline uses the validation images."""
    return config.until in (None, "segmenter", "predictions", "predictions_refined")


def _identity(split: Summary) -> list[object]:
    return [split.identity(), split.truth_identity()]


def check_plan(plan: Plan, splits: Mapping[str, Summary]) -> None:
    """Reject early what would fail after hours.

    Raises:
        RequestError: see the checks below.
    """
    check_batches(plan, splits["train"].rows)
    check_rebuild(plan)
    check_masks(plan, splits["train"])


def check_masks(plan: Plan, train: Summary) -> None:
    """Reject training the segmentation network on ground truth that some images lack.

    Raises:
        RequestError: an image has no mask.
    """
    planned = plan.get("pseudo_masks")
    if planned is not None and planned.step.same_as == "truth" and train.masks < train.rows:
        raise RequestError(
            f"boundaries=ground_truth: {train.masks} of the {train.rows} training images have a mask; add the others, "
            "or train on those alone (dataset.train_list of VOC, the column split of labels.csv, a smaller COCO file)"
        )


def check_batches(plan: Plan, num_images: int) -> None:
    """Reject impossible batch sizes.

    Raises:
        RequestError: a batch is larger than the data set, or cannot be divided among the workers.
    """
    workers = plan.config.cluster.train_workers or 1
    for planned in plan:
        if isinstance(planned.settings, TrainingConfig):
            size, count = planned.settings.batch_size, num_images
            selected = plan.get(planned.step.inputs.get("images", ""))
            if selected is not None and isinstance(selected.settings, SelectedImagesConfig):
                count = min(count, selected.settings.at_most)
            if size > count or size % workers:
                raise RequestError(
                    f"{planned.name}.batch_size={size}: must be a multiple of the training workers ({workers}) and not "
                    f"larger than the number of training images ({count})"
                )


def check_rebuild(plan: Plan) -> None:
    """Reject the rebuild of a step that is not part of the plan, or that no stage makes.

    Raises:
        RequestError: one is such a step.
    """
    names = [planned.name for planned in plan]
    for name in plan.config.rebuild:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f", did you mean {near[0]}" if near else ""
            raise RequestError(f"rebuild={name}: is not a step of this pipeline, which has {', '.join(names)}{hint}")
        planned = plan.get(name)
        if planned is not None and planned.step.same_as is not None:
            same = planned.step.same_as
            raise RequestError(f"rebuild={name}: is the result of {same} with these choices; set rebuild=[{same}]")


def check_truth(plan: Plan, key: str, metric: str) -> None:
    """Reject early a metric that needs ground truth where there is none.

    Raises:
        RequestError: `metric`, which `key` names, needs ground truth, and the images have none.
    """
    step, _, name = metric.partition("/")
    planned = plan.get(plan.finals().get(step, step))
    is_score = name in any_score()
    if planned is not None and planned.score is None and is_score:
        raise RequestError(f"{key}={metric}: the images of {plan.config.dataset.name} have no ground truth")
