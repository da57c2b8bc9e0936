"""The code that produces an artifact: a digest of every module that its stage imports, directly or indirectly.

Comments, docstrings and layout do not count. Imports inside functions do; those under TYPE_CHECKING do not, since they
are not executed.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from amn_ray.core import plugins

OURS = "amn_ray"


@lru_cache(maxsize=64)
def code_of(*roots: str) -> Mapping[str, str]:
    """Module name -> digest, of `roots` and all that they import from this package, their own and plug-ins.

    Args:
        roots: modules; or functions, as `module:function`. Of a function's module only counts what the function uses:
            a stage that trains and one that uses the weights may stand in one module.
    """
    modules = [root.partition(":")[0] for root in roots]
    packages = {OURS, *plugins.packages(), *(module.partition(".")[0] for module in modules)}
    digests: dict[str, str] = {}
    pending = [root for root in roots if ":" not in root]
    parts: dict[str, _Code] = {}
    for module, functions in _functions(roots).items():
        if (source := _source(module)) is not None:
            parts[module] = _parsed(source).part(functions)
            pending += [name for name in parts[module].imports(module) if name != module]
    while pending:
        name = pending.pop()
        if name in digests or name.partition(".")[0] not in packages:
            continue
        source = _source(name)
        if source is not None:
            tree = _parsed(source)
            digests[name] = tree.digest
            pending += [imported for imported in tree.imports(name) if imported not in digests]
    partial = {module: part.digest for module, part in parts.items()}
    return dict(sorted((partial | digests).items()))  # what imports a whole module uses all of it


def _functions(roots: Sequence[str]) -> dict[str, set[str]]:
    """Module -> the functions of it that are roots."""
    found: dict[str, set[str]] = {}
    for root in roots:
        module, is_function, name = root.partition(":")
        if is_function and module not in roots:
            found.setdefault(module, set()).add(name)
    return found


def other_code(recorded: Mapping[str, str], *roots: str) -> list[str]:
    """The modules whose digest differs from `recorded`, and those that only one of the two has."""
    now = code_of(*roots)
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
    def __init__(self, tree: ast.Module, is_package: bool) -> None:
        self.tree = tree
        self.is_package = is_package
        self.imported = list(_imports(tree))
        self.digest = hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]

    def part(self, names: set[str]) -> _Code:
        """What these names of the module use of it, directly or not; all of it if it does not define one of them."""
        if set(names) - set[str]().union(*map(_bound, self.tree.body)):
            return self
        pending, used = list(names), set[str]()
        while pending:
            name = pending.pop()
            if name not in used:
                used.add(name)
                nodes = [node for node in self.tree.body if name in _bound(node) and not isinstance(node, IMPORTS)]
                pending += [inner.id for node in nodes for inner in ast.walk(node) if isinstance(inner, ast.Name)]
        kept = [_only(node, used) for node in self.tree.body if used & _bound(node)]
        return _Code(ast.Module(kept, []), self.is_package)

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


DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
IMPORTS = (ast.Import, ast.ImportFrom)


def _only(node: ast.stmt, used: set[str]) -> ast.stmt:
    """A statement; of an import, the names that are used."""
    if isinstance(node, ast.ImportFrom):
        return ast.ImportFrom(
            node.module, [name for name in node.names if (name.asname or name.name) in used], node.level
        )
    return node


def _bound(node: ast.AST) -> set[str]:
    """The names that a statement of a module binds."""
    if isinstance(node, DEFINITIONS):
        return {node.name}
    if isinstance(node, IMPORTS):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    inside = list(ast.walk(node))
    stored = {inner.id for inner in inside if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)}
    return stored.union(*(_bound(inner) for inner in inside if isinstance(inner, DEFINITIONS + IMPORTS)))


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
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in node.body if not _is_docstring(part)]
    return _Code(tree, path.name == "__init__.py")
