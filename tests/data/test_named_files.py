"""Which file a name means: the closest spelling counts, and several that are equally close are told."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest

from amn_ray.core.errors import RequestError
from amn_ray.data.named_files import NamedFiles, image_ids

NFC, NFD = (unicodedata.normalize(form, "Mühle") for form in ("NFC", "NFD"))


def files(root: Path, *names: str) -> NamedFiles:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return NamedFiles(root)


@pytest.mark.parametrize(
    ("there", "name", "meant"),
    [
        (["a.jpg", "A.jpg"], "a.jpg", ["a.jpg"]),
        (["a.jpg", "A.png"], "a", ["a.jpg"]),
        (["a.jpg"], "A", ["a.jpg"]),
        (["a.jpg"], "a.png", []),
        (["a.jpg", "a.png"], "a", ["a.jpg", "a.png"]),
        (["a.jpg", "a.png"], "A.PNG", ["a.png"]),
        (["a.txt"], "a", []),
        (["IMG.2021.01.jpg"], "IMG.2021.01", ["IMG.2021.01.jpg"]),
        (["IMG.2021.01.jpg"], "IMG.2021", []),
        ([f"{NFD}.png"], NFC, [f"{NFD}.png"]),
        ([f"{NFD}.png", f"{NFC}.png"], f"{NFD}.png", [f"{NFD}.png"]),
        ([os.fsdecode(b"f\xfcr.png")], "für.png", [os.fsdecode(b"f\xfcr.png")]),
        (["x/a.jpg", "y/a.jpg"], "y/a.jpg", ["y/a.jpg"]),
        (["x/a.jpg"], "a.jpg", []),
        ([".a.jpg", ".cache/a.jpg", "__MACOSX/a.jpg", "Thumbs.db"], "a", []),
        (["a.jpg"], "\ud800", []),
    ],
)
def test_a_name_means_the_files_of_the_closest_spelling(
    tmp_path: Path, there: Sequence[str], name: str, meant: Sequence[str]
) -> None:
    assert files(tmp_path, *there).matches(name) == meant


@pytest.mark.parametrize(
    "path", ["x/a.jpg", "./x/a", r"X\A.JPG", r"C:\set\x\a.jpg", "/home/me/set/x/a.jpg", "../set/x/a.jpg"]
)
def test_a_path_may_begin_elsewhere(tmp_path: Path, path: str) -> None:
    found = files(tmp_path, "x/a.jpg", "y/a.jpg", "b.jpg")
    assert found.find(path, moved=True) == tmp_path / "x/a.jpg"
    assert found.matches("old/a.jpg", moved=True) == []
    assert found.matches_anywhere("old/a.jpg") == ["x/a.jpg", "y/a.jpg"]


def test_a_name_of_two_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"holds 'a\.jpg' and 'a\.png', either of which could be 'a'"):
        files(tmp_path, "a.jpg", "a.png").find("a")


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["x/a.jpg", "y/b.c.JPG", "n.0001"], ["a", "b.c", "n.0001"]),
        (["x/a.jpg", "y/a.jpg"], ["x/a", "y/a"]),
        (["x/a.jpg", "x/a.png", "b.png"], ["x/a.jpg", "x/a.png", "b.png"]),
        (["/top/a.jpg", "../a.jpg"], ["top/a", "a"]),
        ([f"{NFD}.png", os.fsdecode(b"f\xfcr.png")], [NFC, "für"]),
    ],
)
def test_ids_are_as_short_as_they_differ(names: Sequence[str], ids: Sequence[str]) -> None:
    assert list(image_ids(names).values()) == ids
