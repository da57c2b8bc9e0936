"""The results of a study: a row per trial, a row per setting, and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from amn_ray.core.console import log
from amn_ray.core.folders import Folder
from amn_ray.evaluation.bootstrap import mean_std
from amn_ray.reporting import figures
from amn_ray.reporting.console import print_table, scale_of, written
from amn_ray.tuning.records import STATES, Record
from amn_ray.tuning.study import StudyConfig

AS_CONFIGURED = "as configured"
"""The name of a setting that changes nothing."""


@dataclass(frozen=True)
class StudyResult:
    """All trials of a study, and the files written about them."""

    rows: Sequence[Record]
    table: pd.DataFrame
    """One line per setting, the best first: mean and standard deviation over the seeds."""
    files: Sequence[Path]
    metrics: Mapping[str, float]

    @property
    def failed(self) -> list[str]:
        """The errors of the trials that failed."""
        return [f"{row.trial.label}: {row.error}" for row in self.rows if row.state == "failed"]


def write(rows: Sequence[Record], study: StudyConfig, folder: Path) -> StudyResult:
    """Write trials and settings as CSV and Parquet, and a figure, to a local folder."""
    trials = pd.DataFrame([_line(row) for row in rows])
    for key in {key for row in rows for key in row.settings}:
        if pd.api.types.infer_dtype(trials[key], skipna=True).startswith("mixed"):
            trials[key] = trials[key].map(str, na_action="ignore")  # a Parquet column has one type
    table = by_setting(rows, study)
    files = []
    for name, frame in (("trials", trials), ("settings", table)):
        files += [folder / f"{name}.csv", folder / f"{name}.parquet"]
        frame.to_csv(files[-2], index=False, encoding="utf-8")
        frame.to_parquet(files[-1], index=False)
    if any(row.objective is not None for row in rows):
        files.append(draw(rows, study, folder / "study.png"))
    counts = {f"study/{state}": sum(row.state == state for row in rows) for state in STATES}
    best = {} if table.empty else {"study/best": float(table[study.metric].iloc[0])}
    return StudyResult(rows, table, files, counts | best)


def _line(row: Record) -> dict[str, Any]:
    settings = {
        key: value if isinstance(value, int | float | str) else str(value) for key, value in row.settings.items()
    }
    return {
        "trial": row.trial.label, "setting": row.group or AS_CONFIGURED, **settings, "seed": row.seed,
        "state": row.state, "objective": row.objective, "stopped_after_epoch": row.epoch, "run": row.run,
        "error": row.error, **row.metrics,
    }  # fmt: skip


def by_setting(rows: Sequence[Record], study: StudyConfig) -> pd.DataFrame:
    """One line per setting with a finished trial, the best first.

    Columns: `setting`, `seeds` (the number of trials), and for the study's metric and each column the mean over the
    seeds and, as `<metric> std`, the sample standard deviation (NaN for a single seed).
    """
    groups: dict[str, list[Record]] = {}
    for row in rows:
        if row.state == "finished":
            groups.setdefault(row.group, []).append(row)
    names = shown(study)
    lines = []
    for group, members in groups.items():
        line: dict[str, Any] = {"setting": group or AS_CONFIGURED, "seeds": len(members)}
        for name in names:
            values = [row.metrics[name] for row in members if name in row.metrics]
            line[name], line[f"{name} std"] = mean_std(values)
        lines.append(line)
    table = pd.DataFrame(
        lines, columns=["setting", "seeds", *(part for name in names for part in (name, f"{name} std"))]
    )
    return table.sort_values(study.metric, ascending=study.mode == "min", kind="stable", ignore_index=True)


def shown(study: StudyConfig) -> list[str]:
    """The metrics of the study's table."""
    return list(dict.fromkeys([study.metric, *study.columns]))


def draw(rows: Sequence[Record], study: StudyConfig, path: Path) -> Path:
    """Plot the study's metric against the searched settings."""
    scale = scale_of(study.metric)
    measured = [row for row in rows if row.objective is not None]
    if study.search == "grid":
        points: dict[str, list[tuple[float, bool]]] = {}
        for row in measured:
            value = (scale * (row.objective or 0), row.state == "finished")
            points.setdefault(row.group or AS_CONFIGURED, []).append(value)
        return figures.settings_dots(points, study.metric, study.question, path)
    log = {key: isinstance(values, Mapping) and "log_uniform" in values for key, values in study.space.items()}
    samples = [(row.settings, scale * (row.objective or 0), row.state == "finished") for row in measured]
    return figures.settings_scatter(samples, log, study.metric, study.question, path)


def tell(result: StudyResult, study: StudyConfig, folder: Folder) -> None:
    """Print the table of a study, and its stopped and failed trials."""
    title = f"{study.question or study.name}  (ranked by {study.metric}; mean ± std over seeds)"
    table = Table(title=title)
    table.add_column("setting", overflow="fold", min_width=12)
    names = shown(study)
    for name in names:
        table.add_column(name.replace("/", "\n").replace("_", " "), justify="right")
    for _, line in result.table.iterrows():
        cells = (written(line[name], line[f"{name} std"], name) for name in names)
        table.add_row(line["setting"], *cells)
    print_table(table)
    for row in result.rows:
        if row.state == "stopped":
            log("stopped", f"{row.trial.label} after epoch {row.epoch}, at a mIoU of {100 * (row.objective or 0):.1f}")
        elif row.state == "failed":
            log("failed", f"{row.trial.label}: {row.error}")
    log("results", folder.url)
