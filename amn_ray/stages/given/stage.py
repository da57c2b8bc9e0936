"""Given maps, refined seeds and pseudo-masks: files of other programs, and the images they belong to → tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from amn_ray.core.artifacts import Artifact
from amn_ray.core.errors import RequestError
from amn_ray.data.label_checks import review_masks
from amn_ray.data.masks import find_masks, mask_rule
from amn_ray.data.masks.files import ENDINGS as MASK_ENDINGS
from amn_ray.data.pixels import Pixels
from amn_ray.data.source import IGNORE
from amn_ray.platform.mapping import MAPPING_METRICS, map_table
from amn_ray.stages.given.config import GivenMapsConfig, GivenMasks, GivenPseudoMasksConfig, GivenSeedsConfig
from amn_ray.stages.given.files import check_missing, content_digest, folder_of, missing_folder, named_after
from amn_ray.stages.given.formats import ENDINGS, MissingMap, files_of, load, recognised
from amn_ray.stages.given.infer import MAPS_COLUMNS, MASK_COLUMNS, ReadMaps, ReadMasks, read_maps
from amn_ray.stages.methods import Method
from amn_ray.stages.stage import Context, Result, Stage

SAMPLE = 32
"""So many files, spread evenly over the images, show the form of all of them; each is held to it when it is read."""


def maps_identity(config: GivenMapsConfig) -> dict[str, Any]:
    """What determines the maps: the form, and the content of the files.

    Raises:
        RequestError: there is no such folder.
    """
    folder = folder_of(config.files, "maps.files")
    endings = {ENDINGS[config.format]} if config.format else set(ENDINGS.values())
    return {"format": config.format, "files": content_digest(folder, endings)}


def read_given_maps(
    config: GivenMapsConfig, inputs: Mapping[str, Artifact], output: Artifact, context: Context
) -> Result:
    """Read the maps of all images that have some.

    Raises:
        RequestError: the files are of no form or of several, too many images have none, or one cannot be used.
    """
    images, cluster = inputs["images"], context.cluster
    folder = folder_of(config.files, "maps.files")
    cluster.check_everywhere(missing_folder, str(folder), working_only=True)
    num_classes = len(images.manifest()["classes"])
    form, files, lacking = cluster.run_remote(find_maps, config, folder, images, num_classes)
    labels = images.table().column("labels")
    missing = sorted({image_id for image_id in labels if labels[image_id] and image_id not in files}.union(lacking))
    warnings = check_missing(missing, len(labels), config.max_missing, "maps", "maps")
    mapper = {"form": form, "files": files, "num_classes": num_classes}
    ids = labels.keys() - set(missing)
    result = map_table(cluster, images, MAPS_COLUMNS, ReadMaps, mapper, output, on="cpus", ids=ids)
    dropped = cluster.run_remote(_dropped, output)
    if dropped:
        warnings.append(f"{dropped} maps are of classes that their images do not have, and are left out")
    return {**result, "form": form, "missing": len(missing), "dropped": dropped, "warnings": warnings}


def find_maps(
    config: GivenMapsConfig, folder: Path, images: Artifact, num_classes: int
) -> tuple[str, dict[str, list[Path]], list[str]]:
    """The form of the files, those of each image, and the images whose files lack one of their classes.

    These are looked for only if some may be missing; else the first one is refused when it is read.

    Raises:
        RequestError: the files are of no form or of several, or none belongs to an image.
    """
    rows = images.table().read(["labels", "height", "width"]).to_pylist()
    ids = [row["image_id"] for row in rows]
    endings = [ENDINGS[config.format]] if config.format else sorted(set(ENDINGS.values()))
    found = {ending: files for ending in endings if (files := files_of(folder, ending, ids))}
    if not found:
        names = sorted(path.name for path in folder.iterdir())[:1]
        raise RequestError(
            f"maps.files={folder}: no file {' or '.join(f'*{ending}' for ending in endings)} belongs to an image, such "
            f"as {ids[0]}{f' (there is {names[0]})' if names else ''}; name files after images (docs/data.md)"
        )
    if len(found) > 1:
        raise RequestError(
            f"maps.files={folder}: files of several forms belong to images ({', '.join(found)}); set maps.format"
        )
    ((ending, files),) = found.items()
    labelled = [row for row in rows if row["labels"] and row["image_id"] in files]
    form = config.format or _form(ending, files, labelled)
    lacking: list[str] = []
    if config.max_missing > 0:
        for row in labelled:
            with _noted(row["image_id"], lacking):
                read_maps(form, files[row["image_id"]], row["labels"], (row["height"], row["width"]), num_classes)
    return form, files, lacking


def _form(ending: str, files: Mapping[str, Sequence[Path]], labelled: Sequence[Mapping[str, Any]]) -> str:
    forms = [form for form, of in ENDINGS.items() if of == ending]
    if len(forms) == 1 or not labelled:
        return forms[0]
    samples = {}
    for row in labelled[:: max(1, len(labelled) // SAMPLE)]:
        path = files[row["image_id"]][0]
        try:
            samples[path] = (load(forms[0], [path]), row["labels"])
        except ValueError as error:
            raise RequestError(f"{path}: {error}") from error
    return recognised(samples)


@contextmanager
def _noted(image_id: str, lacking: list[str]) -> Iterator[None]:
    """Note an image whose file lacks a class; whatever else is wrong is refused when the file is read."""
    try:
        yield
    except RequestError as error:
        if isinstance(error.__cause__, MissingMap):
            lacking.append(image_id)


def _dropped(output: Artifact) -> int:
    return pc.sum(output.fresh_table().read(["dropped"]).column("dropped")).as_py() or 0


def check_maps_reuse(config: GivenMapsConfig, manifest: Mapping[str, Any]) -> None:
    """Reject a table that was made with more missing maps allowed.

    Raises:
        RequestError: it lacks more images than `max_missing` allows now.
    """
    _check_reuse(config.max_missing, manifest, "maps", "maps")


def masks_identity(config: GivenMasks) -> dict[str, Any]:
    """What determines the masks: how they are read, and the content of the files.

    Raises:
        RequestError: there is no such folder.
    """
    folder = folder_of(config.files, f"{config.step}.files")
    reading = {"mask_pattern": config.mask_pattern, "mask_values": config.mask_values, "palette": config.palette}
    return reading | {"files": content_digest(folder, MASK_ENDINGS)}


def read_given_masks(config: GivenMasks, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
    """Read the masks of all images that have one.

    Raises:
        RequestError: masks can be read in several ways or in none, too many images have none, or one cannot be used.
    """
    images, cluster, step = inputs["images"], context.cluster, config.step
    folder = folder_of(config.files, f"{step}.files")
    cluster.check_everywhere(missing_folder, str(folder), working_only=True)
    manifest = images.manifest()
    classes = manifest["classes"]
    ids = images.table().ids()
    with _with_own_settings(step):
        files, warnings = find_masks(folder, ids, config.mask_pattern)
        rule, doubts = mask_rule(files.values(), config.reading, dict(enumerate(classes, start=1)))
    missing = [image_id for image_id in ids if image_id not in files]
    warnings = [*warnings, *doubts, *check_missing(missing, len(ids), config.max_missing, step, "masks")]
    upright = Pixels.of(manifest).upright
    mapper = {"rule": rule, "files": files, "upright": upright, "num_classes": len(classes), "step": step}
    result = map_table(cluster, images, MASK_COLUMNS, ReadMasks, mapper, output, on="cpus", ids=files.keys())
    with _with_own_settings(step):
        warnings += cluster.run_remote(_review, output, images, classes)
    return {**result, "missing": len(missing), "warnings": [named_after(sentence, step) for sentence in warnings]}


def _review(output: Artifact, images: Artifact, classes: Sequence[str]) -> list[str]:
    """Look for classes that images do not have. (Seeds may well lack one that they have, as if it were undefined.)"""
    labels = images.table().column("labels")
    present = {image_id: [*values, IGNORE] for image_id, values in output.fresh_table().column("present").items()}
    doubts, refusal = review_masks([labels[one] for one in present], list(present.values()), classes, list(present))
    if refusal is not None:
        output.remove()
        raise RequestError(refusal)
    return doubts


def check_masks_reuse(config: GivenMasks, manifest: Mapping[str, Any]) -> None:
    """See check_maps_reuse.

    Raises:
        RequestError: it lacks more images than `max_missing` allows now.
    """
    _check_reuse(config.max_missing, manifest, config.step, "masks")


def _check_reuse(allowed: float, manifest: Mapping[str, Any], step: str, what: str) -> None:
    total = manifest["rows"] + manifest["missing"]
    if manifest["missing"] > allowed * total:
        raise RequestError(
            f"{step}.files: {manifest['missing']} of {total} images have no {what}; add them, or set "
            f"{step}.max_missing to leave out a share of images"
        )


@contextmanager
def _with_own_settings(step: str) -> Iterator[None]:
    """Name the settings of this step in errors, instead of those of the data set, whose masks are read likewise."""
    try:
        yield
    except RequestError as error:
        raise RequestError(named_after(str(error), step)) from error


GIVEN_MAPS = Stage(
    name="given_maps",
    version=1,
    config=GivenMapsConfig,
    makes="maps",
    needs=("images",),
    metrics=MAPPING_METRICS,
    run=read_given_maps,
    identity=maps_identity,
    check_reuse=check_maps_reuse,
)
MASKS = partial(
    Stage,
    version=1,
    makes="masks",
    needs=("images",),
    metrics=MAPPING_METRICS,
    run=read_given_masks,
    identity=masks_identity,
    check_reuse=check_masks_reuse,
)
GIVEN_SEEDS = MASKS(name="given_seeds", config=GivenSeedsConfig)
GIVEN_PSEUDO_MASKS = MASKS(name="given_pseudo_masks", config=GivenPseudoMasksConfig)
MAPS_METHOD = Method(
    group="maps", name="given", stages={"maps": GIVEN_MAPS}, settings=Path(__file__).with_name("given.yaml")
)
PSEUDO_MASKS_METHOD = Method(group="boundaries", name="given", stages={"pseudo_masks": GIVEN_PSEUDO_MASKS})
