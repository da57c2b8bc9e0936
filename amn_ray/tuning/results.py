"""What came out of a study: a row per trial, a row per setting, a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from amn_ray.errors import told_in
from amn_ray.reporting import figures
from amn_ray.reporting.console import console, say, written
from amn_ray.tuning.probe import EPOCH, OBJECTIVE
from amn_ray.tuning.study import StudyConfig, Trial

STATES = ("finished", "stopped", "failed")


@dataclass(frozen=True)
class Row:
    """One trial that ended."""

    trial: Trial
    state: str
    """finished, stopped (early, by ASHA) or failed."""
    objective: float | None
    """The study's metric; where stopped, the last epoch's probe instead."""
    epoch: int | None
    """Where stopped: after which epoch."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    run: str | None = None
    """Its folder in the store's `runs/`."""
    error: str | None = None

    @classmethod
    def of(cls, trial: Trial, result: Any) -> Row:
        """From Ray Tune's result."""
        last = result.metrics or {}
        if result.error is not None:
            told = told_in(result.error)
            error = str(told or str(result.error).strip().splitlines()[-1])
            return cls(trial, "failed", None, None, error=error)
        if "run" not in last:
            return cls(trial, "stopped", last.get(OBJECTIVE), last.get(EPOCH))
        metrics = {key: value for key, value in last.items() if "/" in key and isinstance(value, int | float)}
        return cls(trial, "finished", last[OBJECTIVE], None, metrics, last["run"])


@dataclass(frozen=True)
class StudyResult:
    """All trials of a study, and what was written of them."""

    rows: Sequence[Row]
    table: pd.DataFrame
    """One line per setting, the best first: mean and standard deviation over the seeds."""
    files: Sequence[Path]
    metrics: Mapping[str, float]

    @property
    def failed(self) -> list[str]:
        """The errors of the trials that failed."""
        return [f"{row.trial.label}: {row.error}" for row in self.rows if row.state == "failed"]


def write(rows: Sequence[Row], study: StudyConfig, folder: Path) -> StudyResult:
    """Trials and settings as CSV and Parquet, and a picture."""
    trials = pd.DataFrame([_line(row) for row in rows])
    table = by_setting(rows, study)
    files = []
    for name, frame in (("trials", trials), ("settings", table)):
        files += [folder / f"{name}.csv", folder / f"{name}.parquet"]
        frame.to_csv(files[-2], index=False)
        frame.to_parquet(files[-1], index=False)
    if any(row.objective is not None for row in rows):
        files.append(draw(rows, study, folder / "study.png"))
    counts = {f"study/{state}": sum(row.state == state for row in rows) for state in STATES}
    best = {} if table.empty else {"study/best": float(table[study.metric].iloc[0])}
    return StudyResult(rows, table, files, counts | best)


def _line(row: Row) -> dict[str, Any]:
    settings = {
        key: value if isinstance(value, int | float | str) else str(value) for key, value in row.trial.settings.items()
    }
    return {
        "trial": row.trial.label, "setting": row.trial.group, **settings, "seed": row.trial.seed, "state": row.state,
        "objective": row.objective, "stopped_after_epoch": row.epoch, "run": row.run, "error": row.error, **row.metrics,
    }  # fmt: skip


def by_setting(rows: Sequence[Row], study: StudyConfig) -> pd.DataFrame:
    """One line per setting with a finished trial, the best first.

    Columns: `setting`, `seeds` (how many trials), and for the study's metric and each column its mean over the seeds
    and, as `<metric> std`, the standard deviation of a sample (NaN of a single one).
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.state == "finished":
            groups.setdefault(row.trial.group, []).append(row)
    names = shown(study)
    lines = []
    for group, members in groups.items():
        line: dict[str, Any] = {"setting": group or "as configured", "seeds": len(members)}
        for name in names:
            values = [row.metrics[name] for row in members if name in row.metrics]
            line[name] = float(np.mean(values)) if values else float("nan")
            line[f"{name} std"] = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
        lines.append(line)
    table = pd.DataFrame(
        lines, columns=["setting", "seeds", *(part for name in names for part in (name, f"{name} std"))]
    )
    return table.sort_values(study.metric, ascending=study.mode == "min", kind="stable", ignore_index=True)


def shown(study: StudyConfig) -> list[str]:
    """The metrics of the study's table."""
    return list(dict.fromkeys([study.metric, *study.columns]))


def draw(rows: Sequence[Row], study: StudyConfig, path: Path) -> Path:
    """The study's metric against what was searched."""
    done = [row for row in rows if row.objective is not None]
    if study.search == "grid":
        points: dict[str, list[float]] = {}
        for row in done:
            points.setdefault(row.trial.group or "as configured", []).append(100 * (row.objective or 0))
        return figures.settings_dots(points, study.metric, study.question, path)
    scale = {key: isinstance(values, Mapping) and "log_uniform" in values for key, values in study.space.items()}
    samples = [(row.trial.settings, 100 * (row.objective or 0), row.state == "finished") for row in done]
    return figures.settings_scatter(samples, scale, study.metric, study.question, path)


def tell(result: StudyResult, study: StudyConfig, folder: Path) -> None:
    """The last thing a study prints."""
    title = f"{study.question or study.name}  (ranked by {study.metric}; mean ± std over seeds)"
    table = Table(title=title)
    names = shown(study)
    table.add_column("setting", overflow="fold")
    for name in names:
        table.add_column(name.replace("/", "\n"), justify="right", no_wrap=True)
    for _, line in result.table.iterrows():
        table.add_row(line["setting"], *(written(line[name], line[f"{name} std"], name) for name in names))
    console.print(table)
    for row in result.rows:
        if row.state == "stopped":
            say("stopped", f"{row.trial.label} after epoch {row.epoch}, at {100 * (row.objective or 0):.1f}")
        elif row.state == "failed":
            say("failed", f"{row.trial.label}: {row.error}")
    say("results", str(folder))
