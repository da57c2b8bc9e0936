"""The code that produces an artifact: a digest of every module that its stage imports, directly or indirectly.

Comments, docstrings and layout do not count. Imports inside functions do; those under TYPE_CHECKING do not, since they
are not executed.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from amn_ray.core import plugins

OURS = "amn_ray"


@lru_cache(maxsize=64)
def code_of(*modules: str) -> Mapping[str, str]:
    """Module name -> digest, of `modules` and all that they import from this package, their own and plug-ins."""
    packages = {OURS, *plugins.packages(), *(module.partition(".")[0] for module in modules)}
    digests: dict[str, str] = {}
    pending = list(modules)
    while pending:
        name = pending.pop()
        if name in digests or name.partition(".")[0] not in packages:
            continue
        source = _source(name)
        if source is not None:
            tree = _parsed(source)
            digests[name] = tree.digest
            pending += [imported for imported in tree.imports(name) if imported not in digests]
    return dict(sorted(digests.items()))


def other_code(recorded: Mapping[str, str], *modules: str) -> list[str]:
    """The modules whose digest differs from `recorded`, and those that only one of the two has."""
    now = code_of(*modules)
    return sorted(name for name in now.keys() | recorded.keys() if now.get(name) != recorded.get(name))


def _source(name: str) -> Path | None:
    """The source file of a module; None if the name is not a module (but a class or function) or not Python code."""
    try:
        spec = find_spec(name)
    except (ImportError, AttributeError, ValueError):  # a name inside a module that is not a package
        return None
    origin = None if spec is None else spec.origin
    return Path(origin) if origin is not None and origin.endswith(".py") else None


class _Code:
    def __init__(self, path: Path) -> None:
        tree = ast.parse(path.read_bytes())
        self.is_package = path.name == "__init__.py"
        self.imported = list(_imports(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                node.body = [part for part in node.body if not _is_docstring(part)]
        self.digest = hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]

    def imports(self, name: str) -> Iterator[str]:
        """Names of imported modules, and of what may be modules: `from a import b` gives a and a.b."""
        for level, module, names in self.imported:
            base = module
            if level:
                parts = name.split(".")
                parts = parts[: len(parts) - level + (1 if self.is_package else 0)]
                base = ".".join([*parts, *([module] if module else [])])
            yield base
            yield from (f"{base}.{imported}" for imported in names)


def _is_docstring(node: ast.stmt) -> bool:
    """Whether it is a docstring of a module, class, function or field."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _imports(tree: ast.AST) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """(level, module, names) of each import that may be executed."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            for other in node.orelse:
                yield from _imports(ast.Module([other], []))
            continue
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", tuple(alias.name for alias in node.names)
        yield from _imports(node)


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return name == "TYPE_CHECKING"


@lru_cache(maxsize=512)
def _parsed(path: Path) -> _Code:
    return _Code(path)
