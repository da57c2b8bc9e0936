"""The versions of the code and packages that produce artifacts."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("amn-ray", "ray", "torch", "torchvision", "pydensecrf2", "numpy", "pyarrow", "mlflow")
"""Packages whose versions a manifest records."""
MODULES = ("ray", "torch", "torchvision", "pydensecrf", "numpy", "pyarrow", "mlflow", "safetensors")
"""Modules that some step imports, perhaps only after hours."""


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """The versions of PACKAGES; "unknown" for a package that is not installed (a source tree)."""
    result = dict.fromkeys(PACKAGES, "unknown")
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            result[name] = version(name)
    return result


def missing_modules() -> str | None:
    """Modules that a pipeline needs and this Python lacks, as a phrase after a node's name; imports nothing."""
    missing = [name for name in MODULES if find_spec(name) is None]
    return f"lacks the Python module(s) {', '.join(missing)}; install requirements.txt there" if missing else None


@lru_cache(maxsize=1)
def git_commit() -> str:
    """The commit of the source tree; in a container image, which has none, AMN_GIT_COMMIT; or "unknown"."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("AMN_GIT_COMMIT", "unknown")
