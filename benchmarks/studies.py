"""A study against as many separate pipelines."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.numerics import Row

TRIALS = 16


def thresholds() -> Iterator[Row]:
    """`study=seed_thresholds` on drawn images in an empty store, against 16 times one pipeline in an empty store."""
    with tempfile.TemporaryDirectory() as folder:
        study = _seconds("sweep", Path(folder) / "study", "study=seed_thresholds")
        pipeline = _seconds("pipeline", Path(folder) / "pipeline", "until=refined")
    yield f"study of {TRIALS} seed thresholds", f"{TRIALS} pipelines (1 measured)", TRIALS * pipeline / study, "≥ 5"


def _seconds(job: str, store: Path, *overrides: str) -> float:
    started = time.monotonic()
    subprocess.run([sys.executable, f"jobs/{job}.py", f"store={store}", *overrides], check=True, capture_output=True)
    return time.monotonic() - started
