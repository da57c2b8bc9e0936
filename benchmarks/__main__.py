"""Print every claim with the number measured here."""

from __future__ import annotations

import platform
import tempfile
from functools import partial
from pathlib import Path

import psutil
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import boundaries, numerics, processes, studies


def main() -> None:
    """Measure and print two tables."""
    torch.set_num_threads(psutil.cpu_count(logical=True) or 1)
    console = Console()
    table = Table(
        title=f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} cores, torch {torch.__version__}"
    )
    for title in ("what", "against", "ratio", "target"):
        table.add_column(title)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        stages = Table("step of the demo", "peak memory (GiB)", title="Memory of all processes")
        for step, peak in processes.memory(store):
            stages.add_row(step, f"{peak:.1f}")
        measures = [
            numerics.maps, partial(numerics.rounding, store), numerics.crf, numerics.thresholds, numerics.storage,
            processes.crf_actors, boundaries.walk, boundaries.training_step, numerics.deeplab,
            partial(processes.predict_actors, store), studies.thresholds,
        ]  # fmt: skip
        for measure in measures:
            for what, against, ratio, target in measure():
                table.add_row(what, against, f"{ratio:.3g}", target)
    console.print(table)
    console.print(stages)


if __name__ == "__main__":
    main()
