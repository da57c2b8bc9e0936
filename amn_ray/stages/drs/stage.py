"""DRS: images → a classifier that suppresses its maxima; with it → activation maps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from amn_ray.core.artifacts import MODEL, Artifact
from amn_ray.core.console import log
from amn_ray.core.errors import RequestError
from amn_ray.core.settings import affecting_result, build
from amn_ray.data.labelled_crop import LabelledCrop
from amn_ray.data.pixels import Pixels
from amn_ray.nn.backbones.registry import RESNETS
from amn_ray.platform.mapping import MAPPING_METRICS, map_table
from amn_ray.stages.drs.config import SECOND_EPOCHS, SQUARE, VGG, DrsMapsConfig, DrsNetworkConfig
from amn_ray.stages.drs.example import LabelledSquare, TargetSquare
from amn_ray.stages.drs.infer import MakeDrs, MakeTargets
from amn_ray.stages.maps import COLUMNS, map_images
from amn_ray.stages.methods import Method, on_backbone
from amn_ray.stages.stage import Context, Result, Stage
from amn_ray.training.initial_weights import content_of, held_in
from amn_ray.training.job import TRAINING_METRICS

FIRST, TARGET = "first", "targets"


def identity(config: DrsNetworkConfig) -> Mapping[str, Any]:
    """The settings that affect the result; of weights the content.

    Raises:
        RequestError: there is no such file, or the run's backbone is none that DRS knows.
    """
    if config.on_vgg:
        weights = None if config.weights is None else content_of(config.weights, "maps_network.weights")
        return {**affecting_result(config), "weights": weights}
    if config.backbone is not None and config.backbone.name not in RESNETS:
        raise RequestError(
            f"maps=drs: suppresses what comes out of a layer's last ReLU, and backbone.name={config.backbone.name} may "
            f"have none there; set {', '.join(RESNETS[:-1])} or {RESNETS[-1]}, or maps_network.backbone={VGG}"
        )
    return {**affecting_result(config), "weights": None}


def _unused(config: DrsNetworkConfig) -> Collection[str]:
    return ("backbone",) if config.on_vgg else ()


def train_network(
    config: DrsNetworkConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context
) -> Result:
    """Train on the labels of all images; with `second_network` the second one on the first one's maps, too."""
    images = inputs["images"]
    manifest = images.manifest()
    common: dict[str, Any] = {"num_classes": len(manifest["classes"]), "pixels": Pixels.of(manifest)}
    crop = LabelledSquare if config.on_vgg else LabelledCrop
    assert config.long_side is not None
    assert config.crop is not None
    labelled = crop(config.long_side, config.crop, **common)
    if not config.second_network:
        return _trained(_train_worker, config, inputs, output, context, example=labelled, epochs=config.epochs)
    first, targets = output.part(FIRST), output.part(TARGET)
    sources: list[tuple[Artifact, tuple[str, ...]]] = []
    if not output.exists(MODEL):  # else a run died after it had trained both
        if not first.exists(MODEL):
            log(output.stage, "trains the first network, whose maps the second one will learn")
            unobserved = dataclasses.replace(context, callbacks=())  # recorded is the loss of the second one
            _trained(_train_worker, config, inputs, first, unobserved, example=labelled, epochs=config.epochs)
        map_table(
            context.cluster, images, COLUMNS, MakeTargets, {"config": config, "weights": first, **common}, targets,
            on="networks",
        )  # fmt: skip
        sources.append((targets, ("keys", "maps")))
    squares = TargetSquare(SQUARE, **common)
    result = _trained(
        _train_second_worker, config, inputs, output, context, example=squares, epochs=SECOND_EPOCHS, also=sources
    )
    for done in (first, targets):
        done.remove()
    return result


def _trained(
    worker: Callable[[dict], None],
    config: DrsNetworkConfig,
    inputs: Mapping[str, Artifact],
    output: Artifact,
    context: Context,
    *,
    example: Any,
    epochs: int | None,
    also: Collection[tuple[Artifact, tuple[str, ...]]] = (),
) -> Result:
    # Imported here: a pipeline whose artifacts all exist does not need PyTorch.
    from amn_ray.training.driver import train

    own = config.weights if config.on_vgg else None
    with held_in(output, own, _vgg, "maps_network.weights", f"maps_network.backbone={VGG}") as start:
        return train(
            worker,
            config,
            output,
            context.cluster,
            sources=[(inputs["images"], ("image", "labels")), *also],
            example=example,
            num_classes=example.num_classes,
            backbone=start or inputs.get("backbone"),
            epochs=epochs,
            callbacks=context.callbacks,
            probe=context.probe,
        )


def _vgg() -> Any:
    from amn_ray.stages.drs.vgg import Vgg16

    return Vgg16()


def make_maps(config: DrsMapsConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Make the maps of all images."""
    weights = inputs["maps_network"]
    network = build(DrsNetworkConfig, weights.manifest()["config"])
    return map_images(
        MakeDrs, {"config": config, "network": network, "weights": weights}, inputs["images"], output, context
    )


def title(settings: Mapping[str, Any]) -> str:
    """DRS on VGG-16; else with the name of the run's backbone."""
    return "DRS" if settings.get("maps_network.backbone") == VGG else on_backbone("DRS", settings)


def _train_worker(settings: dict) -> None:
    from amn_ray.stages.drs.train import train_worker  # on the worker: torchvision costs the driver seconds

    train_worker(settings)


def _train_second_worker(settings: dict) -> None:
    from amn_ray.stages.drs.train import train_second_worker

    train_second_worker(settings)


DRS_NETWORK = Stage(
    name="drs_network",
    version=1,
    config=DrsNetworkConfig,
    makes="weights",
    needs=("images",),
    optional=("backbone",),
    unused=_unused,
    metrics=TRAINING_METRICS,
    run=train_network,
    identity=identity,
)
DRS_MAPS = Stage(
    name="drs_maps",
    version=1,
    config=DrsMapsConfig,
    makes="maps",
    needs=("images", "maps_network"),
    metrics=MAPPING_METRICS,
    run=make_maps,
)
METHOD = Method(
    group="maps",
    name="drs",
    title=title,
    stages={"maps_network": DRS_NETWORK, "maps": DRS_MAPS},
    settings=Path(__file__).with_name("drs.yaml"),
)
