"""Console output of a pipeline."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

import rich.console
from rich.table import Table

from amn_ray.core.artifacts import Artifact
from amn_ray.core.console import console, log
from amn_ray.core.events import Event, Observer, Scored, StepEnded, StepIsMade, StepWaits, Warned
from amn_ray.core.places import without_secrets
from amn_ray.evaluation.metrics import OF_ALL
from amn_ray.recipe.plan import Plan
from amn_ray.training.epochs import PrintEpochs

COLUMNS: Sequence[tuple[str, str, float, str]] = (
    ("mIoU", "miou", 100, "{:.1f}"),
    ("best mIoU", "best_miou", 100, "{:.1f}"),
    ("mIoU of all masks", "all_miou", 100, "{:.1f}"),
    ("best τ", "best_tau", 1, "{:.2f}"),
    ("τ within 2 points", "tau_width", 1, "{:.2f}"),
    ("mAP", "mean_average_precision", 100, "{:.1f}"),
    ("loss", "loss", 1, "{:.4f}"),
    ("images/s", "images_per_second", 1, "{:.1f}"),
    ("seconds", "seconds", 1, "{:.0f}"),
)


class Console(Observer):
    """The observer that prints a line per step."""

    def notify(self, event: Event) -> None:
        """See Observer."""
        match event:
            case StepWaits():
                log(event.step, f"waiting for another run to finish {_place(event.artifact)}")
            case StepIsMade():
                log(event.step, f"→ {_place(event.artifact)}")
            case StepEnded() if event.reused:
                log(event.step, f"exists ({_place(event.artifact)})" + _code_note(event))
            case Warned():
                log(event.step, f"warning: {event.sentence}")
            case Scored() if "mean_average_precision" in event.manifest["metrics"]:
                precision = event.manifest["metrics"]["mean_average_precision"]
                log(
                    event.step,
                    f"mean average precision of the val labels {100 * precision:.1f}" + _code_note(event),
                )
            case Scored() if "miou" in event.manifest["metrics"]:
                log(event.step, one_line(event.manifest["metrics"]) + _code_note(event))

    def callbacks(self, step: str) -> Sequence[Any]:
        """See Observer."""
        return [PrintEpochs(step)]


def _code_note(event: StepEnded | Scored) -> str:
    if not event.other_code:
        return ""
    shown = ", ".join(event.other_code[:3]) + (", …" if len(event.other_code) > 3 else "")
    return f", made by other code ({shown}); set rebuild=[{event.step}] to rebuild it"


def _place(artifact: Artifact) -> str:
    return f"{artifact.stage}/{artifact.fingerprint}"


def one_line(metrics: Mapping[str, float]) -> str:
    """The scores of a step in words."""
    text = f"mIoU {100 * metrics['miou']:.1f}"
    if "best_miou" in metrics:
        text += f", best {100 * metrics['best_miou']:.1f} at τ = {metrics['best_tau']:.2f}"
    return text


def plan_table(plan: Plan) -> None:
    """Print each step, its fingerprint, and its state."""
    table = Table(title="The plan", box=None, pad_edge=False)
    for title in ("step", "made by", "fingerprint", ""):
        table.add_column(title, no_wrap=True)
    for name, state in plan.states().items():
        planned = plan.get(name)
        assert planned is not None
        table.add_row(name, planned.artifact.stage, planned.artifact.fingerprint, state.value)
    console.print(table)


def summary_table(summary: Mapping[str, Mapping[str, float]]) -> None:
    """Print the results of a pipeline: steps by metrics; mIoU in percent. Repeated rows are left out."""
    table = Table(title="Against ground truth (predictions: of val, if there is one; all others: of train)")
    table.add_column("step", no_wrap=True)
    columns = [column for column in COLUMNS if column[1] not in OF_ALL or any(column[1] in m for m in summary.values())]
    for title, *_ in columns:
        table.add_column(title, justify="right")
    shown: list[Mapping[str, float]] = []
    for step, metrics in summary.items():
        if metrics and metrics not in shown:
            shown.append(metrics)
            table.add_row(step, *(_cell(metrics.get(key), scale, form) for _, key, scale, form in columns))
    print_table(table)


def print_table(table: Table) -> None:
    """Print as wide as the terminal; in a log, which has no width, wide enough for our tables."""
    (console if console.is_terminal else rich.console.Console(width=120, markup=False, emoji=False)).print(table)


def _cell(value: float | None, scale: float, form: str) -> str:
    return "–" if value is None else form.format(value * scale)


def where_to_look(summary: str, figures: str, tracking_uri: str) -> None:
    """Print the paths of the results, and how to compare runs: in a checkout `make mlflow` does it, too."""
    log("summary", summary)
    log("figures", figures)
    shown = without_secrets(tracking_uri)
    is_server = shown.startswith("http")
    command = f"MLFLOW_DISABLE_TELEMETRY=true mlflow ui --backend-store-uri {shlex.quote(shown)}"
    log("runs", shown if is_server else command)


PERCENT = ("iou", "precision", "recall", "undefined", "false_positive", "false_negative", "mean_average_precision")
"""Metrics that are shown in percent."""


def scale_of(name: str) -> int:
    """The factor by which a metric is multiplied for display."""
    return 100 if name.endswith(PERCENT) else 1


def written(mean: float, std: float, name: str) -> str:
    """`57.7 ± 0.8`, in percent if the metric is a fraction; – if it is not reported."""
    if isnan(mean):
        return "–"
    scale = scale_of(name)
    digits = 1 if scale == 100 else 2
    return f"{scale * mean:.{digits}f}" + ("" if isnan(std) else f" ± {scale * std:.{digits}f}")
