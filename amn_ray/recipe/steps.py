"""The recipe on one page: all steps, their order, and their inputs.

    images ─ classifier ─ maps ─ refined ─ amn ─ amn_maps ─ amn_refined ─ irn ─ pseudo_masks ─ segmenter ─ predictions

The configuration chooses the method of each step. Everything else about steps (metrics, what is scored, what can be
exported, rows of the report) is derived from these values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from amn_ray.core.errors import RequestError
from amn_ray.core.settings import is_null
from amn_ray.data.listing import Summary
from amn_ray.nn.config import BackboneConfig
from amn_ray.recipe.config import PipelineConfig
from amn_ray.stages import builtin, methods  # noqa: F401 — `builtin` registers the methods
from amn_ray.stages.backbone.stage import INITIAL_WEIGHTS
from amn_ray.stages.classifier.stage import CLASSIFIER
from amn_ray.stages.groups import ALL
from amn_ray.stages.images.stage import IMAGES
from amn_ray.stages.methods import Method
from amn_ray.stages.selected_images.stage import SELECTED_IMAGES, SelectedImagesConfig
from amn_ray.stages.stage import Stage
from amn_ray.stages.truth.stage import TRUTH

TABLES = (IMAGES, TRUTH)
"""The tables of a data set: `until=images` makes them for all its splits."""
NETWORKS = {"irn": "IRN", "segmenter": "the segmentation network"}
"""The networks that may have a backbone of their own, in words."""
GIVEN = "given"
"""In the settings of a training step: its initial weights are an input."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One node of the pipeline."""

    name: str
    stage: Stage[Any] | None
    """The stage that runs; None if the result is another step's."""
    settings: Any = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    """The stage's name for an input -> the step that makes it."""
    same_as: str | None = None
    """The step whose result this is, if there is no stage."""
    truth: str | None = None
    """The step whose masks it is scored against; None if it is not scored."""
    threshold: float | None = None
    """τ at which its maps are scored."""
    judges: str | None = None
    """The step with the images on whose labels a classifier is scored."""
    key: str = ""
    """Prefix of the keys in its errors, for settings that are part of another step's."""

    @property
    def needs(self) -> Iterable[str]:
        """The steps that it depends on."""
        return self.inputs.values() if self.same_as is None else [self.same_as]

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Put `key` in front of the keys in errors."""
        try:
            yield
        except RequestError as error:
            if not self.key:
                raise
            raise RequestError(f"{self.key}{error}") from error


def steps(config: PipelineConfig, splits: Mapping[str, Summary]) -> list[Step]:
    """`config.until` and all steps that it needs, in execution order.

    Raises:
        RequestError: `until` is not a step of these choices, or the choices do not fit together.
    """
    possible = list(_all_steps(config, splits))
    last = possible[-1].name if config.until is None else config.until
    by_name = {step.name: step for step in possible}
    if last not in by_name:
        limited = _limited(config)
        if limited is not None:
            raise RequestError(
                f"until={last}: {limited}.images={getattr(config, limited).images} makes maps of some images only, and "
                f"ends at the seeds made of them (until={possible[-1].name}); set {limited}.images={ALL}"
            )
        raise RequestError(
            f"until={last}: these choices do not make it ({_chosen(config)}); they make {', '.join(by_name)}"
        )
    place = {step.name: number for number, step in enumerate(possible)}
    needed: set[str] = set()
    pending = [step.name for step in possible if step.stage in TABLES] if last in ("images", "truth") else [last]
    while pending:
        step = by_name[pending.pop()]
        if step.name not in needed:
            needed.add(step.name)
            for source in step.needs:
                if place.get(source, len(possible)) > place[step.name]:
                    raise RequestError(_missing_input(step, source, config))
            pending += [*step.needs, *filter(None, (step.truth, step.judges))]
    for name in needed & {"irn", "segmenter"}:
        _check_same_network(name, config.backbone, getattr(getattr(config, name), "backbone", None))
    return [step for step in possible if step.name in needed]


def _missing_input(step: Step, source: str, config: PipelineConfig) -> str:
    if step.stage is SELECTED_IMAGES:
        return (
            f"{step.key}images={step.settings.images}: the images of {config.dataset.name} have no ground truth, so "
            f"none is evaluated; set {step.key}images={ALL}"
        )
    if source.startswith("truth"):
        return f"{step.name} needs ground truth, and the images of {config.dataset.name} have none ({_chosen(config)})"
    return f"{step.name} needs {source}, which these choices do not make before it ({_chosen(config)})"


def _all_steps(config: PipelineConfig, splits: Mapping[str, Summary]) -> Iterator[Step]:
    """The method."""
    chosen = {group: methods.method(group, getattr(config.choices, group)) for group in methods.GROUPS}
    _check_selections(config, chosen, splits["train"].evaluated)
    _check_ground_truth(config, chosen)
    page = _Page(config, chosen)

    yield page.step("images", IMAGES, settings=splits["train"])
    if splits["train"].masks:
        yield page.step("truth", TRUTH, settings=splits["train"])
    images_of_val = "images"
    if "val" in splits:
        images_of_val = "images_val"
        yield page.step("images_val", IMAGES, settings=splits["val"])
        if splits["val"].masks:
            yield page.step("truth_val", TRUTH, settings=splits["val"], images="images_val")
    truth_of_val = images_of_val.replace("images", "truth")

    backbone = {}
    if config.backbone.weights is not None:
        yield page.step("backbone", INITIAL_WEIGHTS, settings=config.backbone)
        backbone = {"backbone": "backbone"}
    judges = images_of_val if "val" in splits else None
    yield replace(page.step("classifier", CLASSIFIER, **backbone), judges=judges)
    yield from page.some_images("maps", "maps_network", **backbone)
    yield from page.some_images("maps", "maps", all_images="images")
    yield from page.made("refinement", "refined")
    limited = _limited(config)
    if limited == "maps":
        return
    maps, refined = "maps", "refined"
    if chosen["activation"].stages:
        yield from page.made("activation", "amn", **backbone)
        yield from page.some_images("activation", "amn_maps")
        maps, refined = "amn_maps", "amn_refined"
        yield from page.made("refinement", "amn_refined", maps=maps)
    if limited == "amn_maps":
        return
    # IRN needs trained features: without published ones, those of the classifier.
    yield from page.on_weights("irn", otherwise=backbone or {"backbone": "classifier"})
    yield from page.made("boundaries", "irn", refined=refined, **page.start)
    yield from page.made("boundaries", "pseudo_masks", maps=maps, refined=refined)

    yield from page.on_weights("segmenter", otherwise={})
    yield from page.made("segmenter", "segmenter", **page.start)
    yield from page.made("segmenter", "predictions", images=images_of_val, truth=truth_of_val)
    yield from page.made("prediction_refinement", "predictions_refined", images=images_of_val, truth=truth_of_val)


def _limited(config: PipelineConfig) -> str | None:
    """The step that makes maps of some images only, if one does. Nothing is trained on what follows from these maps."""
    steps = ("maps",) if config.choices.activation == "none" else ("maps", "amn_maps")
    return next((step for step in steps if getattr(config, step).images != ALL), None)


def _check_selections(config: PipelineConfig, chosen: Mapping[str, Method], evaluated: int) -> None:
    """Refuse a selection of images for a step that is not made, or of more images than are evaluated."""
    for group, name in (("maps", "maps_network"), ("maps", "maps"), ("activation", "amn_maps")):
        images = getattr(config, name).images
        if images != ALL and name not in chosen[group].stages:
            raise RequestError(f"{name}.images={images}: these choices do not make {name} ({_chosen(config)})")
        if images.isdecimal() and int(images) > evaluated > 0:
            raise RequestError(
                f"{name}.images={images}: {evaluated} images are evaluated; set fewer, or evaluated, or all"
            )


def _check_ground_truth(config: PipelineConfig, chosen: Mapping[str, Method]) -> None:
    """Refuse AMN beside training on the ground truth."""
    if chosen["boundaries"].instead.get("pseudo_masks") == "truth" and config.choices.activation != "none":
        raise RequestError(
            f"activation={config.choices.activation}: has no effect with boundaries={config.choices.boundaries}, which "
            "trains on the masks of the data set; leave one of them out"
        )


class _Page:
    """Helper for writing the method above."""

    def __init__(self, config: PipelineConfig, chosen: Mapping[str, Method]) -> None:
        self.config = config
        self.chosen = chosen
        self.made_so_far: set[str] = set()
        self.start: dict[str, str] = {}
        """The input with the initial weights of the next network."""

    def step(self, name: str, stage: Stage[Any], *, settings: Any = None, truth: str = "truth", **inputs: str) -> Step:
        """A step with this stage; inputs named like their step need not be given."""
        parts = {part: inputs.get(part, part) for part in stage.needs}
        settings = getattr(self.config, name) if settings is None else settings
        unused = stage.unused(settings)
        parts |= {part: inputs[part] for part in stage.optional if part in inputs and part not in unused}
        is_scored = stage.makes in ("maps", "masks") and stage is not TRUTH and truth in self.made_so_far
        self.made_so_far.add(name)
        return Step(
            name=name,
            stage=stage,
            settings=settings,
            inputs=parts,
            truth=truth if is_scored else None,
            threshold=getattr(settings, "threshold", None) if stage.makes == "maps" else None,
        )

    def some_images(self, group: str, name: str, **inputs: str) -> Iterator[Step]:
        """A step that sees only the images that its settings select, after these are selected."""
        images = getattr(self.config, name).images
        if images != ALL:
            selecting = self.step(f"{name}_images", SELECTED_IMAGES, settings=SelectedImagesConfig(images=images))
            yield replace(selecting, key=f"{name}.")
            inputs["images"] = selecting.name
        yield from self.made(group, name, **inputs)

    def on_weights(self, name: str, *, otherwise: Mapping[str, str]) -> Iterator[Step]:
        """The initial weights of a step with a backbone of its own; `start` is then what it starts from."""
        own: Any = getattr(getattr(self.config, name), "backbone", None)
        self.start = dict(otherwise)
        if is_null(own):
            return
        self.start = {"backbone": "classifier"}
        if own.weights is not None:
            weights = self.step(f"{name}_backbone", INITIAL_WEIGHTS, settings=own)
            yield replace(weights, key=f"{name}.")
            self.start = {"backbone": weights.name}

    def made(self, group: str, name: str, **inputs: str) -> Iterator[Step]:
        """The step, if the chosen method of the group makes it."""
        method = self.chosen[group]
        if name in method.stages:
            yield self.step(name, method.stages[name], **inputs)
        elif name in method.instead:
            source = inputs.get(method.instead[name], method.instead[name])
            self.made_so_far.add(name)
            is_scored = "truth" in self.made_so_far and source != "truth"
            yield Step(name=name, stage=None, same_as=source, truth="truth" if is_scored else None)


def _check_same_network(step: str, backbone: BackboneConfig, own: Any) -> None:
    if not is_null(own) and own.weights is None and own.name != backbone.name:
        raise RequestError(
            f"{step}.backbone.weights=null: {NETWORKS[step]} then starts from the classifier's {backbone.name}, but "
            f"{step}.backbone.name={own.name}; make the names equal or name its weights"
        )


def _chosen(config: PipelineConfig) -> str:
    return ", ".join(f"{group}={getattr(config.choices, group)}" for group in methods.GROUPS)


def method_of(step: str, stage: str) -> Method | None:
    """The loaded method whose stage of this name makes a step, or None."""
    candidates = (method for method in methods.all_methods() if step in method.stages)
    return next((method for method in candidates if method.stages[step].name == stage), None)
