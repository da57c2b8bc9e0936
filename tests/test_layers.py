"""Dependencies flow one way. If this fails, move the code; do not add an exception."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "amn_ray"
MODULES = sorted(PACKAGE.rglob("*.py"))
STAGES = sorted(path.name for path in (PACKAGE / "stages").iterdir() if (path / "stage.py").exists())


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def offences(paths: list[Path], *forbidden: str) -> list[str]:
    return [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in paths
        for name in imports(path)
        if within(name, *forbidden)
    ]


@pytest.mark.parametrize("folder", ["data", "nn", "evaluation"])
def test_data_nn_and_evaluation_know_nothing_of_stages_or_ray_or_mlflow(folder: str) -> None:
    paths = sorted((PACKAGE / folder).rglob("*.py"))
    assert paths
    assert not offences(
        paths, "amn_ray.stages", "amn_ray.recipe.pipeline", "amn_ray.training", "ray", "mlflow", "hydra"
    )


@pytest.mark.parametrize("stage", STAGES)
def test_stages_never_import_one_another_nor_hydra_mlflow_or_tune(stage: str) -> None:
    others = [f"amn_ray.stages.{name}" for name in STAGES if name != stage]
    paths = sorted((PACKAGE / "stages" / stage).rglob("*.py"))
    assert not offences(
        paths, *others, "hydra", "mlflow", "ray.tune", "amn_ray.recipe.pipeline", "amn_ray.platform.tracking"
    )


def test_the_mathematics_of_stages_runs_without_ray() -> None:
    paths = sorted((PACKAGE / "stages").glob("*/model.py"))
    assert len(paths) >= 3
    assert not offences(
        paths, "ray", "mlflow", "amn_ray.training", "amn_ray.platform.cluster", "amn_ray.platform.mapping"
    )


def test_only_tracking_talks_to_mlflow() -> None:
    others = [path for path in MODULES if path.name != "tracking.py"]
    assert not offences(others, "mlflow")


def test_only_score_reads_ground_truth() -> None:
    """Before the segmentation network, no training or inference may see the column `mask` of the image table."""
    readers = [
        path.relative_to(PACKAGE / "stages").parts[0]
        for path in (PACKAGE / "stages").rglob("*.py")
        if 'COLUMNS = ("mask",)' in path.read_text()
    ]
    assert readers == ["score"]


@pytest.mark.parametrize(
    "module",
    [
        "stages.crf.infer",
        "stages.score.infer",
        "stages.cam.example",
        "stages.amn.example",
        "stages.irn.example",
        "stages.deeplab.example",
    ],
)
def test_what_runs_in_light_processes_does_not_load_pytorch(module: str) -> None:
    code = f"import sys, amn_ray.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


UNPICKLED = {"data/__main__.py", "data/listing.py", "stages/images/apart.py"}
"""The ends of pipes between a process and one that it starts; no file."""


def calls(path: Path) -> Iterator[tuple[str, dict[str, ast.expr]]]:
    """Every call of a dotted name in a file, with its keyword arguments."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {item.arg: item.value for item in node.keywords if item.arg}


def test_no_pickle_is_read_from_files_and_no_shell_is_built_from_strings() -> None:
    for path in [*MODULES, *sorted((PACKAGE.parent / "jobs").glob("*.py"))]:
        for name, keywords in calls(path):
            assert name not in ("os.system", "os.popen", "yaml.load", "eval", "exec"), path
            assert "shell" not in keywords, path
            if name in ("pickle.load", "pickle.loads", "np.load"):
                assert str(path.relative_to(PACKAGE)) in UNPICKLED, path
            if name == "torch.load":
                assert ast.unparse(keywords["weights_only"]) == "True", path
