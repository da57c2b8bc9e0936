"""Dependencies flow one way. If this fails, move the code; do not add an exception.

`python -m tests.test_layers` (or `make graph`) prints which unit imports which.
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from amn_ray.stages import methods
from amn_ray.stages.builtin import OURS
from amn_ray.stages.methods import Method
from amn_ray.stages.stage import Stage

PACKAGE = Path(__file__).parent.parent / "amn_ray"
MODULES = sorted(PACKAGE.rglob("*.py"))
STAGES = sorted(path.parent.name for path in PACKAGE.glob("stages/*/stage.py"))
ORDER = (
    "core", "data", "nn", "evaluation", "platform", "training", "stages", "recipe", "reporting", "inference", "tuning",
    "cli",
)  # fmt: skip
"""The units, folders or modules right under amn_ray: each imports only from those before it."""
DOUBLES = "testing"
"""May import anything, and nobody imports it."""
ROOT = "__init__"
"""Runs before any of them, so it imports none."""


def imports(path: Path, package: Path = PACKAGE) -> Iterator[str]:
    """Every module that a file imports, and every name from it: also in functions, under TYPE_CHECKING, relatively."""
    inside = [package.name, *path.relative_to(package).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = inside[: len(inside) + 1 - node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def offences(paths: list[Path], *forbidden: str) -> list[str]:
    return [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in paths
        for name in imports(path)
        if within(name, *forbidden)
    ]


def of(*patterns: str) -> list[Path]:
    """The modules below these places of the package."""
    found = [path for pattern in patterns for path in sorted(PACKAGE.glob(pattern)) if path.suffix == ".py"]
    assert found
    return found


def unit_of(path: Path, package: Path) -> str:
    return path.relative_to(package).parts[0].removesuffix(".py")


def graph(package: Path = PACKAGE) -> dict[str, dict[str, list[str]]]:
    """unit -> unit that it imports -> the files that do."""
    paths = sorted(package.rglob("*.py"))
    units = {unit_of(path, package) for path in paths}
    found: dict[str, dict[str, list[str]]] = {unit: {} for unit in units}
    for path in paths:
        unit, file = unit_of(path, package), str(path.relative_to(package))
        for name in imports(path, package):
            top, _, rest = name.partition(".")
            other = rest.split(".")[0]
            if top == package.name and other in units - {unit}:
                files = found[unit].setdefault(other, [])
                if file not in files:
                    files.append(file)
    return found


def against_the_order(found: dict[str, dict[str, list[str]]]) -> list[str]:
    """The imports of a graph that ORDER does not allow, in words."""
    allowed = {unit: ORDER[:place] for place, unit in enumerate(ORDER)} | {DOUBLES: ORDER, ROOT: ()}
    return [
        f"{unit} imports {other} in {', '.join(files)}"
        for unit, others in found.items()
        for other, files in others.items()
        if other not in allowed[unit]
    ]


def private_in_ray(name: str) -> bool:
    """Whether an imported name is none of Ray's public ones."""
    parts = name.split(".")
    return parts[0] == "ray" and (any(part.startswith("_") for part in parts) or parts[1:3] == ["core", "generated"])


def test_only_one_module_touches_what_is_private_in_ray() -> None:
    touching = {path for path in MODULES for name in imports(path) if private_in_ray(name)}
    assert touching == {PACKAGE / "platform/ray_internals.py"}


def test_every_unit_imports_only_from_units_before_it() -> None:
    found = graph()
    assert found.keys() == {*ORDER, DOUBLES, ROOT}, "a unit has no place in the order, or is no more there"
    assert not against_the_order(found)


@pytest.mark.parametrize(
    ("file", "line", "told"),
    [
        ("core/x.py", "import amn_ray.cli.entry", "core imports cli in core/x.py"),
        ("core/x.py", "from amn_ray import cli", "core imports cli in core/x.py"),
        ("core/x.py", "from amn_ray.cli import entry", "core imports cli in core/x.py"),
        ("core/x.py", "from ..cli import entry", "core imports cli in core/x.py"),
        ("core/x.py", "from .. import cli", "core imports cli in core/x.py"),
        ("core/deep/x.py", "from ...cli.entry import run", "core imports cli in core/deep/x.py"),
        ("core/x.py", "def f():\n    from amn_ray.cli import entry", "core imports cli in core/x.py"),
        ("core/x.py", "if TYPE_CHECKING:\n    from amn_ray.cli import entry", "core imports cli in core/x.py"),
        ("cli/x.py", "import amn_ray.testing", "cli imports testing in cli/x.py"),
        ("__init__.py", "from .core import x", "__init__ imports core in __init__.py"),
    ],
)
def test_an_import_is_found_in_whichever_form_it_is_written(tmp_path: Path, file: str, line: str, told: str) -> None:
    package = tmp_path / "amn_ray"
    for name in ("core/x.py", "cli/__init__.py", "testing.py", "__init__.py", file):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).touch()
    (package / "cli/y.py").write_text("import os\nfrom . import x\nfrom ..core import x\nfrom amn_ray.core.x import z")
    assert not against_the_order(graph(package))
    (package / file).write_text(line)
    assert against_the_order(graph(package)) == [told]


CORE = ("nn/**/*.py", "evaluation/**/*.py", "stages/*/model.py", "stages/*/loss*.py", "stages/*/walk.py",
        "data/transforms.py", "data/maps.py")  # fmt: skip
"""The numerical core."""


def test_the_numerical_core_imports_neither_ray_nor_mlflow_nor_what_drives_them() -> None:
    assert not offences(of(*CORE), "ray", "mlflow", "amn_ray.platform", "amn_ray.training.driver")


def test_the_numerical_core_runs_where_ray_mlflow_and_hydra_are_not_installed() -> None:
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in of(*CORE)]
    missing = "import sys; sys.modules.update(dict.fromkeys(['ray', 'mlflow', 'hydra', 'omegaconf']))"
    code = f"{missing}; import importlib; [importlib.import_module(name) for name in {names}]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_data_knows_nothing_of_ray_or_mlflow_or_hydra() -> None:
    assert not offences(of("data/**/*.py"), "ray", "mlflow", "hydra")


@pytest.mark.parametrize("stage", STAGES)
def test_stages_never_import_one_another_nor_hydra_mlflow_or_tune(stage: str) -> None:
    others = [f"amn_ray.stages.{name}" for name in STAGES if name != stage]
    paths = of(f"stages/{stage}/**/*.py")
    assert not offences(paths, *others, "hydra", "mlflow", "ray.tune", "amn_ray.platform.tracking")


def test_what_stages_share_knows_no_stage_but_for_the_list_of_ours() -> None:
    shared = [path for path in of("stages/*.py") if path.name != "builtin.py"]
    assert not offences(shared, *(f"amn_ray.stages.{name}" for name in STAGES))


def test_the_list_of_ours_is_imported_by_recipe_and_cli_alone() -> None:
    importers = {unit_of(path, PACKAGE) for path in MODULES if offences([path], "amn_ray.stages.builtin")}
    assert importers
    assert importers <= {"recipe", "cli"}


def values_of(kind: type) -> dict[str, list[object]]:
    """The values of a type in each stage's stage.py."""
    modules = {stage: importlib.import_module(f"amn_ray.stages.{stage}.stage") for stage in STAGES}
    return {
        stage: [value for value in vars(module).values() if isinstance(value, kind)]
        for stage, module in modules.items()
    }


def test_every_method_of_ours_is_in_the_list_of_ours() -> None:
    found = [method for values in values_of(Method).values() for method in values]
    assert found
    assert all(method in OURS for method in found)
    assert all(method in methods.all_methods() for method in OURS)


def test_only_score_reads_ground_truth() -> None:
    """No training or inference may see it; what a study looks at while it trains is in tuning/amn_probe.py.

    The ids of evaluated images are in its table, too.
    """
    stages = values_of(Stage)
    assert all(stages.values()), "every folder of a stage has a Stage"
    stages["of methods"] = [stage for method in methods.all_methods() for stage in method.stages.values()]
    readers = {
        stage.name for values in stages.values() for stage in values if "truth" in (*stage.needs, *stage.optional)
    }
    assert readers == {"score", "selected_images"}
    assert not offences(of("stages/selected_images/*.py"), "amn_ray.data.images"), "it reads ids, and no masks"


def test_only_tracking_talks_to_mlflow() -> None:
    others = [path for path in MODULES if path != PACKAGE / "platform" / "tracking.py"]
    assert not offences(others, "mlflow")


def test_neither_stages_nor_the_runner_know_that_there_is_tracking() -> None:
    assert not offences(of("stages/**/*.py", "recipe/**/*.py"), "amn_ray.platform.tracking")


@pytest.mark.parametrize(
    "module",
    [
        "stages.images.infer",
        "stages.truth.infer",
        "stages.crf.infer",
        "stages.score.infer",
        "data.labelled_crop",
        "stages.amn.example",
        "stages.irn.example",
        "stages.deeplabv2.example",
    ],
)
def test_what_runs_in_light_processes_does_not_load_pytorch(module: str) -> None:
    code = f"import sys, amn_ray.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


UNPICKLED = {"data/__main__.py", "data/listing.py", "data/in_subprocess.py"}
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
            if name == "np.load":
                assert ast.unparse(keywords["allow_pickle"]) == "False", path
            if name in ("pickle.load", "pickle.loads"):
                assert str(path.relative_to(PACKAGE)) in UNPICKLED, path
            if name == "torch.load":
                assert ast.unparse(keywords["weights_only"]) == "True", path


if __name__ == "__main__":
    found = graph()
    for unit in (*ORDER, DOUBLES):
        others = [other for other in ORDER if other in found[unit]]
        print(f"{unit:>10}  {' '.join(others) or '–'}")
