"""The recipe on one page: the only module that knows the order of the stages.

    images ─ cam ─ seed (CRF) ─ amn ─ amn_seed (CRF) ─ irn ─ deeplab ─ deeplab_crf

Every step is an artifact of the store; one that is there already is not made again.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from ray.train import UserCallback

from amn_ray.core.artifacts import Artifact, Store, fingerprint
from amn_ray.core.errors import RequestError
from amn_ray.core.folders import Folder
from amn_ray.core.provenance import git_commit, missing_modules
from amn_ray.data.listing import Summary, list_splits
from amn_ray.inference.segmenter import Settings, write_model
from amn_ray.nn import footprint
from amn_ray.nn.config import BackboneConfig
from amn_ray.platform.claims import claimed
from amn_ray.platform.cluster import Cluster
from amn_ray.platform.tracking import TrackedRun, Tracker
from amn_ray.recipe import records as runs
from amn_ray.recipe.config import PipelineConfig, flat
from amn_ray.reporting import console, results
from amn_ray.stages.amn import stage as amn
from amn_ray.stages.backbone import stage as backbone
from amn_ray.stages.cam import stage as cam
from amn_ray.stages.crf import stage as crf
from amn_ray.stages.deeplab import stage as deeplab
from amn_ray.stages.images import stage as images
from amn_ray.stages.irn import stage as irn
from amn_ray.stages.score import stage as score
from amn_ray.stages.score.config import ScoreConfig
from amn_ray.training.epochs import EpochCallback
from amn_ray.training.job import MODEL, Probe

TRAINED = (cam, amn, irn, deeplab)
"""The stages that report epochs."""
SUMMARY = "summary.json"
TRIAL_PATIENCE_S = 120
"""How long a trial waits for MLflow: that a study's trials began is no reason to lose them."""
_TRAINING = ("loss", "images_per_second")
METRICS: Mapping[str, Sequence[str]] = {
    "images": ("images",),
    "cam": (*_TRAINING, *score.OF_MAPS),
    "seed": ("images_per_second", *score.OF_MASKS),
    "amn": (*_TRAINING, *score.OF_MAPS),
    "amn_seed": ("images_per_second", *score.OF_MASKS),
    "irn": (*_TRAINING, *score.OF_MASKS),
    "deeplab": (*_TRAINING, *score.OF_MASKS),
    "deeplab_crf": ("images_per_second", *score.OF_MASKS),
}
"""What each step reports besides its seconds; scores only where there is ground truth."""


def steps(config: PipelineConfig, splits: Mapping[str, Summary], make: Maker) -> Iterator[str]:
    """The method: yields the name of each step when it is done."""
    table = make("images", images, splits["train"], {})
    evaluated = {"images": make("images_val", images, splits["val"], {}) if "val" in splits else table}
    yield "images"
    base: dict[str, Artifact] = {"images": table}
    start = initial_weights("backbone", config.backbone, make)
    if config.reaches("deeplab"):  # now, not hours later, when its weights are missing
        deeplab_start = initial_weights("deeplab_backbone", config.deeplab.backbone, make, owner="deeplab.")

    cams = make("cam", cam, config.cam, base | start)
    make.score("cam", base | {"maps": cams}, ScoreConfig(threshold=config.cam.threshold))
    yield "cam"
    seeds = make("seed", crf, config.crf.cam, base | {"maps": cams})
    make.score("seed", base | {"masks": seeds})
    yield "seed"
    refined = {"maps": cams, "seeds": seeds}
    if config.branch == "amn":
        amns = make("amn", amn, config.amn, base | start | {"seeds": seeds})
        make.score("amn", base | {"maps": amns}, ScoreConfig(threshold=config.amn.threshold))
        yield "amn"
        amn_seeds = make("amn_seed", crf, config.crf.amn, base | {"maps": amns})
        make.score("amn_seed", base | {"masks": amn_seeds})
        yield "amn_seed"
        refined = {"maps": amns, "seeds": amn_seeds}
    # IRN needs features that mean something: without ImageNet's, those of the classifier.
    masks = make("irn", irn, config.irn, base | (start or {"backbone": cams}) | refined)
    make.score("irn", base | {"masks": masks})
    yield "irn"
    inputs = base | (deeplab_start or {"backbone": cams}) | {"masks": masks, "evaluated": evaluated["images"]}
    predictions = make("deeplab", deeplab, config.deeplab, inputs)
    make.score("deeplab", evaluated | {"masks": predictions})
    yield "deeplab"
    final = make("deeplab_crf", crf, config.crf.deeplab, evaluated | {"logits": predictions})
    make.score("deeplab_crf", evaluated | {"masks": final})
    yield "deeplab_crf"


def initial_weights(step: str, config: BackboneConfig, make: Maker, owner: str = "") -> dict[str, Artifact]:
    """The backbone that training starts from; none where no weights are named.

    Raises:
        RequestError: the weights cannot be used; the sentence begins with `owner` and the key.
    """
    try:
        return {} if config.weights is None else {"backbone": make(step, backbone, config, {})}
    except RequestError as error:
        raise RequestError(f"{owner}{error}") from error


def run(config: PipelineConfig) -> dict[str, dict[str, float]]:
    """Run until `config.until`, and tell the summary; see `execute`."""
    finished = execute(config, Cluster(config.cluster))
    console.summary_table(finished.summary)
    console.where_to_look(f"{finished.folder.url}/{SUMMARY}", f"{finished.folder.url}/{results.FIGURES}")
    return finished.summary


class Watch(Protocol):
    """Looks at the training of one step while it goes on (see tuning/probe.py)."""

    STEP: str

    def callback(self) -> UserCallback:
        """Gets each epoch's report."""
        ...

    def probe(self, config: Any, made: Mapping[str, Artifact]) -> Probe | None:
        """Measures the network after each epoch; `made` is what the steps before have made."""
        ...


@dataclass(frozen=True)
class Finished:
    """A pipeline that ended well."""

    folder: Folder
    """Its folder in the store's `runs/`."""
    summary: dict[str, dict[str, float]]
    """{step: {metric: value}}."""
    tracked: bool
    """Whether MLflow knows all of it."""


def execute(
    config: PipelineConfig,
    cluster: Cluster,
    *,
    name: str | None = None,
    study: str | None = None,
    splits: Mapping[str, Summary] | None = None,
    watch: Watch | None = None,
) -> Finished:
    """Run until `config.until`.

    Args:
        config: all settings.
        cluster: where it runs.
        name: of its MLflow run; None names the data set.
        study: the id of the study's MLflow run, if this is a trial of one.
        splits: the listed data set, if somebody has listed it.
        watch: looks at a training while it goes on.

    Raises:
        RequestError: the request cannot be met (checked, as far as it can be, before anything is computed).
        RunError: a stage failed.
    """
    if missing := missing_modules():
        raise RequestError(f"this machine {missing}")
    splits = list_splits(config.dataset, needs_val=config.reaches("deeplab")) if splits is None else splits
    for label, count in splits["train"].unknown_classes.items():
        console.say("images", f"warning: {count} objects of class {label!r} are ignored, it is not in the class list")
    for warning in dict.fromkeys(warning for summary in splits.values() for warning in summary.warnings):
        console.say("images", f"warning: {warning}")
    check_batches(config, splits["train"].rows)
    store = Store.open(config.store)
    identity = fingerprint(dataclasses.replace(config, store=""), [split.identity() for split in splits.values()])
    folder = runs.folder(store).folder(identity)

    tracker = Tracker(config.tracking, store, patience_s=0 if study is None else TRIAL_PATIENCE_S)
    tags = {"dataset": config.dataset.name, "git_commit": git_commit()}
    above = None if study is None else tracker.known(study)
    with tracker.run(name or f"pipeline {config.dataset.name}", identity, tags, above) as parent:
        # A parameter never changes, but a store may be moved, or named in another way.
        parent.params({key: value for key, value in flat(config).items() if key != "store"})
        parent.tags({"store": store.url, "run": identity})
        parent.watch_machine()
        make = Maker(store, cluster, tracker, parent, tags, watch)
        for step in steps(config, splits, make):
            if step == "images":
                tell_large(config, make.manifests)
            if step == config.until:
                break
        runs.record(
            folder,
            settings=flat(config),
            artifacts=make.artifacts,
            crf=config.crf.deeplab,
            mlflow_run=parent.run_id,
        )
        if "deeplab" in make.artifacts:
            log_model(make, config)
        with tempfile.TemporaryDirectory() as drawn:
            for path in results.draw(make.artifacts, make.manifests, Path(drawn)):
                folder.folder(results.FIGURES).write(path.name, path.read_bytes())
                parent.artifact(path.name, path.read_bytes())
        summary = json.dumps(make.summary, indent=2).encode()
        folder.write(SUMMARY, summary)
        parent.artifact(SUMMARY, summary)
        parent.metrics(
            {f"{step}/{name}": value for step, metrics in make.summary.items() for name, value in metrics.items()}
        )
    return Finished(folder, make.summary, tracker.told_all)


def tell_large(config: PipelineConfig, manifests: Mapping[str, dict[str, Any]]) -> None:
    """Say, before hours are spent, for which image the memory may not be enough."""
    scales = [*config.cam.scales, *(config.amn.scales if config.branch == "amn" else ())]
    for split in ("images", "images_val"):
        if split in manifests:
            warning = footprint.warning(manifests[split]["largest"], scales, config.backbone.name)
            if warning:
                console.say(split, f"warning: {warning}")


def is_score(metric: str) -> bool:
    """Whether a metric needs ground truth."""
    return metric.partition("/")[2] in {*score.OF_MAPS, *score.OF_MASKS}


def check_truth(config: PipelineConfig, splits: Mapping[str, Summary], key: str, metric: str) -> None:
    """Refuse now a score that could not be given at the end.

    Raises:
        RequestError: `metric`, which `key` names, needs ground truth, and the images have none.
    """
    split = "val" if metric.startswith("deeplab") and "val" in splits else "train"
    if is_score(metric) and not splits[split].evaluated:
        raise RequestError(f"{key}={metric}: the {split} images of {config.dataset.name} have no ground truth")


def metric_names(config: PipelineConfig) -> set[str]:
    """What a pipeline reports if its images have ground truth: `<step>/<metric>`."""
    return {f"{step}/{name}" for step, names in METRICS.items() if config.reaches(step) for name in (*names, "seconds")}


def check_batches(config: PipelineConfig, num_images: int) -> None:
    """Refuse now what a later stage would refuse after hours.

    Raises:
        RequestError: a batch is larger than the data set, or cannot be divided among the workers.
    """
    workers = config.cluster.train_workers or 1
    for name in ("cam", "amn", "irn", "deeplab"):
        size = getattr(config, name).batch_size
        if config.reaches(name) and (size > num_images or size % workers):
            raise RequestError(
                f"{name}.batch_size={size}: must be a multiple of the training workers ({workers}) and not larger than "
                f"the number of training images ({num_images})"
            )


def log_model(make: Maker, config: PipelineConfig) -> None:
    """The segmentation network with its CRF, as a model in the MLflow run of its training."""
    predictions, images = make.artifacts["deeplab"], make.artifacts["images"]
    with make.tracker.run("deeplab", predictions.fingerprint, make.tags, make.parent) as child:
        settings = Settings.of(predictions, images, config.crf.deeplab)
        child.model(
            lambda folder: write_model(folder, settings, predictions.read(MODEL)),
            config.tracking.register,
            config.tracking.alias,
        )


class Maker:
    """Makes an artifact unless it exists, and records both cases in the same way."""

    def __init__(
        self,
        store: Store,
        cluster: Cluster,
        tracker: Tracker,
        parent: TrackedRun,
        tags: Mapping[str, str],
        watch: Watch | None = None,
    ) -> None:
        self.watch = watch
        self.store = store
        self.cluster = cluster
        self.tracker = tracker
        self.parent = parent
        self.tags = tags
        self.artifacts: dict[str, Artifact] = {}
        self.manifests: dict[str, dict[str, Any]] = {}
        self.summary: dict[str, dict[str, float]] = {}
        self._checked: set[str] = set()

    def __call__(self, step: str, stage: ModuleType, config: Any, inputs: Mapping[str, Artifact]) -> Artifact:
        """Run `stage` for `step`, in an MLflow child run."""
        identity = stage.identity(config) if hasattr(stage, "identity") else config
        output = self.store.artifact(stage.NAME, stage.VERSION, identity, inputs)
        with self.tracker.run(step, output.fingerprint, {**self.tags, "stage": stage.NAME}, self.parent) as child:
            if dataclasses.is_dataclass(identity):
                child.params(flat(identity))
            manifest = self._make(step, stage, config, identity, inputs, output, child)
            for warning in manifest.get("warnings", ()):
                console.say(step, f"warning: {warning}")
            metrics = {**manifest["metrics"], "seconds": manifest["seconds"]}
            child.metrics({f"{step}/{name}": value for name, value in metrics.items()})
            points = [(int(point["step"]), point["loss"]) for point in manifest.get("history", ())]
            if points:
                child.curve(f"{step}/loss_curve", points)
        self.artifacts[step], self.manifests[step] = output, manifest
        self.summary[step] = metrics
        return output

    def score(self, step: str, inputs: Mapping[str, Artifact], config: ScoreConfig | None = None) -> None:
        """Score what `step` made; the metrics join its own."""
        output = self.store.artifact(score.NAME, score.VERSION, config, inputs)
        made = self.artifacts[step]
        with self.tracker.run(step, made.fingerprint, self.tags, self.parent) as child:
            manifest = self._make(f"{step} score", score, config, config, inputs, output, child)
            child.metrics({f"{step}/{name}": value for name, value in manifest["metrics"].items()})
            if "curve" in manifest:
                curve = manifest["curve"]
                # MLflow's steps are integers: τ in thousandths.
                points = [(round(1000 * tau), miou) for tau, miou in zip(curve["tau"], curve["miou"], strict=True)]
                child.curve(f"{step}/miou_by_tau", points)
                self.parent.curve(f"{step}/miou_by_tau", points)  # where pipelines are compared
        self.artifacts[f"{step}_score"], self.manifests[f"{step}_score"] = output, manifest
        self.summary[step] = manifest["metrics"] | self.summary[step]
        if "miou" in manifest["metrics"]:
            console.say(step, results.one_line(manifest["metrics"]))

    def _make(
        self,
        step: str,
        stage: ModuleType,
        config: Any,
        identity: Any,
        inputs: Mapping[str, Artifact],
        output: Artifact,
        child: TrackedRun,
    ) -> dict[str, Any]:
        place = f"{output.stage}/{output.fingerprint}"
        with claimed(
            self.store,
            f"{output.stage}-{output.fingerprint}",
            is_done=lambda: output.complete,
            on_wait=lambda: console.say(step, f"waits for another run that makes {place}"),
        ) as check:
            reused = output.complete
            if stage is not score:
                child.tags({"reused": str(reused).lower()})
            if reused:
                console.say(step, f"is there already ({place})")
                manifest = output.manifest()
                if hasattr(stage, "check_reuse"):
                    stage.check_reuse(config, manifest)
                return manifest
            self._check_cluster()
            console.say(step, f"→ {place}")
            started, spilled = time.monotonic(), self.cluster.spilled_gb()
            extra: dict[str, Any] = {}
            if stage in TRAINED:
                extra["callbacks"] = [EpochCallback(self.tracker.uri, child.run_id, step)]
            if self.watch is not None and step == self.watch.STEP:
                extra["callbacks"].append(self.watch.callback())
                extra["probe"] = self.watch.probe(config, self.artifacts)
            # Before the stage: what is recorded of it must not depend on nodes that are gone when it is done.
            share = self.cluster.train_share(config.batch_size) if stage in TRAINED else None
            output = dataclasses.replace(output, check=check)
            result = stage.run(config, inputs, output, self.cluster, **extra)
            spilled = max(0.0, self.cluster.spilled_gb() - spilled)  # a node that died takes its count with it
            if spilled > 0.01:
                child.metrics({f"{step}/spilled_gb": spilled})
                console.say(
                    step,
                    f"warning: {spilled:.1f} GiB of objects did not fit into memory and went to disk and back; raise "
                    "cluster.object_store_gb (a local Ray), or start the nodes with a larger --object-store-memory",
                )
            result = {"gpus": share.count * share.gpus if share else 0, "spilled_gb": round(spilled, 3), **result}
            return output.commit(config=identity, inputs=inputs, seconds=time.monotonic() - started, result=result)

    def _check_cluster(self) -> None:
        """Before anything is made: whether all nodes can do their part. (Where all is there, Ray is not needed.)"""
        nodes = self.cluster.nodes()
        if not nodes <= self._checked:
            self.cluster.check_tracking(self.tracker.uri)
            self.cluster.check_shared(self.store, "store")
            self.cluster.check_everywhere(missing_modules, working_only=True)
            self._checked |= nodes
