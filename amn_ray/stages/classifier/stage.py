"""The classifier: images → network weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from amn_ray.core.artifacts import Artifact
from amn_ray.core.settings import affecting_result
from amn_ray.data.labelled_crop import LabelledCrop
from amn_ray.data.pixels import Pixels
from amn_ray.evaluation.ranking import mean_average_precision
from amn_ray.platform.mapping import map_table
from amn_ray.stages.classifier.config import ADAMW, ClassifierConfig, LabelScoreConfig
from amn_ray.stages.classifier.infer import COLUMNS, ClassifyImages
from amn_ray.stages.stage import Context, Result, Stage
from amn_ray.training.job import TRAINING_METRICS


def identity(config: ClassifierConfig) -> Mapping[str, Any]:
    """The settings that affect the result: of AdamW only where it trains, and then not those of SGD."""
    settings = affecting_result(config)
    of_other = (
        ("lr_backbone", "lr_head", "momentum", "weight_decay") if config.optimizer == ADAMW else ("optimizer", ADAMW)
    )
    return {key: value for key, value in settings.items() if key not in of_other}


def run(config: ClassifierConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Train on the labels of all images. Without `backbone` training starts from random weights."""
    # Imported here: a pipeline whose artifacts all exist does not need PyTorch.
    from amn_ray.training.driver import train

    images = inputs["images"]
    manifest = images.manifest()
    num_classes = len(manifest["classes"])
    return train(
        _train_worker,
        config,
        output,
        context.cluster,
        sources=[(images, ("image", "labels"))],
        example=LabelledCrop(config.long_side, config.crop, num_classes, Pixels.of(manifest)),
        num_classes=num_classes,
        backbone=inputs.get("backbone"),
        epochs=config.epochs,
        callbacks=context.callbacks,
        probe=context.probe,
    )


def _train_worker(settings: dict) -> None:
    from amn_ray.stages.classifier.train import train_worker  # on the worker: torchvision costs the driver seconds

    train_worker(settings)


def score_labels(
    config: LabelScoreConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context
) -> Result:
    """Compare the classifier's predictions for all images with their labels."""
    images = inputs["images"]
    manifest = images.manifest()
    settings = {
        "precision": config.precision,
        "num_classes": len(manifest["classes"]),
        "pixels": Pixels.of(manifest),
        "weights": inputs["classifier"],
    }
    result = map_table(context.cluster, images, COLUMNS, ClassifyImages, settings, output, on="networks")
    precision = context.cluster.run_remote(_mean_average_precision, output)
    return {"rows": result["rows"], "metrics": {} if precision is None else {"mean_average_precision": precision}}


def _mean_average_precision(output: Artifact) -> float | None:
    rows = output.fresh_table().read(["labels", "logits"]).to_pylist()
    logits = np.array([row["logits"] for row in rows], np.float32)
    is_true = np.array([[label + 1 in row["labels"] for label in range(logits.shape[1])] for row in rows])
    precision = mean_average_precision(logits, is_true)
    return None if np.isnan(precision) else precision


CLASSIFIER = Stage(
    name="classifier",
    version=1,
    config=ClassifierConfig,
    makes="weights",
    needs=("images",),
    optional=("backbone",),
    metrics=TRAINING_METRICS,
    run=run,
    identity=identity,
)
LABEL_SCORE = Stage(
    name="label_score",
    version=1,
    config=LabelScoreConfig,
    makes="table",
    needs=("images", "classifier"),
    metrics=("mean_average_precision",),
    run=score_labels,
)
