"""Which edits of the code are noticed, and for whom."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from amn_ray.core import code
from amn_ray.core.code import code_of, other_code
from amn_ray.stages.amn.stage import AMN, AMN_MAPS
from amn_ray.stages.deeplabv2.stage import DEEPLAB, DEEPLAB_PREDICTIONS
from amn_ray.stages.irn.stage import IRN, WALK

STAGE = """
from typing import TYPE_CHECKING

from madeup.loss import loss

if TYPE_CHECKING:
    from madeup.types import Kind


def run():
    from madeup import late

    return loss(late.VALUE)
"""
LOSS = '''"""A loss."""

from . import parts


def loss(x):
    """Of x."""
    return parts.half(x)  # a comment
'''
FILES = {
    "__init__.py": '"""A package."""\n',
    "stage.py": STAGE,
    "loss.py": LOSS,
    "parts.py": "def half(x):\n    return x / 2\n",
    "late.py": "VALUE = 3\n",
    "types.py": "class Kind:\n    pass\n",
    "other.py": "def other():\n    return 1\n",
}
Edit = Callable[[str, str], list[str]]


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Edit]:
    """`edit(file, text)` -> the modules of `madeup.stage` that are others then."""
    folder = tmp_path / "madeup"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    recorded = fresh()

    def change(name: str, text: str) -> list[str]:
        (folder / name).write_text(text)
        fresh()
        return other_code(recorded, "madeup.stage")

    yield change
    for name in [name for name in sys.modules if name.partition(".")[0] == "madeup"]:
        del sys.modules[name]


def fresh() -> dict[str, str]:
    """As a new process finds it."""
    code.code_of.cache_clear()
    code._parsed.cache_clear()
    importlib.invalidate_caches()
    return dict(code_of("madeup.stage"))


def test_what_is_imported_directly_indirectly_relatively_or_within_a_function_counts(edit: Edit) -> None:
    assert set(fresh()) == {"madeup.stage", "madeup.loss", "madeup", "madeup.parts", "madeup.late"}


@pytest.mark.parametrize(
    ("name", "text", "changed"),
    [
        ("parts.py", "def half(x):\n    return x / 3\n", ["madeup.parts"]),
        ("late.py", "VALUE = 4\n", ["madeup.late"]),
        ("parts.py", '"""New words."""\n\n\ndef half(x):\n    """Half of it."""\n\n    return x / 2  # or so\n', []),
        ("other.py", "def other():\n    return 2\n", []),
        ("types.py", "class Kind:\n    size = 1\n", []),
    ],
    ids=["a formula", "an import within a function", "comments and docstrings", "a module nobody imports", "a type"],
)
def test_an_edit_is_told_for_those_that_use_it_alone(edit: Edit, name: str, text: str, changed: list[str]) -> None:
    assert edit(name, text) == changed


def test_a_module_that_is_new_or_gone_is_told(edit: Edit) -> None:
    assert edit("loss.py", "def loss(x):\n    return x / 2\n") == ["madeup.loss", "madeup.parts"]


def test_an_edit_of_ours_reaches_the_stages_that_use_it_and_no_other() -> None:
    amn, crf = code_of("amn_ray.stages.amn.stage"), code_of("amn_ray.stages.crf.stage")
    assert "amn_ray.stages.amn.model" in amn
    assert "amn_ray.stages.amn.model" not in crf
    assert "amn_ray.data.transforms" in amn
    assert not [name for name in amn if name.startswith(("amn_ray.recipe", "amn_ray.reporting", "amn_ray.tuning"))]
    assert not [name for name in amn if name.startswith("amn_ray.stages.irn")]


TWO = """
from madeup import late, parts
from madeup.loss import loss

FACTOR = 2


def train():
    return scaled(loss(1))


def scaled(x):
    return FACTOR * x


def predict():
    return parts.half(1)


if late.VALUE:
    from madeup import other
METHOD = (train, predict)
"""


@pytest.mark.parametrize(
    ("function", "used"),
    [("train", {"two", "loss", "parts"}), ("predict", {"two", "parts"}), ("METHOD", {"two", "loss", "parts"})],
)
def test_of_the_module_of_a_function_only_what_it_uses_counts(
    edit: Edit, tmp_path: Path, function: str, used: set[str]
) -> None:
    edit("two.py", TWO)
    assert {name.rpartition(".")[2] for name in code_of(f"madeup.two:{function}")} - {"madeup"} == used


@pytest.mark.parametrize(
    ("old", "new", "noticed"),
    [
        ("FACTOR = 2", "FACTOR = 3", True),
        ("FACTOR * x", "FACTOR + x", True),
        ("parts.half(1)", "parts.half(2)", False),
        ("METHOD = (train,", "METHOD = (predict,", False),
    ],
)
def test_an_edit_beside_a_function_is_told_if_the_function_uses_it(
    edit: Edit, old: str, new: str, noticed: bool
) -> None:
    edit("two.py", TWO)
    before = dict(code_of("madeup.two:train"))
    edit("two.py", TWO.replace(old, new))
    assert (other_code(before, "madeup.two:train") == ["madeup.two"]) == noticed


@pytest.mark.parametrize(
    ("text", "function"),
    [
        (TWO, "nothing_of_that_name"),
        (TWO + "\n\nif FACTOR:\n\n    def branch():\n        return loss(late.VALUE)\n", "branch"),
        (TWO.replace("return parts.half(1)", "from madeup import back\n\n    return back"), "predict"),
    ],
    ids=["a name that it does not define", "a function within a branch", "a module that imports it back"],
)
def test_of_a_module_all_counts_where_it_is_not_sure_that_less_does(edit: Edit, text: str, function: str) -> None:
    edit("back.py", "from madeup.two import train\n")
    edit("two.py", text)
    before = dict(code_of(f"madeup.two:{function}"))
    assert {"madeup.two", "madeup.loss"} <= before.keys()
    edit("two.py", text.replace("FACTOR = 2", "FACTOR = 3"))
    assert "madeup.two" in other_code(before, f"madeup.two:{function}")


def test_an_edit_of_a_loss_is_told_for_the_training_alone() -> None:
    for training, use, folder in (
        (AMN, AMN_MAPS, "amn"),
        (IRN, WALK, "irn"),
        (DEEPLAB, DEEPLAB_PREDICTIONS, "deeplabv2"),
    ):
        loss, network = (f"amn_ray.stages.{folder}.{name}" for name in ("loss", "model"))
        assert {loss, network} <= code_of(training.code).keys()
        assert network in code_of(use.code)
        assert loss not in code_of(use.code)
