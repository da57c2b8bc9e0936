"""Text files in the encodings that editors and spreadsheets write."""

from __future__ import annotations

from pathlib import Path

import pytest

from amn_ray.core.errors import RequestError
from amn_ray.data.text import decode_text, read_text

TEXT = "image,labels\nw.png,Würfel\nx.png,Größe\ny.png,été\nz.png,Öl\n"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252"]
)
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_text_in_a_usual_encoding_is_read_whatever_ends_its_lines(encoding: str, ending: str) -> None:
    assert decode_text(TEXT.replace("\n", ending).encode(encoding), "labels.csv") == TEXT


def test_only_a_guess_is_told(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    for encoding, told in (("utf-8", 0), ("utf-16", 0), ("latin-1", 1)):
        path.write_bytes(TEXT.encode(encoding))
        warnings: list[str] = []
        assert read_text(path, None, warnings) == TEXT
        assert len(warnings) == told
    assert "line 2: 'w.png,Würfel'" in warnings[0]
    assert "dataset.encoding" in warnings[0]
    assert read_text(path, "latin-1", unsure := []) == TEXT
    assert not unsure


@pytest.mark.parametrize(
    ("word", "encoding"),
    [("кот", "cp1251"), ("кот", "koi8-r"), ("猫犬", "shift-jis"), ("猫狗", "gbk"), ("고양이", "euc-kr"),
     ("żółw", "cp1250"), ("γάτα", "cp1253"), ("Würfel", "cp850"), ("Würfel", "mac-roman")],
)  # fmt: skip
def test_other_encodings_are_asked_for_and_read_when_they_are_named(word: str, encoding: str) -> None:
    content = f"image,labels\n1.png,{word}\n".encode(encoding)
    with pytest.raises(RequestError, match=r"labels.csv: .*UTF-8.*dataset.encoding"):
        decode_text(content, "labels.csv")
    assert word in decode_text(content, "labels.csv", encoding)


def test_what_is_no_text_is_named(tmp_path: Path) -> None:
    for content, sentence in (
        (b"PK\x03\x04 and more", "is an Excel or zip file"),
        (b"image,labels\n1.png,c\0at\n", "line 2 holds a NUL byte"),
    ):
        with pytest.raises(RequestError, match=sentence):
            decode_text(content, "labels.csv")
    with pytest.raises(RequestError, match="cannot be read"):
        read_text(tmp_path / "gone.csv")
    with pytest.raises(RequestError, match=r"is not in dataset.encoding=utf-8"):
        decode_text("ü".encode("latin-1"), "labels.csv", "utf-8")
