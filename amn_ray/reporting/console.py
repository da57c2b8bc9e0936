"""What a job prints at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan

from rich.table import Table

from amn_ray.core.console import console, say

COLUMNS: Sequence[tuple[str, str, float, str]] = (
    ("mIoU", "miou", 100, "{:.1f}"),
    ("best mIoU", "best_miou", 100, "{:.1f}"),
    ("best τ", "best_tau", 1, "{:.2f}"),
    ("τ within 2 points", "tau_width", 1, "{:.2f}"),
    ("loss", "loss", 1, "{:.4f}"),
    ("images/s", "images_per_second", 1, "{:.1f}"),
    ("seconds", "seconds", 1, "{:.0f}"),
)


def summary_table(summary: Mapping[str, Mapping[str, float]]) -> None:
    """The last thing a pipeline prints: steps by metrics; mIoU in percent."""
    table = Table(title="Against ground truth (deeplab: of val, if there is one; all others: of train)")
    table.add_column("step")
    for title, *_ in COLUMNS:
        table.add_column(title, justify="right")
    for step, metrics in summary.items():
        if metrics:
            table.add_row(step, *(_cell(metrics.get(key), scale, form) for _, key, scale, form in COLUMNS))
    console.print(table)


def _cell(value: float | None, scale: float, form: str) -> str:
    return "–" if value is None else form.format(value * scale)


def where_to_look(summary: str, figures: str) -> None:
    """Paths of the results."""
    say("summary", summary)
    say("figures", figures)
    say("runs", "make mlflow")


PERCENT = ("miou", "precision", "recall", "undefined", "false_positive", "false_negative")
"""Metrics that are shown in percent."""


def scale_of(name: str) -> int:
    """What a metric is multiplied with to be shown."""
    return 100 if name.endswith(PERCENT) else 1


def written(mean: float, std: float, name: str) -> str:
    """`57.7 ± 0.8`, in percent where the metric is a share; – for what is not reported."""
    if isnan(mean):
        return "–"
    scale = scale_of(name)
    digits = 1 if scale == 100 else 2
    return f"{scale * mean:.{digits}f}" + ("" if isnan(std) else f" ± {scale * std:.{digits}f}")
