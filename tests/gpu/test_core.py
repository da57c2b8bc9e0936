"""The check of a GPU, tried on the CPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
ABSENT = (
    "ray", "hydra", "omegaconf", "mlflow", "pydensecrf", "pandas", "fsspec", "rich", "psutil", "scipy", "optuna",
    "yaml", "matplotlib", "pycocotools", "timm",
)  # fmt: skip
RUN = "import sys; sys.modules |= dict.fromkeys({names}); import pytest; sys.exit(pytest.main({arguments}))"
"""Python refuses to import what is None among its modules."""


def test_the_check_of_a_gpu_runs_where_ray_and_all_but_pytorch_cannot_be_imported() -> None:
    arguments = [
        "tests/gpu/core",
        "--confcutdir=tests/gpu",
        "-p",
        "no:cacheprovider",
        "-k",
        "of_the_cpu or dense or safetensors",
    ]
    settings = {"AMN_GPU_TESTS_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    code = RUN.format(names=ABSENT, arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) >= 15
    assert "skipped" not in done.stdout
