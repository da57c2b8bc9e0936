"""The recipe on one page: the only module that knows the order of the stages.

    images ─ cam ─ seed (CRF) ─ amn ─ amn_seed (CRF) ─ irn ─ deeplab ─ deeplab_crf

Every step is an artifact of the store; one that is there already is not made again.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from amn_ray import runs
from amn_ray.artifacts import Artifact, Store, fingerprint, git_commit
from amn_ray.cluster import Cluster
from amn_ray.config import PipelineConfig, flat
from amn_ray.data.folder import Folder, FolderConfig
from amn_ray.data.shapes import Shapes, ShapesConfig
from amn_ray.data.source import DatasetConfig, Source
from amn_ray.data.voc import Voc, VocConfig
from amn_ray.errors import RequestError
from amn_ray.nn.config import BackboneConfig
from amn_ray.reporting import console, results
from amn_ray.segmenter import Settings, write_model
from amn_ray.stages.amn import stage as amn
from amn_ray.stages.backbone import stage as backbone
from amn_ray.stages.cam import stage as cam
from amn_ray.stages.crf import stage as crf
from amn_ray.stages.deeplab import stage as deeplab
from amn_ray.stages.images import stage as images
from amn_ray.stages.images.config import SplitRequest
from amn_ray.stages.irn import stage as irn
from amn_ray.stages.score import stage as score
from amn_ray.stages.score.config import ScoreConfig
from amn_ray.tracking import EpochCallback, TrackedRun, Tracker
from amn_ray.training.job import MODEL

TRAINED = (cam, amn, irn, deeplab)
"""The stages that report epochs."""
SOURCES: Mapping[type, type] = {ShapesConfig: Shapes, VocConfig: Voc, FolderConfig: Folder}


def steps(config: PipelineConfig, splits: Mapping[str, SplitRequest], make: Maker) -> Iterator[str]:
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
    """Run until `config.until`; returns the summary {step: {metric: value}}, which is also written to the store.

    Raises:
        RequestError: the request cannot be met (checked, as far as it can be, before anything is computed).
        RunError: a stage failed.
    """
    source = open_source(config.dataset)
    splits = {"train": SplitRequest.of(source, config.dataset, "train")}
    for name, count in splits["train"].listing.unknown_classes.items():
        console.say("images", f"warning: {count} objects of class {name!r} are ignored, it is not in the class list")
    val = SplitRequest.of(source, config.dataset, "val")
    if val.listing.records:
        splits["val"] = val
    check_batches(config, len(splits["train"].listing.records))
    store = Store.open(config.store)
    identity = fingerprint(dataclasses.replace(config, store=""), [split.identity() for split in splits.values()])
    folder = Path(store.root) / "runs" / identity
    folder.mkdir(parents=True, exist_ok=True)

    tracker = Tracker(config.tracking, store)
    tags = {"dataset": config.dataset.name, "git_commit": git_commit()}
    with tracker.run(f"pipeline {config.dataset.name}", identity, tags) as parent:
        # A parameter never changes, but a store may be moved, or named in another way.
        parent.params({name: value for name, value in flat(config).items() if name != "store"})
        parent.tags({"store": store.root})
        make = Maker(store, Cluster(config.cluster), tracker, parent, tags)
        for step in steps(config, splits, make):
            if step == config.until:
                break
        runs.record(
            folder,
            {step: made for step, made in make.artifacts.items() if not step.endswith("_score")},
            crf=config.crf.deeplab,
        )
        if "deeplab" in make.artifacts:
            log_model(make, config)
        figures = results.draw(make.artifacts, make.manifests, folder / "figures")
        summary = folder / "summary.json"
        summary.write_text(json.dumps(make.summary, indent=2))
        for path in [*figures, summary]:
            parent.artifact(path)
        parent.metrics(
            {f"{step}/{name}": value for step, metrics in make.summary.items() for name, value in metrics.items()}
        )
    console.summary_table(make.summary)
    console.where_to_look(summary, folder / "figures")
    return make.summary


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
        if not child.has_model:
            with tempfile.TemporaryDirectory() as folder:
                settings = Settings.of(predictions, images, config.crf.deeplab)
                write_model(Path(folder), settings, predictions.read(MODEL))
                child.model(make.tracker.uri, Path(folder), config.tracking.register, config.tracking.alias)


def open_source(config: DatasetConfig) -> Source:
    """The source that reads this kind of data set.

    Raises:
        RequestError: its root or class list is wrong.
    """
    return SOURCES[type(config)](config)


class Maker:
    """Makes an artifact unless it exists, and records both cases in the same way."""

    def __init__(
        self, store: Store, cluster: Cluster, tracker: Tracker, parent: TrackedRun, tags: Mapping[str, str]
    ) -> None:
        self.store = store
        self.cluster = cluster
        self.tracker = tracker
        self.parent = parent
        self.tags = tags
        self.artifacts: dict[str, Artifact] = {}
        self.manifests: dict[str, dict[str, Any]] = {}
        self.summary: dict[str, dict[str, float]] = {}

    def __call__(self, step: str, stage: ModuleType, config: Any, inputs: Mapping[str, Artifact]) -> Artifact:
        """Run `stage` for `step`, in an MLflow child run."""
        identity = stage.identity(config) if hasattr(stage, "identity") else config
        output = self.store.artifact(stage.NAME, stage.VERSION, identity, inputs)
        with self.tracker.run(step, output.fingerprint, {**self.tags, "stage": stage.NAME}, self.parent) as child:
            if dataclasses.is_dataclass(identity):
                child.params(flat(identity))
            child.tags({"reused": str(output.complete).lower()})
            manifest = self._make(step, stage, config, identity, inputs, output, child)
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
        if output.complete:
            console.say(step, f"is there already ({output.stage}/{output.fingerprint})")
            return output.manifest()
        console.say(step, f"→ {output.stage}/{output.fingerprint}")
        started = time.monotonic()
        extra = {"callbacks": [EpochCallback(self.tracker.uri, child.run_id, step)]} if stage in TRAINED else {}
        result = stage.run(config, inputs, output, self.cluster, **extra)
        return output.commit(config=identity, inputs=inputs, seconds=time.monotonic() - started, result=result)
