"""One page about runs, beside the paper's tables and figures: HTML that needs no other file, and Markdown.

Runs of one data set that differ in nothing but the seed are one *variant*; its numbers are means over its seeds. Runs
of different data sets never share a table.
"""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from amn_ray.core.artifacts import Store
from amn_ray.core.console import say
from amn_ray.core.errors import RequestError
from amn_ray.core.folders import Folder
from amn_ray.evaluation.bootstrap import counts_by_label, mean_std, paired_difference
from amn_ray.evaluation.selection import report_ids
from amn_ray.platform.tracking import RunStates, default_uri
from amn_ray.recipe import records as runs
from amn_ray.recipe.config import STEPS
from amn_ray.recipe.records import Run
from amn_ray.reporting import figures, paper, results
from amn_ray.reporting.config import ReportConfig
from amn_ray.reporting.console import written
from amn_ray.stages.score.stage import scored

NOT_RUN = "not run"
TRIALS = "trials.parquet"
EXAMPLES = "examples.png"
NO_RESULT = ("store", "until", "seed")
"""Settings that make no other variant (besides those of the cluster and of tracking)."""
LC = {"amn.lc"}
ACTIVATION = {"choices.activation", "pseudo_masks.power"}
"""What differs where the maps are used as they are, without AMN."""
REPORTING = "report_miou"
DIFFERENCE = ("first − second", "points of mIoU", "95 % interval", "excludes 0", "images", "seeds", "by seed")
DIFFERENCE_NOTE = (
    "Bootstrap over the images that report, the same resample for both sides and all seeds; maps at the τ that the "
    "others select. The interval holds for these trained networks: what varies with the seed is in the last column."
)
COMPARED = 8
"""Settings of a study that its best one is compared with."""


@dataclass(frozen=True)
class Table:
    """Cells are text; the first column names the rows."""

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
        """For HTML."""
        return "data:image/png;base64," + base64.b64encode(self.path.read_bytes()).decode()


@dataclass(frozen=True)
class Section:
    """All there is to say about one data set, or about one study."""

    title: str
    text: Sequence[str] = ()
    parts: Sequence[Table | Figure] = ()


@dataclass
class Variant:
    """Runs that differ in nothing but the seed."""

    settings: Mapping[str, Any]
    label: str = ""
    different: Mapping[str, Any] = field(default_factory=dict)
    """Its settings that are not those of the reference."""
    runs: dict[int, list[Run]] = field(default_factory=dict)
    """By seed; several, where a later one went further."""

    def holding(self, step: str, *, score: bool) -> dict[int, Run]:
        """By seed: a run that has made (or scored) the step."""
        found = {}
        for seed, candidates in sorted(self.runs.items()):
            for run in candidates:
                if step in (run.scores if score else run.artifacts):
                    found[seed] = run
                    break
        return found

    @cached_property
    def manifests(self) -> dict[str, dict[int, dict[str, Any]]]:
        """Of the scores: step -> seed -> manifest; only where there was ground truth."""
        every = {
            step: {seed: run.scores[step].manifest() for seed, run in self.holding(step, score=True).items()}
            for step in STEPS
        }
        return {
            step: {seed: _by_label(manifest) for seed, manifest in by_seed.items() if "iou" in manifest}
            for step, by_seed in every.items()
        }

    def values(self, step: str, metric: str) -> list[float]:
        """A score of every seed."""
        found = self.manifests[step].values()
        return [manifest["metrics"][metric] for manifest in found if metric in manifest["metrics"]]


def _by_label(manifest: dict[str, Any]) -> dict[str, Any]:
    """A score's manifest, also one of up to version 5, whose IoUs were by name."""
    iou = manifest["iou"]
    return manifest | {"labels": list(iou), "iou": list(iou.values())} if isinstance(iou, dict) else manifest


def report(config: ReportConfig) -> Path:
    """Write `report.html`, `report.md` and the figures; returns the folder.

    Raises:
        RequestError: a named run or study is not in the store, or there is none; or `out` cannot be written.
    """
    store = Store.reading(config.store)
    chosen, studies = _chosen(store, config.runs)
    place = Store.open(config.out, "out")
    if not place.is_local:
        raise RequestError(f"out={place.url}: expected a directory of this machine")
    out = Path(place.path)
    pictures = out / "figures"
    pictures.mkdir(exist_ok=True)
    by_data: dict[str, list[Run]] = {}
    for run in chosen:
        by_data.setdefault(run.artifacts["images"].fingerprint, []).append(run)
    names = Counter(members[0].settings["dataset.name"] for members in by_data.values())
    sections = []
    for identity, members in by_data.items():
        name = members[0].settings["dataset.name"]
        title = name if names[name] == 1 else f"{name} (images/{identity})"
        sections.append(_data_section(store, title, members, pictures, stem=file_stem(name, identity)))
    sections += [_study_section(store, folder, pictures) for folder in studies]
    for name in ("report.html", "report.md"):
        (out / name).write_text(page(name, sections, out), encoding="utf-8")
        say("report", str(out / name))
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
"""What Markdown (GitHub's too) could read within a line as more than a character."""


def plain_markdown(text: str) -> str:
    """A text that is shown as it is: in one line, its marks escaped."""
    return _MARKS.sub(lambda mark: "\\" + mark[0], " ".join(text.split()))


def _chosen(store: Store, names: Sequence[str] | None) -> tuple[list[Run], list[Folder]]:
    """The runs, and the folders of the studies."""
    home = store.folder("studies")
    found = [home.folder(entry.base_name) for entry in home.entries()]
    finished = [folder for folder in found if folder.exists(TRIALS)]
    if names is None:
        return runs.every(store), finished
    studies = [folder for folder in finished if folder.name in names]
    known = [name for name in names if name not in {folder.name for folder in studies}]
    for name in known:
        if not runs.folder(store).exists(name):
            raise RequestError(
                f"runs={name}: neither a run in {runs.folder(store).url} nor a study in {home.url}; name folders of "
                "these, or none for all runs"
            )
    for folder in studies:
        known += _frame(folder, "trials")["run"].dropna().tolist()
    if not known and not studies:
        raise RequestError("runs=[]: names no run; leave it out for all runs")
    return runs.named(store, list(dict.fromkeys(known))), studies


# --- variants ---------------------------------------------------------------------------------------------------------


def variants_of(members: Sequence[Run]) -> list[Variant]:
    """The variants of one data set, the reference first: the paper's method, where it went furthest."""
    found: dict[str, Variant] = {}
    for run in members:
        settings = {key: value for key, value in run.settings.items() if _counts(key)}
        variant = found.setdefault(str(sorted(settings.items())), Variant(settings))
        variant.runs.setdefault(run.settings["seed"], []).append(run)

    def rank(variant: Variant) -> tuple[bool, int, int, int]:
        is_paper = variant.settings["choices.activation"] == "amn" and variant.settings["amn.lc"] == ["layer4"]
        steps = max(len(run.artifacts) for same in variant.runs.values() for run in same)
        distance = sum(len(_difference(variant, other)) for other in found.values())
        return is_paper, steps, len(variant.runs), -distance

    ordered = sorted(found.values(), key=rank, reverse=True)
    reference = ordered[0]
    reference.label = "reference"
    for variant in ordered[1:]:
        variant.different = _difference(variant, reference)
        variant.label = " ".join(f"{key}={_text(value)}" for key, value in variant.different.items())
    return ordered


def _difference(variant: Variant, other: Variant) -> dict[str, Any]:
    """The settings of `variant` that `other` does not have."""
    return {key: value for key, value in variant.settings.items() if value != other.settings.get(key)}


def _counts(key: str) -> bool:
    """Whether a setting makes another variant."""
    of_training = key.endswith(".seed") and key != "dataset.seed"
    return not (key in NO_RESULT or key.startswith(("cluster.", "tracking.")) or of_training)


def _text(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _only(variants: Iterable[Variant], keys: set[str], fits: Callable[[Mapping[str, Any]], bool]) -> Variant | None:
    """The variant that differs from the reference in no other settings than `keys`, and fits."""
    return next((v for v in variants if v.different.keys() <= keys and fits(v.settings)), None)


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


def _data_section(store: Store, title: str, members: Sequence[Run], pictures: Path, stem: str) -> Section:
    variants = variants_of(members)
    reference = variants[0]
    name = members[0].settings["dataset.name"]
    text = [
        f"{len(members)} runs, {len(variants)} variants. Numbers are mIoU in %, mean ± standard deviation of a sample "
        "(number of seeds). Steps up to the pseudo-masks are scored on the training images that have ground truth, "
        "predictions on the validation images.",
        "The published columns are of PASCAL VOC 2012 (Table 5: COCO 2014)"
        + ("." if name == "voc12" else f"; ours are of {name}, so they stand beside each other but do not compare."),
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
    return Section(f"Data set: {title}", text, parts)


def _selection_text(reference: Variant) -> str:
    for step in STEPS:
        for seed in reference.manifests[step]:
            ids = list(scored(reference.holding(step, score=True)[seed].scores[step]))
            reporting = len(report_ids(ids))
            return (
                f"Of the {len(ids)} scored images each fifth ({len(ids) - reporting}) selects, the other {reporting} "
                "report; likewise of the validation images. Studies rank, stop and propose their trials by the images "
                "that select. Columns named “reporting” and the paired differences are of the images that report, maps "
                "at the τ that the others select: numbers that nothing was chosen by. All other columns are of all "
                "scored images, as the published numbers are; “best τ” is chosen on these same images: an upper bound."
            )
    return "No run was scored: the data set has no ground truth."


def _paper_tables(variants: Sequence[Variant], data: str) -> list[Table]:
    method = LC | ACTIVATION
    cam = _only(variants, method, lambda s: s["choices.activation"] == "none")
    by_layers = {layers: _with_lc(variants, layers) for layers, _ in paper.PLACEMENT}
    full, pcl = by_layers["layer4",], by_layers[()]
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
    masks = [
        (name, str(value), *(_pair(ours[name], "pseudo_masks") if name in ours else ("–", "–")))
        for name, value in paper.PSEUDO_MASKS.items()
    ]
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
        Table("Table 3: pseudo-masks", ("method", "published", "ours", "reporting"), masks),
        Table(
            "Table 4: segmentation",
            ("method", "val, published", "test, published", "val, ours", "val + CRF, ours", "reporting", "test, ours"),
            segmentation,
            "The test set has no public ground truth. Ours starts DeepLab from the weights that the recipe names.",
        ),
        Table("Table 5: segmentation of COCO 2014 val", ("method", "published", "ours", "reporting"), coco),
    ]


def _with_lc(variants: Iterable[Variant], layers: Sequence[str]) -> Variant | None:
    """The variant whose labels are multiplied into the features after these layers."""

    def fits(settings: Mapping[str, Any]) -> bool:
        return settings["choices.activation"] == "amn" and settings["amn.lc"] == list(layers)

    return _only(variants, LC | ACTIVATION, fits)


def _pair(variant: Variant | None, step: str) -> tuple[str, str]:
    return _score(variant, step), _score(variant, step, REPORTING)


def file_stem(name: str, identity: str) -> str:
    """For the names of files about something: of its name what any file system takes, and its fingerprint."""
    return re.sub(r"\W", "_", name)[:40] + f"_{identity}"


def _figures(variants: Sequence[Variant], pictures: Path, stem: str) -> list[Figure]:
    reference = variants[0]
    without = _only(variants, LC, lambda s: s["choices.activation"] == "amn" and s["amn.lc"] == [])
    sources = [("CAM", reference, "maps"), ("AMN without LC", without, "amn_maps"), ("AMN", reference, "amn_maps")]
    present = [(name, variant, step) for name, variant, step in sources if variant and variant.manifests[step]]
    made = []
    if present:
        taus = {name: results.best_taus(variant.manifests[step].values()) for name, variant, step in present}
        curves = {name: _mean_curve(variant.manifests[step]) for name, variant, step in present}
        seeds = ", ".join(f"{name} {len(variant.manifests[step])}" for name, variant, step in present)
        made += [
            Figure(
                "Figure 1a: the best threshold of each image",
                figures.best_threshold_histogram(taus, pictures / f"{stem}_best_threshold.png"),
                f"Images of all seeds together ({seeds}).",
            ),
            Figure(
                "Figure 6: mIoU against the threshold",
                figures.threshold_curves(curves, pictures / f"{stem}_miou_by_threshold.png"),
                f"Means over seeds ({seeds}). Published best mIoU on VOC: AMN 62.1, AMN + CRF 65.3.",
            ),
        ]
    furthest = max((run for same in reference.runs.values() for run in same), key=lambda run: len(run.artifacts))
    source = furthest.folder.folder(results.FIGURES)
    if source.exists(EXAMPLES):
        copied = _copy(source, EXAMPLES, pictures / f"{stem}_examples.png")
        note = f"Run {furthest.folder.name}, seed {furthest.settings['seed']}."
        made.insert(1, Figure("Figure 5: examples", copied, note))
    return made


def _mean_curve(manifests: Mapping[int, Mapping[str, Any]]) -> dict[str, Sequence[float]]:
    found = [manifest["curve"] for manifest in manifests.values()]
    return {"tau": found[0]["tau"], "miou": np.mean([curve["miou"] for curve in found], axis=0).tolist()}


def _class_table(reference: Variant) -> Table:
    steps = [step for step in STEPS if reference.manifests[step]]
    names = next(iter(reference.manifests[steps[0]].values()))["labels"] if steps else []
    rows = []
    for label, name in enumerate(names):
        cells = []
        for step in steps:
            values = [manifest["iou"][label] for manifest in reference.manifests[step].values()]
            cells.append(percent([value for value in values if value is not None]).replace(NOT_RUN, "–"))
        rows.append((name, *cells))
    return Table(
        "IoU by class, of the reference",
        ("class", *steps),
        rows,
        "Maps at their default τ; – where a class does not occur.",
    )


def _difference_table(variants: Sequence[Variant]) -> Table:
    """Paired differences of the reference against what it is meant to improve."""
    reference = variants[0]
    pairs = [("AMN − CAM (maps)", (reference, "amn_maps"), (reference, "maps"))]
    for variant in variants[1:]:
        if variant.different.keys() <= LC:
            pairs.append((f"AMN − {variant.label} (maps)", (reference, "amn_maps"), (variant, "amn_maps")))
        if variant.different.keys() <= LC | ACTIVATION:
            for step in ("pseudo_masks", "predictions_refined"):
                pairs.append((f"reference − {variant.label} ({step})", (reference, step), (variant, step)))
    rows = [row for name, first, second in pairs for row in _difference_rows(name, first, second)]
    return Table("Paired differences", DIFFERENCE, rows, DIFFERENCE_NOTE)


def _difference_rows(name: str, first: tuple[Variant, str], second: tuple[Variant, str]) -> list[tuple[str, ...]]:
    """A row, if both steps were scored for a common seed on at least two images that report."""
    seeds = sorted(first[0].manifests[first[1]].keys() & second[0].manifests[second[1]].keys())
    if not seeds:
        return []
    counts = _counts_of(*first, seeds), _counts_of(*second, seeds)
    if counts[0].shape[1] < 2:
        return []
    found = paired_difference(*counts)
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


def _counts_of(variant: Variant, step: str, seeds: Sequence[int]) -> np.ndarray:
    """Counts int64 (S, n, 3, C) of the images that report; maps at the τ that the others select."""
    by_seed = []
    for seed in seeds:
        manifest = variant.manifests[step][seed]
        index = None
        if "curve" in manifest:
            tau = manifest["metrics"]["selection_tau"]
            index = int(np.abs(np.array(manifest["curve"]["tau"]) - tau).argmin())
        images = scored(variant.holding(step, score=True)[seed].scores[step])
        num_classes = len(manifest["iou"]) - 1
        by_seed.append([counts_by_label(images[image_id], num_classes, index) for image_id in report_ids(images)])
    return np.array(by_seed)


def _all_table(variants: Sequence[Variant]) -> Table:
    columns = [
        ("maps best τ", "maps", "best_miou"),
        ("refined", "refined", "miou"),
        ("AMN maps", "amn_maps", "miou"),
        ("AMN maps best τ", "amn_maps", "best_miou"),
        ("AMN maps reporting", "amn_maps", REPORTING),
        ("AMN maps τ width", "amn_maps", "tau_width"),
        ("AMN refined", "amn_refined", "miou"),
        ("pseudo-masks", "pseudo_masks", "miou"),
        ("pseudo-masks reporting", "pseudo_masks", REPORTING),
        ("predictions", "predictions", "miou"),
        ("predictions refined", "predictions_refined", "miou"),
    ]
    rows = [(variant.label, *(_score(variant, step, metric) for _, step, metric in columns)) for variant in variants]
    return Table(
        "All variants",
        ("variant", *(name for name, _, _ in columns)),
        rows,
        "τ width: of the range within 2 points, × 100.",
    )


def _different_table(variants: Sequence[Variant]) -> list[Table]:
    keys = sorted({key for variant in variants for key in variant.different})
    if not keys:
        return []
    rows = [(variant.label, *(_text(variant.settings.get(key)) for key in keys)) for variant in variants]
    return [Table("Settings that differ", ("variant", *keys), rows)]


def _cost_table(variants: Sequence[Variant]) -> Table:
    rows = []
    for variant in variants:
        cells, total, gpu_hours = [], 0.0, 0.0
        for step in STEPS:
            made = [run.artifacts[step].manifest() for run in variant.holding(step, score=False).values()]
            seconds = float(np.mean([manifest["seconds"] for manifest in made])) if made else 0.0
            gpus = float(np.mean([manifest.get("gpus", 0) for manifest in made])) if made else 0.0
            cells.append(f"{seconds:.0f}" if made else "–")
            total += seconds
            gpu_hours += seconds * gpus / 3600
        rows.append((variant.label, *cells, f"{total:.0f}", f"{gpu_hours:.2f}"))
    return Table(
        "Cost in seconds, mean over seeds",
        ("variant", *STEPS, "sum", "GPU-hours"),
        rows,
        "Of making each step once, on the machine that made it; shared steps count for each variant that uses them.",
    )


def _frame(folder: Folder, name: str) -> pd.DataFrame:
    """A table of a study; of its Parquet, since CSV does not tell a setting that is named 1 or NA from a value."""
    return pd.read_parquet(io.BytesIO(folder.read(f"{name}.parquet")))


def _copy(folder: Folder, name: str, path: Path) -> Path:
    path.write_bytes(folder.read(name))
    return path


def _run_table(store: Store, variants: Sequence[Variant]) -> Table:
    rows = []
    known: dict[str, RunStates] = {}
    for variant in variants:
        for seed, same in sorted(variant.runs.items()):
            for run in same:
                uri = run.settings["tracking.uri"] or default_uri(store)
                state = known.setdefault(uri, RunStates(uri)).of(run.mlflow_run)
                rows.append((variant.label, str(seed), list(run.artifacts)[-1], run.folder.name, state))
    return Table("Runs", ("variant", "seed", "last step", "folder in runs/", "MLflow"), rows)


def _study_differences(store: Store, trials: pd.DataFrame, ordered: Sequence[str], step: str) -> list[tuple[str, ...]]:
    """The best setting minus each of the next ones, by what `step` made of the images that report."""
    variants = []
    for setting in ordered[: COMPARED + 1]:
        members = trials[(trials["setting"] == setting) & (trials["state"] == "finished")]
        found = runs.named(store, members["run"].tolist())
        variants.append(Variant({}, setting, runs={run.settings["seed"]: [run] for run in found}))
    return [
        row
        for other in variants[1:]
        for row in _difference_rows(f"{variants[0].label} − {other.label}", (variants[0], step), (other, step))
    ]


def _study_section(store: Store, folder: Folder, pictures: Path) -> Section:
    """A study as it was written by its sweep."""
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
