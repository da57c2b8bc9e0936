"""Plug-ins: modules that add methods, backbones, metrics or data sets, and register them on import.

Installed packages declare them with the entry point `amn_ray.plugins`; others are listed as `plugins=[module]`. A job's
child processes find the listed ones in AMN_RAY_PLUGINS, and import all plug-ins when they miss a registered name.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from amn_ray.core.errors import RequestError

ENTRY_POINTS = "amn_ray.plugins"
NAMED = "AMN_RAY_PLUGINS"
"""The environment variable with the listed modules, separated by commas. Users may set it, too."""


def load(names: Iterable[str] = (), where: Iterable[str] = ()) -> None:
    """Import the plug-ins of installed packages, of AMN_RAY_PLUGINS and `names`, also for child processes.

    Args:
        names: modules.
        where: folders to search, after Python's own.

    Raises:
        RequestError: one cannot be imported, or registers a name that is taken.
    """
    for point in _installed():
        _import(point.module, f"the installed plug-in {point.name}")
    wanted = list(dict.fromkeys([*named(), *names]))
    if wanted:
        _extend_path(where)
    for name in wanted:
        _import(name, f"plugins={name}")
        os.environ[NAMED] = ",".join(dict.fromkeys([*named(), name]))


def named() -> list[str]:
    """The listed modules, which other nodes do not know about."""
    return [name for name in os.environ.get(NAMED, "").split(",") if name]


def modules() -> list[str]:
    """All plug-ins: those of installed packages, and the listed ones."""
    return list(dict.fromkeys([*(point.module for point in _installed()), *named()]))


def packages() -> set[str]:
    """The top-level packages or modules of all plug-ins."""
    return {name.partition(".")[0] for name in modules()}


def place(name: str) -> Path:
    """The file or package folder of a module's top-level package.

    Raises:
        RequestError: it has none.
    """
    top = importlib.import_module(name.partition(".")[0])
    origin = getattr(top, "__file__", None) or next(iter(getattr(top, "__path__", [])), None)
    if origin is None:
        raise RequestError(f"plugins={name}: has no file; name a module or a package")
    path = Path(origin)
    return path.parent if path.name == "__init__.py" else path


def _installed() -> Sequence[EntryPoint]:
    return sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name)


def _extend_path(where: Iterable[str]) -> None:
    """Append folders to the module search path of this process and its children."""
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    new = [folder for folder in where if folder not in inherited]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*inherited, *new]))
    sys.path += [folder for folder in new if folder not in sys.path]


def _import(name: str, what: str) -> None:
    try:
        importlib.import_module(name)
    except RequestError as error:
        raise RequestError(f"{what}: {error}") from error
    except Exception as error:  # of any kind: it is third-party code
        raise RequestError(f"{what}: {reason(name, error)}") from error


def reason(name: str, error: Exception) -> str:
    """Why a module could not be imported, and what to do."""
    if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
        return (
            f"there is no module {error.name} in {Path.cwd()}, on PYTHONPATH or installed; give the name as in an "
            "import statement, without .py"
        )
    text = " ".join(str(error).split())
    return f"cannot be imported ({type(error).__name__}: {text}); HYDRA_FULL_ERROR=1 shows where"
