"""Segments new images, or folders of images, with a trained network: writes masks and overlays.

    <out>/masks/<name>.png       labels, in VOC's colours
    <out>/overlays/<name>.jpg    the mask drawn over the image
    <out>/predict.json           the identity of the predictions, and each image's mask and content digest

Actors with the network compute logits while tasks refine them and write masks. Existing masks are not made again, so
the same command resumes after a crash.
"""

from __future__ import annotations

import json
import posixpath
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from amn_ray.core import plugins
from amn_ray.core.artifacts import MODEL, Artifact, Store, fingerprint
from amn_ray.core.console import log, time_left
from amn_ray.core.errors import RequestError, RunError, unwrap_worker_errors
from amn_ray.data.digests import digests
from amn_ray.data.images import BadFile, encode_overlay, encode_palette_mask
from amn_ray.data.maps import grid_maps, to_row
from amn_ray.data.photograph_checks import brightness, dark_warning
from amn_ray.inference.export import refuse_full
from amn_ray.inference.photographs import Found, assign, find, some
from amn_ray.inference.segmenter import REFINEMENT, Segmenter, Settings, mask_of
from amn_ray.platform import plugin_env
from amn_ray.platform.cluster import LIGHT_TASK_CPUS, Cluster, ClusterConfig
from amn_ray.platform.mapping import actors_of_tries, pool, tasks_of_tries
from amn_ray.platform.memory import report_killed_workers
from amn_ray.recipe import records as runs

RECORD = "predict.json"
MASKS, OVERLAYS = "masks", "overlays"
BATCH = 16
"""Images per block and per call."""
PROGRESS_S = 30
"""Seconds between two progress messages."""
SHOWN = 20
"""The maximum number of broken files in the final message."""


@dataclass(kw_only=True)
class PredictConfig:
    """Options of `jobs/predict.py`."""

    images: str | None = None
    """An image, or a folder of images with its sub-folders: a path or a URL."""
    out: str | None = None
    """Folder to write to: a path or a URL."""
    store: str = "outputs"
    run: str | None = None
    """Name of a run (its folder in `<store>/runs/`); null = the last one that trained a segmentation network."""
    crf: bool = True
    """Refine by dense CRF if the run did; false: never."""
    overwrite: bool = False
    """Remove the masks and overlays in `out`, and make all of them again."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


def predict(config: PredictConfig) -> None:
    """Segment an image, or all images in a folder.

    Raises:
        RequestError: there is no such run, folder or image.
        RunError: some images are broken; all others are done.
    """
    for name, what in (("images", "an image or a folder of images"), ("out", "a folder to write to")):
        if getattr(config, name) is None:
            raise RequestError(f"{name} is not set: expected {what}; set {name}=/path")
    run = runs.find(Store.reading(config.store), config.run, "segmenter")
    plugins.load(run.settings.get("plugins", ()), where=[str(Path.cwd())])
    weights = run.step("segmenter", needed_by="predict")
    settings = Settings.of(run)
    if config.crf and settings.crf is None:
        log("predict", f"without CRF, as in the run (prediction_refinement={run.settings[REFINEMENT]})")
    found = find(str(config.images))
    out = Store.reading(str(config.out), "out")
    if found.is_folder and f"{out.path}/".startswith(f"{found.source.path}/"):
        raise RequestError(
            f"out={out.url}: lies in images={found.source.url}, so masks would be taken for images; choose another "
            "folder"
        )
    out = Store.open(str(config.out), "out")
    identity = fingerprint(weights.fingerprint, settings.predictions, settings.crf if config.crf else None)
    masks = _claim(out, identity, config, _content(found))
    if found.others:
        log("predict", f"skipped {len(found.others)} files that are not images: {some(found.others)}")
    done = set() if config.overwrite else _present(out)
    remaining = {name: mask for name, mask in masks.items() if mask not in done}
    if len(remaining) < len(masks):
        log("predict", f"{len(masks) - len(remaining)} masks already exist")
    failures = dict(found.broken)
    if remaining:
        failures |= _run(Cluster(config.cluster), remaining, found.source, out, settings, weights, crf=config.crf)
    total = len(found.images) + len(found.broken)
    log("predict", f"{total - len(failures)} masks and overlays in {out.path}")
    if failures:
        shown = "; ".join(f"{name}: {reason}" for name, reason in sorted(failures.items())[:SHOWN])
        more = f"; and {len(failures) - SHOWN} more" if len(failures) > SHOWN else ""
        raise RunError(
            f"{len(failures)} of {total} files could not be read as images, all others are done: {shown}{more}"
        )


def _content(found: Found) -> dict[str, str]:
    """An identifier of each image's content: its digest; in an object store, its size and time."""
    paths = {name: found.source.at(name) for name in found.images}
    if found.source.is_local:
        digest_of = digests(paths.values())
        return {name: digest_of.get(path, "") for name, path in paths.items()}
    infos = found.source.fs.get_file_info(list(paths.values()))
    return {name: f"{info.size} {info.mtime_ns}" for name, info in zip(paths, infos, strict=True)}


def _claim(out: Store, identity: str, config: PredictConfig, images: Mapping[str, str]) -> dict[str, str]:
    """Record in the folder whose predictions it holds, and of which images.

    Removes older predictions if `overwrite` is set, and those of images that have changed.

    Args:
        out: where masks are written.
        identity: the fingerprint of the network and its settings.
        config: the options.
        images: the identifier of each image's content, by name.

    Returns:
        The mask of each image, see photographs.assign.

    Raises:
        RequestError: the folder holds another network's predictions, or other files.
    """
    assigned: dict[str, str] = {}
    content: dict[str, str] = {}
    if not out.exists(RECORD):  # existing files are not ours to overwrite
        refuse_full(out, overwrite=False, remedy="choose another folder")
    elif config.overwrite:
        out.remove(MASKS)
        out.remove(OVERLAYS)
    else:
        record = json.loads(out.read(RECORD))
        if record["predictions"] != identity:
            raise RequestError(
                f"out={out.url}: holds the predictions of another run or another crf=; choose another folder, or set "
                "overwrite=true"
            )
        assigned, content = record.get("masks", {}), record.get("content", {})
        changed = [name for name in assigned.keys() & images.keys() if content.get(name, images[name]) != images[name]]
        for name in changed:
            out.remove(f"{MASKS}/{assigned[name]}.png")
            out.remove(f"{OVERLAYS}/{assigned[name]}.jpg")
        if changed:
            log("predict", f"{len(changed)} images changed and will be segmented again: {some(sorted(changed))}")
    masks = assign(list(images), assigned)
    record = {"predictions": identity, "masks": assigned | masks, "content": content | dict(images)}
    out.write(RECORD, json.dumps(record, ensure_ascii=False).encode())
    return masks


def _present(out: Store) -> set[str]:
    """The existing masks, without extension."""
    found = out.fs.get_file_info(pa.fs.FileSelector(out.at(MASKS), recursive=True, allow_not_found=True))
    return {
        posixpath.relpath(item.path, out.at(MASKS)).removesuffix(".png") for item in found if item.path.endswith(".png")
    }


def _run(
    cluster: Cluster,
    masks: Mapping[str, str],
    source: Store,
    out: Store,
    settings: Settings,
    weights: Artifact,
    *,
    crf: bool,
) -> dict[str, str]:
    """Write the masks of images; returns the reasons for broken files, by name."""
    files = list(masks)
    cluster.check_shared(out, "out")
    cluster.check_seen(source, files[0], "images")
    cluster.check_seen(weights, MODEL, "store")
    cluster.check_everywhere(plugin_env.not_importable, plugins.modules(), working_only=True)
    resources = cluster.map_share()
    table = pa.table({"file": files, "mask": list(masks.values())})
    blocks = [table.slice(start, BATCH).combine_chunks() for start in range(0, len(files), BATCH)]
    finish = partial(_finish, source=source, out=out, settings=settings, crf=crf)
    failures: dict[str, str] = {}
    brightnesses: list[float] = []
    started = logged = time.monotonic()
    done = 0
    with (
        report_killed_workers("predict", f"{resources.setting}, cluster.cpu_actors or the size of the images"),
        unwrap_worker_errors(),
    ):
        results = (
            ray.data.from_arrow(blocks)
            .map_batches(
                MakeLogits,
                fn_constructor_kwargs={
                    "source": source, "settings": settings, "weights": weights, "crf": crf,
                    "threads": resources.threads,
                },
                batch_size=BATCH,
                batch_format="pyarrow",
                compute=pool(cluster, resources, len(blocks)),
                num_cpus=resources.reserved_cpus,
                num_gpus=resources.gpus or None,
                ray_remote_args_fn=actors_of_tries,
            )
            .map_batches(
                finish,
                batch_size=BATCH,
                batch_format="pyarrow",
                num_cpus=LIGHT_TASK_CPUS,  # it uses a core, but actors may hold all of them, and must not wait for it
                concurrency=min(cluster.cpu_share().count, len(blocks)),
                ray_remote_args_fn=tasks_of_tries,
            )
        )  # fmt: skip
        for batch in results.iter_batches(batch_size=None, batch_format="pyarrow"):
            done += batch.num_rows
            failures |= {row["file"]: row["error"] for row in batch.to_pylist() if row["error"]}
            brightnesses += batch.column("brightness").drop_null().to_pylist()
            if time.monotonic() - logged > PROGRESS_S:
                logged = time.monotonic()
                speed = done / (logged - started)
                remaining = time_left((len(files) - done) / speed)
                log("predict", f"{done}/{len(files)} images, {speed:.1f} images/s, {remaining} left")
    if warning := dark_warning(brightnesses, settings.pixels):
        log("predict", f"warning: {warning}")
    return failures


class MakeLogits:
    """Loads the network once, and maps batches of file names to logits, or to the reason for having none."""

    def __init__(self, source: Store, settings: Settings, weights: Artifact, crf: bool, threads: int) -> None:
        import torch  # on the actor: the driver only names this class and need not load it

        torch.set_num_threads(threads)
        self.source = source
        self.crf = crf and settings.crf is not None
        self.segmenter = Segmenter(settings, weights.read(MODEL))
        self.labels = list(range(len(settings.classes) + 1))

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`file`, `mask` -> rows of LOGITS, and `mask`."""
        rows = [self._logits(name) for name in batch.column("file").to_pylist()]
        return pa.Table.from_pylist(rows, schema=LOGITS).append_column("mask", batch.column("mask"))

    def _logits(self, name: str) -> dict[str, Any]:
        try:
            image = self.segmenter.settings.read(_read(self.source, name))
        except (BadFile, OSError) as error:
            return {"file": name, "error": " ".join(str(error).split()) or type(error).__name__}
        bright = brightness(image, self.segmenter.settings.pixels)
        logits = to_row("", self.labels, self.segmenter.logits(image.rgb, for_crf=self.crf))
        columns = {"logits": logits["maps"], "h": logits["h"], "w": logits["w"]}
        return {"file": name, "error": "", "brightness": bright, **columns}


LOGITS = pa.schema(
    {
        "file": pa.string(),
        "error": pa.string(),
        "brightness": pa.float64(),
        "logits": pa.binary(),
        "h": pa.int32(),
        "w": pa.int32(),
    }
)
"""Logits are float16 [N+1, h, w]; null if `error` is not empty. For `brightness` see data.photograph_checks."""


def _finish(batch: pa.Table, source: Store, out: Store, settings: Settings, *, crf: bool) -> pa.Table:
    """Rows of LOGITS, and `mask` -> `file`, `error`, `brightness`; writes masks and overlays."""
    for row in batch.to_pylist():
        if not row["error"]:
            image_HWC = settings.read(_read(source, row["file"])).rgb
            mask_HW = mask_of(image_HWC, _logits_of(row), settings.crf if crf else None, settings.longest)
            out.write(f"{OVERLAYS}/{row['mask']}.jpg", encode_overlay(image_HWC, mask_HW))
            # The mask is written last: if it exists, both do.
            out.write(f"{MASKS}/{row['mask']}.png", encode_palette_mask(mask_HW))
    return batch.select(["file", "error", "brightness"])


def _logits_of(row: Mapping[str, Any]) -> np.ndarray:
    count = len(row["logits"]) // (2 * row["h"] * row["w"])
    return grid_maps({"keys": range(count), "maps": row["logits"], "h": row["h"], "w": row["w"], "refined": None})


def _read(source: Store, name: str) -> bytes:
    with source.fs.open_input_stream(posixpath.join(source.path, name)) as stream:
        return stream.read()
