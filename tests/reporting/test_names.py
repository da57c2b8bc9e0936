"""Names as people give them, in figures, tables and on the page."""

from __future__ import annotations

import csv
import html
import re
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from markdown_it import MarkdownIt
from matplotlib.text import Text
from PIL import Image

from amn_ray.core.console import console, log
from amn_ray.reporting import figures, results
from amn_ray.reporting.report import Section, Table, file_stem, page

NAMES = [
    "Bob's parts", 'a "quoted" name', "a,b", "US$ and $x$", "a|b", "#1", "猫", "汽车", "x" * 200, "_hidden", "<b>",
    "[red]", ":cat:", "a\\|b", "`a`", "*a* ~~b~~", "[a](b)", "![a](b)", "&lt;", "__a__", "C#",
    "=1+1", "고양이 ねこ", "Zoë",
]  # fmt: skip


def test_tables_hold_names_whole(tmp_path: Path) -> None:
    names = ["background", *NAMES, "two\nlines"]
    path = results.class_table(names, {"maps": [0.5] * len(names), "refined": [None] * len(names)}, tmp_path / "t.csv")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["class", "maps", "refined"], *([name, "0.500000", ""] for name in names)]


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All texts of the figures that are drawn from now on, as they were when they were written."""
    texts: list[str] = []
    draw = figures._draw

    def note(figure: plt.Figure, path: Path) -> set[str]:
        missing = draw(figure, path)
        texts.extend(text.get_text() for text in figure.findobj(Text) if text.get_visible())
        assert not any(text.get_parse_math() for text in figure.findobj(Text))
        return missing

    monkeypatch.setattr(figures, "_draw", note)
    return texts


def test_figures_show_names_as_they_are_and_long_ones_shortened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["background", *NAMES]
    texts = drawn(monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.confusion_heat_map(np.eye(len(names), dtype=int), names, "Confusion", tmp_path / "c.png")
        assert texts.count("猫") == 2, "a row and a column"
        figures.class_iou_bars(names, {"maps": [0.5] * len(names)}, tmp_path / "i.png")
        figures.settings_dots(
            {name: [(50, True)] for name in names}, "m", "How much is $x$ in US$?", tmp_path / "d.png"
        )
        samples = [({"a": name, "b": 10.0**-n, "c": n or None}, 50.0, True) for n, name in enumerate(names[:6])]
        figures.settings_scatter(samples, {"a": False, "b": True, "c": False}, "m", "q", tmp_path / "s.png")
    shown = {figures.short(name) for name in names}
    assert shown <= set(texts)
    assert {"How much is $x$ in US$?", "None"} <= set(texts)
    assert max(map(len, shown)) == figures.LABEL
    assert figures.short("refined.conf_fg=0.3 " + "x" * 99 + " seed=7").startswith("refined.conf_fg")
    assert figures.short("refined.conf_fg=0.3 " + "x" * 99 + " seed=7").endswith(" seed=7")
    assert capsys.readouterr().out == "", "all letters are there"
    assert all(np.asarray(Image.open(path)).std() > 0 for path in tmp_path.glob("*.png"))


def test_chinese_letters_are_drawn_and_differ(tmp_path: Path) -> None:
    """Letters that a font does not have are all the same box."""
    pictures = []
    for letter in "猫车ねこ고":
        figures.settings_dots({letter: [(50, True)]}, "m", "q", tmp_path / "d.png")
        pictures.append(np.asarray(Image.open(tmp_path / "d.png")).tobytes())
    assert len(set(pictures)) == 5


def test_letters_that_no_font_has_are_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "_fonts_with", lambda letters: [])
    for name in ("one", "two"):
        figures.settings_dots({"ไทย": [(50, True)]}, "m", "q", tmp_path / f"{name}.png")
    told = capsys.readouterr().out
    assert told.count("warning") == 1
    assert "no installed font has" in told


@pytest.fixture
def section() -> Section:
    rows = [(name, "1") for name in NAMES]
    return Section("Data set: #1 | 猫 #", ["Failed: a_b <i> $x$ $y$"], [Table("All", ("class", "a|b"), rows, "*note*")])


def test_a_reader_of_the_markdown_sees_names_as_they_are(section: Section, tmp_path: Path) -> None:
    text = page("report.md", [section], tmp_path)
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    shown = [token for token in tokens if token.type == "inline"]
    assert all(child.type in ("text", "text_special") for token in shown for child in token.children or ())
    cells = ["".join(child.content for child in token.children or ()) for token in shown]
    assert cells[:2] == ["amn-ray report", section.title]
    assert cells[2:5] == [section.text[0], "All", "class"]
    assert cells[5] == "a|b"
    assert cells[6::2] == [*NAMES, "*note*"]


def test_a_reader_of_the_html_sees_names_as_they_are(section: Section, tmp_path: Path) -> None:
    text = page("report.html", [section], tmp_path)
    cells = re.findall(r"<td>(.*?)</td><td>", text)
    assert [html.unescape(cell) for cell in cells] == NAMES
    assert not any("<" in cell for cell in cells)
    assert f'<h2 id="s1">{html.escape(section.title)}</h2>' in text
    assert '<meta charset="utf-8">' in text


def test_files_about_a_data_set_have_names_that_any_file_system_takes(tmp_path: Path) -> None:
    stems = {file_stem(name, "0123") for name in (*NAMES, "猫" * 200, "a/b", "..", "")}
    for stem in stems:
        (tmp_path / f"{stem}_best_threshold.png").touch()
    assert file_stem("a b", "1") != file_stem("a_b", "2"), "two data sets never share a figure"


def test_the_terminal_shows_names_as_they_are() -> None:
    for name in NAMES:
        with console.capture() as told:
            log("images", name)
        assert told.get() == f"{'images':>19}  {name}\n"
