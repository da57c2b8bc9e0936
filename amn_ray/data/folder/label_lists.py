"""The class names in cells of labels.csv, in any usual notation of a list.

`;` `|` and a line end always separate, brackets and quotes are signs of a list ("['cat', 'dog']"). A comma separates,
and so do / + & where both sides are classes of their own elsewhere in the table. A space never does ("traffic light"),
nor does any other sign. Where the table leaves it open, the user is asked: dataset.separator, or dataset.classes.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from amn_ray.core.errors import RequestError
from amn_ray.data.class_names import BACKGROUND, fold, plain
from amn_ray.data.folder.table import Row
from amn_ray.data.text import same_name

WEAK = ("/", "+", "&")
"""Signs that separate labels in some tables and are part of names in others ("and/or", "C++", "R&D")."""
_WIDE = str.maketrans("，、；｜", ",,;|")
"""What Chinese and Japanese keyboards write for signs of lists."""
NOTHING = ("none", "nan", "null", "n/a", "na", "<na>", "-")
"""What programs write into an empty cell."""


def names_of(
    path: Path, rows: Sequence[Row], separator: str | None, classes: Sequence[str] | None
) -> tuple[list[list[str]], list[str]]:
    """The class names of each row, in the spelling of `classes`, and sentences for the user.

    Args:
        path: of the table, for sentences.
        rows: of the table.
        separator: `dataset.separator`; null finds it.
        classes: `dataset.classes`; null takes the names that occur.

    Raises:
        RequestError: a cell may be one name or a list, or holds none, or a class is not in `classes`.
    """
    _refuse_numbers_of_classes(path, rows)
    if separator is not None:
        words = re.compile(r"\s+" if not separator.strip() else re.escape(separator))
        atoms = [[part for cell in row.labels for part in words.split(_unbracketed(cell))] for row in rows]
        atoms = [[name for name in map(plain, parts) if name] for parts in atoms]
    else:
        atoms = [[part for cell in _whole(row.labels) for part in _strong(cell)] for row in rows]
    lists = [(row, parts) for row, parts in zip(rows, atoms, strict=True)]
    warnings: list[str] = []
    if classes is not None:
        return [_known(path, row, parts, separator, classes) for row, parts in lists], warnings
    if separator is None:
        lists = _commas(path, lists, warnings)
        lists = _weak(path, lists)
        _refuse_words(path, lists)
    lists = _without_nothing(path, lists, warnings)
    return _one_spelling(path, lists, warnings), warnings


_WRITTEN = re.compile(
    r"""\s*(?:(?:array|frozenset|set|list|tuple)\(|\{\s*["']?choices["']?\s*:)\s*([\[{(].*[\]})])(?:,\s*dtype=\w+)?\s*[)}]\s*""",
    re.DOTALL,
)
"""A list as Python, NumPy and Label Studio ({"choices": [...]}) write it."""
_VECTOR = re.compile(r"[\[({]?\s*[01](?:\.0*)?(?:[\s,;|]+[01](?:\.0*)?)+\s*[\])}]?")


def _refuse_numbers_of_classes(path: Path, rows: Sequence[Row]) -> None:
    """Ask for names where cells are vectors ("[1, 0, 1]") or objects ("{'cat': 0.9}")."""
    cells = [",".join(row.labels).strip() for row in rows]
    lengths = {len(re.findall("[01](?:\\.0*)?", cell)) if _VECTOR.fullmatch(cell) else 0 for cell in cells}
    if len(lengths) == 1 and lengths != {0}:
        raise RequestError(
            f"{path}: labels such as {cells[0]!r} (line {rows[0].line}) are a 0 or 1 for each class; write the names "
            "of the classes instead, or give each class a column of its own with its name in the first line"
        )
    for row, cell in zip(rows, cells, strict=True):
        if re.match(r"""\{\s*["']?[^"',;|{}]*["']?\s*:""", cell) and not _WRITTEN.fullmatch(cell):
            raise RequestError(
                f"{path}: line {row.line} has the labels {cell[:60]!r}, expected names of classes; write those that "
                "the image has, such as 'cat;dog' (see dataset.separator)"
            )


def _unbracketed(cell: str) -> str:
    cell = cell.strip()
    return cell[1:-1] if cell[:1] + cell[-1:] in ("[]", "{}", "()") else cell


def _whole(cells: Sequence[str]) -> Sequence[str]:
    """A bracketed list that the table's commas cut, as one cell again."""
    if len(cells) > 1 and cells[0].strip()[:1] in tuple("[{(") and cells[-1].strip()[-1:] in tuple("]})"):
        return [",".join(cells)]
    return cells


def _strong(cell: str) -> list[str]:
    """The parts between signs that are in no name."""
    written = _WRITTEN.fullmatch(cell)
    cell = (written[1] if written else cell).strip()
    inner = _unbracketed(cell)
    if inner != cell and (cell[0] != "(" or "," in cell):
        quoted = re.findall(r"'([^']*)'|\"([^\"]*)\"", inner)
        outside = re.sub(r"'[^']*'|\"[^\"]*\"", "", inner)
        if quoted and not outside.strip(" ,;|\n"):
            parts = ["".join(pair) for pair in quoted]
        else:
            parts = re.split(r"[,;|\n]", inner)
    else:
        parts = re.split(r"[;|\n\t]", same_name(cell).translate(_WIDE))
    return [name for name in map(plain, parts) if name]


Lists = list[tuple[Row, list[str]]]


def _known(path: Path, row: Row, parts: Sequence[str], separator: str | None, classes: Sequence[str]) -> list[str]:
    """The names of one row in the spelling of `classes`; a part that is no class is cut until all its pieces are."""
    spelled = {fold(name): name for name in classes} | {BACKGROUND: BACKGROUND}
    spelled |= {name: name for name in classes}
    if all(name.isdigit() for name in classes):
        spelled |= {"0": BACKGROUND} | spelled
        spelled |= {f"{name}.0": name for name in spelled}

    def match(name: str) -> str | None:
        return spelled.get(name, spelled.get(fold(name)))

    result = []
    for part in parts:
        cuts = [[part]] if separator else [[part], *([*map(plain, part.split(sign))] for sign in (",", *WEAK, " "))]
        found = next((cut for cut in cuts if all(match(name) for name in cut if name)), None)
        if found is None:
            if fold(part) in NOTHING and len(parts) == 1:
                continue
            raise RequestError(
                f"{path}: class {part!r} of image {row.image} (line {row.line}) is not in "
                f"dataset.classes={list(classes)}; correct the name or the list, or set dataset.separator "
                "if it is several"
            )
        result += [str(match(name)) for name in found if name]
    return result


def _commas(path: Path, lists: Lists, warnings: list[str]) -> Lists:
    """Cut at commas; told where no part of a cell occurs without the others."""
    cells = {part for _, parts in lists for part in parts if "," in part}
    alone = {fold(part) for _, parts in lists for part in parts} - {fold(cell) for cell in cells}
    shared = _shared(cells, lambda cell: cell.split(","))
    doubtful = []

    def cut(row: Row, part: str) -> list[str]:
        pieces = [name for name in map(plain, part.split(",")) if name]
        if len(pieces) > 1 and not any(fold(piece) in alone | shared for piece in pieces):
            doubtful.append((row, part, len(pieces)))
        return pieces

    result = [
        (row, [name for part in parts for name in (cut(row, part) if "," in part else [part])]) for row, parts in lists
    ]
    if doubtful:
        row, part, count = doubtful[0]
        warnings.append(
            f"{path}: labels {part!r} (line {row.line}) are read as {count} classes; set dataset.separator=';' if it "
            "is the name of one"
        )
    return result


def _weak(path: Path, lists: Lists) -> Lists:
    """Cut at signs that may be part of a name, where all parts are classes elsewhere."""
    pattern = re.compile("[" + re.escape("".join(WEAK)) + "]")
    cells = {part for _, parts in lists for part in parts if pattern.search(part)}
    alone = {fold(part) for _, parts in lists for part in parts} - {fold(cell) for cell in cells}
    shared = _shared(cells, pattern.split)

    def cut(row: Row, part: str) -> list[str]:
        pieces = [name for name in map(plain, pattern.split(part)) if name]
        if len(pieces) < 2 or fold(part) in NOTHING:
            return [part]
        if all(fold(piece) in alone for piece in pieces):
            return pieces
        if any(fold(piece) in alone | shared for piece in pieces):
            raise _asked(path, row, part, next(sign for sign in WEAK if sign in part))
        return [part]

    return [
        (row, [name for part in parts for name in (cut(row, part) if part in cells else [part])])
        for row, parts in lists
    ]


def _refuse_words(path: Path, lists: Lists) -> None:
    """Ask where names with spaces or other signs look like lists of what are classes of their own."""
    known = {fold(part) for _, parts in lists for part in parts}
    cells = {part for _, parts in lists for part in parts if " " in part}
    alone = known - {fold(cell) for cell in cells}
    shared = _shared(cells, str.split)
    lists_all = len(cells) > 2 and all(fold(word) in alone | shared for cell in cells for word in cell.split())
    for row, parts in lists:
        for part in parts:
            if part in cells and lists_all:
                raise _asked(path, row, part, " ")
            for cut in _CUTS:
                pieces = [name for name in map(plain, cut.split(part)) if name]
                if len(pieces) > 1 and all(fold(piece) in known - {fold(part)} for piece in pieces):
                    sign = re.search(cut, part)
                    raise _asked(path, row, part, sign[0] if sign and sign[0].strip().isalpha() else _sign_of(part))


_CUTS = (re.compile(r"[\W_]+"), re.compile(r"\s*(?:[^\w\s]|_)+\s*"), re.compile(r"\s+(?:and|und|et|y)\s+"))
"""At spaces and signs; at signs only ("traffic light-car"); at the word for them."""


def _sign_of(part: str) -> str:
    """What separates the pieces of a name: a sign, else a space."""
    found = re.search(r"[^\w\s]+|_+", part)
    return found[0] if found else " "


def _asked(path: Path, row: Row, part: str, sign: str) -> RequestError:
    return RequestError(
        f"{path}: line {row.line} has the labels {part!r}, which may be one class or several, as parts of it are "
        f"classes elsewhere; set dataset.separator={sign!r} if it is several, or dataset.separator=';' or "
        "dataset.classes=[…] if it is one"
    )


def _shared(cells: Iterable[str], split: Callable[[str], Sequence[str]]) -> set[str]:
    """The parts that occur in several different cells."""
    counts = Counter(part for cell in cells for part in {fold(piece) for piece in split(cell)} if part)
    return {part for part, count in counts.items() if count > 1}


def _without_nothing(path: Path, lists: Lists, warnings: list[str]) -> Lists:
    """Cells that programs write for nothing are no class."""
    empty = [row for row, parts in lists if len(parts) == 1 and fold(parts[0]) in NOTHING]
    if empty:
        word = next(parts[0] for row, parts in lists if row is empty[0])
        warnings.append(
            f"{path}: {len(empty)} cells such as {word!r} (line {empty[0].line}) are read as no label; name it in "
            "dataset.classes if it is a class"
        )
    lines = {row.line for row in empty}
    return [(row, [] if row.line in lines else parts) for row, parts in lists]


def _one_spelling(path: Path, lists: Lists, warnings: list[str]) -> list[list[str]]:
    """Names that differ in capitals, spaces or Unicode form only are one class, spelled as it is most often."""
    spellings: Mapping[str, Counter[str]] = defaultdict(Counter)
    for _, parts in lists:
        for part in parts:
            spellings[fold(part)][part] += 1
    several = {key: found for key, found in spellings.items() if len(found) > 1 and key != BACKGROUND}
    if any(len(key) == 1 for key in several):
        told = next(found for key, found in several.items() if len(key) == 1)
        raise RequestError(
            f"{path}: the classes {', '.join(map(repr, sorted(told)))} differ in capitals only, so they may be one or "
            "two; list all classes by dataset.classes"
        )
    if several:
        listed = "; ".join(", ".join(map(repr, found)) for found in several.values())
        warnings.append(f"{path}: names that differ only in how they are spelled are one class each ({listed})")
    chosen = {key: found.most_common(1)[0][0] for key, found in spellings.items()}
    return [[chosen[fold(part)] for part in parts] for _, parts in lists]
