"""One page about runs, next to the paper's tables and figures: self-contained HTML, and Markdown.

Runs of one data set that differ in nothing but the seed are one *variant*; its numbers are means over its seeds. Runs
of different data sets never share a table (see variants.py).
"""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from amn_ray.core.artifacts import Store, fingerprint
from amn_ray.core.console import log
from amn_ray.core.errors import RequestError
from amn_ray.core.folders import Folder
from amn_ray.evaluation.bootstrap import counts_by_label, mean_std, paired_difference
from amn_ray.evaluation.selection import report_ids
from amn_ray.evaluation.thresholds import ImageCounts
from amn_ray.platform.tracking import RunStates, default_uri
from amn_ray.recipe import records as runs
from amn_ray.recipe.method_names import LAYERS, is_fully_supervised
from amn_ray.recipe.records import Run
from amn_ray.reporting import figures, paper, results
from amn_ray.reporting.config import ReportConfig
from amn_ray.reporting.console import written
from amn_ray.reporting.variants import (
    DataSet,
    Seeds,
    Variant,
    by_data,
    in_order,
    only,
    step_named,
    text_of,
    variants_of,
)  # fmt: skip
from amn_ray.stages.classifier.stage import LABEL_SCORE
from amn_ray.stages.score.stage import scored

NOT_RUN = "not run"
NOTHING = "–"
TRIALS = "trials.parquet"
EXAMPLES = f"{results.PANELS['train']}.png"
LC = {"amn.lc"}
ACTIVATION = {"choices.activation", "pseudo_masks.power"}
"""Settings that differ where maps are used without AMN."""
REPORTING = "report_miou"
DIFFERENCE = ("first − second", "points of mIoU", "95 % interval", "excludes 0", "images", "seeds", "by seed")
DIFFERENCE_NOTE = (
    "Bootstrap over the report split, the same resample for both sides and all seeds; maps at the τ chosen on the "
    "selection split. The interval holds for these trained networks: variation between seeds is in the last column."
)
COMPARED = 8
"""Number of settings of a study that the best one is compared with."""


@dataclass(frozen=True)
class Table:
    """A table of text cells; the first column names the rows."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A PNG."""

    title: str
    path: Path
    note: str = ""

    @property
    def data(self) -> str:
        """A data URL for HTML."""
        return "data:image/png;base64," + base64.b64encode(self.path.read_bytes()).decode()


@dataclass(frozen=True)
class Section:
    """The results of one data set or of one study."""

    title: str
    text: Sequence[str] = ()
    parts: Sequence[Table | Figure] = ()


def report(config: ReportConfig) -> Path:
    """Write `report.html`, `report.md` and the figures; returns the folder.

    Raises:
        RequestError: a named run or study is missing, there is none, or `out` cannot be written.
    """
    store = Store.reading(config.store)
    chosen, studies = _chosen(store, config.runs)
    place = Store.open(config.out, "out")
    if not place.is_local:
        raise RequestError(f"out={place.url}: expected a local directory")
    out = Path(place.path)
    pictures = out / "figures"
    pictures.mkdir(exist_ok=True)
    sections = [_data_section(store, data, pictures) for data in by_data(chosen)]
    sections += [_study_section(store, folder, pictures) for folder in studies]
    for name in ("report.html", "report.md"):
        (out / name).write_text(page(name, sections, out), encoding="utf-8")
        log("report", str(out / name))
    return out


def page(name: str, sections: Sequence[Section], out: Path) -> str:
    """The text of `report.html` or `report.md`, in a folder `out` that holds its figures."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("amn_ray.reporting"),
        autoescape=name.endswith("html"),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = plain_markdown
    template = environment.get_template(f"{name}.j2")
    return template.render(sections=sections, out=out, is_table=lambda part: isinstance(part, Table))


_MARKS = re.compile(r"[\\`*<|$~#&]|(?<![^\W_])_|_(?![^\W_])|(?<=\])\(")
"""Characters within a line to which Markdown (also GitHub's) may give a meaning."""


def plain_markdown(text: str) -> str:
    """A text that Markdown shows literally: on one line, escaped."""
    return _MARKS.sub(lambda mark: "\\" + mark[0], " ".join(text.split()))


def _chosen(store: Store, names: Sequence[str] | None) -> tuple[list[Run], list[Folder]]:
    """The chosen runs, and the folders of the chosen studies."""
    home = store.folder("studies")
    found = [home.folder(entry.base_name) for entry in home.entries()]
    finished = [folder for folder in found if folder.exists(TRIALS)]
    if names is None:
        every = runs.every(store)
        return every, _readable(finished, {run.folder.name for run in every})
    studies = [folder for folder in finished if folder.name in names]
    run_names = [name for name in names if name not in {folder.name for folder in studies}]
    for name in run_names:
        if not runs.folder(store).exists(name):
            raise RequestError(
                f"runs={name}: neither a run in {runs.folder(store).url} nor a study in {home.url}; name folders of "
                "these, or none for all runs"
            )
    for folder in studies:
        run_names += _runs_of(folder)
    if not run_names and not studies:
        raise RequestError("runs=[]: names no run; leave it out for all runs")
    return runs.named(store, list(dict.fromkeys(run_names))), studies


def _runs_of(study: Folder) -> list[str]:
    return _frame(study, "trials")["run"].dropna().tolist()


def _readable(studies: Sequence[Folder], known: Collection[str]) -> list[Folder]:
    """The studies whose runs all exist."""
    found = []
    for study in studies:
        missing = len(set(_runs_of(study)) - set(known))
        if missing:
            log(
                "report",
                f"study {study.name} was skipped: {missing} of its runs are of another version or were removed",
            )
        else:
            found.append(study)
    return found


# --- cells ------------------------------------------------------------------------------------------------------------


def percent(values: Sequence[float]) -> str:
    """`57.7 ± 0.8 (3)`: mean, standard deviation and number of seeds, in %."""
    if not values:
        return NOT_RUN
    text = written(*mean_std(list(values)), REPORTING)
    return f"{text} ({len(values)})" if len(values) > 1 else text


def _score(variant: Variant | None, step: str, metric: str = "miou") -> str:
    return NOT_RUN if variant is None else percent(variant.values(step, metric))


# --- the sections -----------------------------------------------------------------------------------------------------


def _data_section(store: Store, data: DataSet, pictures: Path) -> Section:
    variants = variants_of(data.runs)
    reference = variants[0]
    name = data.name
    stem = file_stem(name, fingerprint({step: made.fingerprint for step, made in data.tables.items()}))
    text = [
        f"{len(data.runs)} runs, {len(variants)} variants. Numbers are mIoU in %, mean ± standard deviation of a "
        "sample (number of seeds). Steps up to the pseudo-masks are scored on the training images that have ground "
        "truth, predictions on the validation images.",
        "The published columns are of PASCAL VOC 2012 (Table 5: COCO 2014)"
        + ("." if name == "voc12" else f"; ours are of {name}, so the two are not comparable."),
        _selection_text(reference),
    ]
    parts: list[Table | Figure] = [
        *_paper_tables(variants, name),
        *_figures(variants, pictures, stem),
        _class_table(reference),
        _difference_table(variants),
        _all_table(variants),
        *_different_table(variants),
        _cost_table(variants),
        _run_table(store, variants),
    ]
    return Section(f"Data set: {data.title}", text, parts)


def _selection_text(reference: Variant) -> str:
    for step, by_seed in reference.manifests.items():
        for seed in by_seed:
            ids = list(scored(reference.holding(step, score=True)[seed].scores[step]))
            reporting = len(report_ids(ids))
            return (
                f"Of the {len(ids)} scored images every fifth ({len(ids) - reporting}) is in the selection split, "
                f"the other {reporting} are in the report split; the validation images likewise. Studies rank, stop "
                "and propose trials by the selection split. Columns named “reporting” and the paired differences use "
                "the report split, with maps at the τ chosen on the selection split: nothing was chosen by these "
                "numbers. All other columns use all scored images, as published numbers do; “best τ” is chosen on "
                "these same images: an upper bound."
            )
    return "No run was scored: the data set has no ground truth."


def _paper_tables(every: Sequence[Variant], data: str) -> list[Table]:
    variants = [variant for variant in every if not is_fully_supervised(variant.settings)]
    method = LC | ACTIVATION
    cam = only(variants, method, lambda s: s["choices.activation"] == "none")
    by_layers = {layers: _with_lc(variants, layers) for layers, _ in paper.PLACEMENT}
    full, pcl = by_layers[LAYERS], by_layers[()]
    ablation = [
        (
            row, str(crf), _score(variant, step), _score(variant, step, REPORTING),
            str(irn), _score(variant, "pseudo_masks"), _score(variant, "pseudo_masks", REPORTING),
        )
        for (row, (crf, irn)), variant, step in zip(
            paper.ABLATION.items(), (cam, pcl, full), ("refined", "amn_refined", "amn_refined"), strict=True
        )
    ]  # fmt: skip
    placement = [
        (
            " + ".join(layers) or "none (PCL only)",
            "–" if published is None else str(published),
            *(_score(by_layers[layers], "amn_maps", metric) for metric in ("miou", "best_miou", REPORTING)),
        )
        for layers, published in paper.PLACEMENT
    ]
    ours = {"IRN": cam, "AMN": full}
    is_coco = data.startswith("coco")
    segmentation = [
        (
            name, str(val), str(test),
            *((_score(full, "predictions"), *_pair(full, "predictions_refined"), NOT_RUN)
              if name == "AMN (ImageNet)" and not is_coco else ("–",) * 4),
        )
        for name, (val, test) in paper.SEGMENTATION.items()
    ]  # fmt: skip
    coco = [
        (
            name,
            str(value),
            *(_pair(ours[name] if is_coco else None, "predictions_refined") if name in ours else ("–", "–")),
        )
        for name, value in paper.COCO.items()
    ]
    return [
        Table(
            "Table 1: what PCL and LC add",
            ("", "CRF, published", "CRF, ours", "reporting", "IRN, published", "IRN, ours", "reporting"),
            ablation,
        ),
        Table(
            "Table 2: label conditioning after these layers, maps without refinement",
            ("layers", "published", "ours at the default τ", "ours at the best τ", "reporting"),
            placement,
        ),
        _methods_table(variants),
        Table(
            "Table 4: segmentation",
            ("method", "val, published", "test, published", "val, ours", "val + CRF, ours", "reporting", "test, ours"),
            segmentation,
            "The test set has no public ground truth. Our DeepLab starts from the weights that the recipe names.",
        ),
        Table("Table 5: segmentation of COCO 2014 val", ("method", "published", "ours", "reporting"), coco),
        *_second_stage_table(every),
    ]


def _methods_table(variants: Sequence[Variant]) -> Table:
    """Table 3: all methods that have run, and those that were published."""
    ours = {name: (variant, *_final_steps(variant)) for name, variant in _by_method(variants).items()}
    for variant in variants:  # AMN's runs have made maps without AMN before
        ours.setdefault(variant.maps_method, (variant, "maps", "refined"))
    rows = []
    for name in [*paper.METHODS, *(name for name in ours if name not in paper.METHODS)]:
        published = ["–" if value is None else str(value) for value in paper.METHODS.get(name, (None,) * 3)]
        found = ours.get(name)
        cells = [NOT_RUN] * 5
        if found is not None:
            variant, maps, refined = found
            cells = [
                _score(variant, maps),
                _score(variant, maps, "best_miou"),
                _score(variant if variant.settings["choices.refinement"] == "crf" else None, refined),
                *_pair(variant if name == variant.method and _has_irn(variant) else None, "pseudo_masks"),
            ]
        rows.append((name, published[0], cells[1], cells[0], published[1], cells[2], published[2], *cells[3:]))
    return Table(
        "Table 3: the methods' seeds and pseudo-masks",
        ("method", "seed at the best τ, published", "ours", "ours at the default τ", "+ CRF, published", "ours",
         "pseudo-masks, published", "ours", "reporting"),
        rows,
        "A name in brackets is of another method than the published one. CONTA and MBMNet are rows of the paper only: "
        "the causal loop is not in CONTA's repository, and no code of MBMNet was found. AMN and LC: Table 1.",
    )  # fmt: skip


def _second_stage_table(variants: Sequence[Variant]) -> list[Table]:
    """What each segmentation network made of which pseudo-masks, if more than one has run."""
    rows = [
        (
            variant.method,
            variant.segmenter,
            _score(variant, _final_steps(variant)[1]),
            _score(variant, "pseudo_masks"),
            _score(variant, "predictions"),
            *_pair(variant, "predictions_refined"),
        )
        for variant in variants
        if variant.of("predictions")
    ]
    if len({row[:2] for row in rows}) < 2:
        return []
    return [
        Table(
            "The second stage: which part of a gain is the seeds', and which the segmentation network's",
            ("maps", "segmentation network", "seed", "pseudo-masks", "val", "val + CRF", "reporting"),
            rows,
            "“fully supervised”: trained on the ground truth, the ceiling of its network; it has no seeds.",
        )
    ]


def _has_irn(variant: Variant) -> bool:
    return variant.settings["choices.boundaries"] == "irn"


def _by_method(variants: Sequence[Variant]) -> dict[str, Variant]:
    """By the name of the method: of the variants that made its maps, the one that is closest to the reference."""
    return {variant.method: variant for variant in reversed(variants) if variant.has_maps(_final_steps(variant)[0])}


def _final_steps(variant: Variant) -> tuple[str, str]:
    """The steps of its last maps and of the seeds made from them."""
    return ("maps", "refined") if variant.settings["choices.activation"] == "none" else ("amn_maps", "amn_refined")


def _with_lc(variants: Iterable[Variant], layers: Sequence[str]) -> Variant | None:
    """The variant whose labels are multiplied into the features after these layers."""

    def fits(settings: Mapping[str, Any]) -> bool:
        return settings["choices.activation"] == "amn" and settings.get("amn.lc") == list(layers)

    return only(variants, LC | ACTIVATION, fits)


def _pair(variant: Variant | None, step: str) -> tuple[str, str]:
    return _score(variant, step), _score(variant, step, REPORTING)


def file_stem(name: str, identity: str) -> str:
    """A stem for file names: the portable characters of a name, and a fingerprint."""
    return re.sub(r"\W", "_", name)[:40] + f"_{identity}"


def _figures(variants: Sequence[Variant], pictures: Path, stem: str) -> list[Figure]:
    reference = variants[0]
    by_name: dict[str, tuple[Variant, str]] = {}
    for variant in variants:
        for name, step in ((variant.maps_method, "maps"), (variant.method, _final_steps(variant)[0])):
            if variant.has_maps(step):
                by_name.setdefault(name, (variant, step))
    sources = [(name, variant, step) for name, (variant, step) in by_name.items()]
    made = []
    if sources:
        taus = {name: results.best_taus(variant.of(step).values()) for name, variant, step in sources}
        curves = {name: _mean_curve(variant.of(step)) for name, variant, step in sources}
        seeds = ", ".join(f"{name} {len(variant.of(step))}" for name, variant, step in sources)
        made += [
            Figure(
                "Figure 1a: the best threshold of each image",
                figures.best_threshold_histogram(taus, pictures / f"{stem}_best_threshold.png"),
                f"Images of all seeds together ({seeds}).",
            ),
            Figure(
                "Figure 6: mIoU against the threshold",
                figures.threshold_curves(curves, pictures / f"{stem}_miou_by_threshold.png"),
                f"Means over seeds, ± one standard deviation ({seeds}). Published best mIoU on VOC: AMN 62.1, "
                "AMN + CRF 65.3.",
            ),
        ]
    furthest = max(reference.all_runs, key=lambda run: len(run.artifacts))
    source = furthest.folder.folder(results.FIGURES)
    if source.exists(EXAMPLES):
        copied = _copy(source, EXAMPLES, pictures / f"{stem}_examples.png")
        note = f"Run {furthest.folder.name}, seed {furthest.settings['seed']}."
        made.insert(1, Figure("Figure 5: examples", copied, note))
    return made


def _mean_curve(manifests: Mapping[Seeds, Mapping[str, Any]]) -> dict[str, Sequence[float]]:
    found = [manifest["curve"] for manifest in manifests.values()]
    mious = np.array([curve["miou"] for curve in found])
    spread = mious.std(0, ddof=1) if len(mious) > 1 else np.zeros(mious.shape[1])
    return {"tau": found[0]["tau"], "miou": mious.mean(0).tolist(), "std": spread.tolist()}


def _class_table(reference: Variant) -> Table:
    steps = list(reference.manifests)
    names = next(iter(reference.of(steps[0]).values()))["labels"] if steps else []
    rows = []
    for label, name in enumerate(names):
        cells = []
        for step in steps:
            values = [manifest["iou"][label] for manifest in reference.of(step).values()]
            cells.append(percent([value for value in values if value is not None]).replace(NOT_RUN, NOTHING))
        rows.append((name, *cells))
    return Table(
        "IoU by class, of the reference",
        ("class", *steps),
        rows,
        "Maps at their default τ; – where a class does not occur.",
    )


def _difference_table(variants: Sequence[Variant]) -> Table:
    """Paired differences between the reference and what it should improve."""
    reference = variants[0]
    maps = [step for step in reference.manifests if reference.has_maps(step)]
    pairs = [(f"{later} − {earlier}", (reference, later), (reference, earlier)) for earlier, later in pairwise(maps)]
    for variant in variants[1:]:
        if variant.different.keys() <= LC | ACTIVATION:
            pairs += [
                (f"reference − {variant.label} ({step})", (reference, step), (variant, step))
                for step in reference.manifests
                if _differ(reference, variant, step)
            ]
    for name, variant in _by_method(variants).items():
        if not variant.different.keys() <= LC | ACTIVATION:
            steps = zip(
                (*_final_steps(reference), "pseudo_masks"), (*_final_steps(variant), "pseudo_masks"), strict=True
            )
            pairs += [
                (f"{reference.method} − {name} ({step})", (reference, ours), (variant, step)) for ours, step in steps
            ]
    rows = [row for name, first, second in pairs for row in _difference_rows(name, first, second)]
    return Table("Paired differences", DIFFERENCE, rows, DIFFERENCE_NOTE)


def _differ(first: Variant, second: Variant, step: str) -> bool:
    """Whether both scored the step with different artifacts."""
    ours, others = first.holding(step, score=True), second.holding(step, score=True)
    return any(ours[seed].artifacts[step] != others[seed].artifacts[step] for seed in ours.keys() & others.keys())


def _difference_rows(name: str, first: tuple[Variant, str], second: tuple[Variant, str]) -> list[tuple[str, ...]]:
    """A row, if both steps were scored for a common seed on at least two common images of the report split."""
    seeds = sorted(first[0].of(first[1]).keys() & second[0].of(second[1]).keys())
    images = [_images_of(*side, seeds) for side in (first, second)]
    ids = sorted(set.intersection(*(set(report_ids(by_id)) for side in images for by_id in side))) if seeds else []
    if len(ids) < 2:
        return []
    found = paired_difference(_counts_of(*first, seeds, ids), _counts_of(*second, seeds, ids))
    return [
        (
            name,
            f"{100 * found.value:+.1f}",
            f"[{100 * found.low:+.1f}, {100 * found.high:+.1f}]",
            "yes" if found.beyond_noise else "no",
            str(found.images),
            ", ".join(map(str, seeds)),
            ", ".join(f"{100 * value:+.1f}" for value in found.by_seed),
        )
    ]


def _images_of(variant: Variant, step: str, seeds: Sequence[Seeds]) -> list[dict[str, ImageCounts]]:
    """The counts of all scored images, for each seed."""
    runs_of_step = variant.holding(step, score=True)
    return [scored(runs_of_step[seed].scores[step]) for seed in seeds]


def _counts_of(variant: Variant, step: str, seeds: Sequence[Seeds], ids: Sequence[str]) -> np.ndarray:
    """Counts int64 (S, n, 3, C) of these images; maps at the τ chosen on the selection split."""
    by_seed = []
    for seed, images in zip(seeds, _images_of(variant, step, seeds), strict=True):
        manifest = variant.of(step)[seed]
        index = None
        if "curve" in manifest:
            tau = manifest["metrics"]["selection_tau"]
            index = int(np.abs(np.array(manifest["curve"]["tau"]) - tau).argmin())
        num_classes = len(manifest["iou"]) - 1
        by_seed.append([counts_by_label(images[image_id], num_classes, index) for image_id in ids])
    return np.array(by_seed)


def _all_table(variants: Sequence[Variant]) -> Table:
    columns: list[tuple[str, str, str]] = []
    for step in in_order(variant.manifests for variant in variants):
        columns.append((step, step, "miou"))
        if any(variant.has_maps(step) for variant in variants):
            columns += [(f"{step} best τ", step, "best_miou"), (f"{step} τ width", step, "tau_width")]
        columns.append((f"{step} reporting", step, REPORTING))
    rows = [
        (variant.label, _label_score(variant), *(_score(variant, step, metric) for _, step, metric in columns))
        for variant in variants
    ]
    return Table(
        "All variants",
        ("variant", "classifier mAP", *(name for name, _, _ in columns)),
        rows,
        "Maps at their default τ, and at the best; τ width: of the range within 2 points, × 100. mAP: mean average "
        "precision of the labels of val.",
    )


def _label_score(variant: Variant) -> str:
    """Mean average precision of the classifier's labels."""
    runs = variant.holding("classifier", score=True).values()
    metrics = [run.scores["classifier"].manifest()["metrics"] for run in runs]
    (name,) = LABEL_SCORE.metrics
    return percent([found[name] for found in metrics if name in found])


def _different_table(variants: Sequence[Variant]) -> list[Table]:
    keys = sorted({key for variant in variants for key in variant.different})
    if not keys:
        return []
    rows = [
        (variant.label, *(text_of(variant.settings[key]) if key in variant.settings else NOTHING for key in keys))
        for variant in variants
    ]
    note = f"{NOTHING} where the variant has no step with this setting."
    return [Table("Settings that differ", ("variant", *keys), rows, note)]


def _cost_table(variants: Sequence[Variant]) -> Table:
    steps = in_order(run.artifacts for variant in variants for run in variant.all_runs)
    rows = []
    for variant in variants:
        cells, total, gpu_hours = [], 0.0, 0.0
        for step in steps:
            holding = variant.holding(step, score=False).values()
            made = [run.artifacts[step].manifest() for run in holding if not _is_another(run, step)]
            seconds = float(np.mean([manifest["seconds"] for manifest in made])) if made else 0.0
            gpus = float(np.mean([manifest.get("gpus", 0) for manifest in made])) if made else 0.0
            cells.append(f"{seconds:.0f}" if made else NOTHING)
            total += seconds
            gpu_hours += seconds * gpus / 3600
        rows.append((variant.label, *cells, f"{total:.0f}", f"{gpu_hours:.2f}"))
    return Table(
        "Cost in seconds, mean over seeds",
        ("variant", *steps, "sum", "GPU-hours"),
        rows,
        "Each step once, on the machine that ran it; shared steps count for each variant that uses them.",
    )


def _is_another(run: Run, step: str) -> bool:
    """Whether a step only repeats an earlier one (without IRN the pseudo-masks are the refined seeds)."""
    earlier = takewhile(lambda item: item[0] != step, run.artifacts.items())
    return any(made == run.artifacts[step] for _, made in earlier)


def _frame(folder: Folder, name: str) -> pd.DataFrame:
    """A table of a study, from Parquet: CSV cannot tell a setting named 1 or NA from a value."""
    return pd.read_parquet(io.BytesIO(folder.read(f"{name}.parquet")))


def _copy(folder: Folder, name: str, path: Path) -> Path:
    path.write_bytes(folder.read(name))
    return path


def _run_table(store: Store, variants: Sequence[Variant]) -> Table:
    rows = []
    states: dict[str, RunStates] = {}
    for variant in variants:
        for seed, same in sorted(variant.runs.items()):
            for run in same:
                uri = run.settings["tracking.uri"] or default_uri(store)
                state = states.setdefault(uri, RunStates(uri)).of(run.mlflow_run)
                rows.append((variant.label, str(seed), list(run.artifacts)[-1], run.folder.name, state))
    return Table("Runs", ("variant", "seed", "last step", "folder in runs/", "MLflow"), rows)


def _study_differences(store: Store, trials: pd.DataFrame, ordered: Sequence[str], name: str) -> list[tuple[str, ...]]:
    """The best setting minus each of the next ones, on the report split."""
    compared: list[tuple[Variant, str]] = []
    for setting in ordered[: COMPARED + 1]:
        members = trials[(trials["setting"] == setting) & (trials["state"] == "finished")]
        found = runs.named(store, members["run"].tolist())
        variant = Variant({}, setting, runs={Seeds.of(run): [run] for run in found})
        compared.append((variant, step_named(name, found[0])))
    return [
        row
        for other in compared[1:]
        for row in _difference_rows(f"{compared[0][0].label} − {other[0].label}", compared[0], other)
    ]


def _study_section(store: Store, folder: Folder, pictures: Path) -> Section:
    """The section of a study, from the tables of its sweep."""
    trials, settings = _frame(folder, "trials"), _frame(folder, "settings")
    counts = Counter(trials["state"])
    text = [", ".join(f"{number} {state}" for state, number in counts.items()) + f" ({len(trials)} trials)."]
    for _, trial in trials[trials["state"] == "failed"].iterrows():
        text.append(f"Failed: {trial['trial']}: {trial['error']}")
    metrics = [name for name in settings.columns if "/" in name and not name.endswith(" std")]
    rows = [
        (line["setting"], str(line["seeds"]), *(written(line[name], line[f"{name} std"], name) for name in metrics))
        for _, line in settings.iterrows()
    ]
    parts: list[Table | Figure] = [
        Table("Settings, the best first", ("setting", "seeds", *metrics), rows, f"Ranked by {metrics[0]}.")
    ]
    compared = _study_differences(store, trials, list(settings["setting"]), metrics[0].partition("/")[0])
    if compared:
        parts.append(Table("The best setting against the others", DIFFERENCE, compared, DIFFERENCE_NOTE))
    if folder.exists("study.png"):
        parts.append(Figure("All trials", _copy(folder, "study.png", pictures / f"{folder.name}.png")))
    return Section(f"Study: {folder.name}", text, parts)
