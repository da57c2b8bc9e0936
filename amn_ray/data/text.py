"""The text files of data sets, in the encodings in which editors and spreadsheets save them.

    text = read_text(path, config.encoding, listing.warnings)

Without `dataset.encoding`: UTF-8, UTF-16 or UTF-32 by their byte order mark; UTF-16 without one by its zero bytes;
UTF-8 where the bytes are valid UTF-8 (ASCII is); else Windows-1252, of which Latin-1 is a part, if what comes out looks
like words, with a warning. Whatever the encoding, lines end with a line feed.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from pathlib import Path

from amn_ray.core.errors import RequestError

_MARKS = (  # the longer ones first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHERS = {b"PK\x03\x04": "an Excel or zip file", b"\xd0\xcf\x11\xe0": "an old Excel file", b"%PDF": "a PDF",
           b"\x1f\x8b": "a gzip file"}  # fmt: skip


def read_text(path: Path, encoding: str | None = None, warnings: list[str] | None = None) -> str:
    """The text of a file, its lines ended by a line feed and without a byte order mark.

    Args:
        path: of a text file.
        encoding: `dataset.encoding`, of which null looks for the right one.
        warnings: gets a sentence if the encoding is not certain.

    Raises:
        RequestError: the file cannot be read, is no text, or is not in this encoding.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror}); mend its permissions or the path") from error
    return decode_text(content, str(path), encoding, warnings)


def decode_text(content: bytes, where: str, encoding: str | None = None, warnings: list[str] | None = None) -> str:
    """The same of the content of a file; `where` names it in sentences."""
    for start, kind in _OTHERS.items():
        if content.startswith(start):
            raise RequestError(f"{where}: is {kind}, expected plain text; save it as text (CSV) in UTF-8")
    chosen = encoding or _marked(content) or _unmarked(content)
    try:
        text = content.decode(_without_mark(chosen, content))
    except UnicodeDecodeError as error:
        expected = f"dataset.encoding={encoding}" if encoding else "UTF-8"
        raise RequestError(
            f"{where}: is not in {expected} ({error.reason}); save it in UTF-8 or set dataset.encoding to its encoding"
        ) from error
    if chosen == _WESTERN and not encoding:
        _judge(text, where, [] if warnings is None else warnings)
    # Marks also stand within files that were put together.
    text = text.replace("\ufeff", "").replace("\u200b", "").replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise RequestError(
            f"{where}: line {line} holds a NUL byte, so the file is damaged or in another encoding; restore it, or set "
            "dataset.encoding (such as utf-16)"
        )
    return text


def same_name(text: str) -> str:
    """What is equal in names of files that differ by their Unicode form only (macOS decomposes ü, others do not)."""
    return unicodedata.normalize("NFC", text)


def check_encoding(encoding: str | None) -> None:
    """Refuse a name that is no encoding of text.

    Raises:
        ValueError: with the sentence, which begins with the key.
    """
    try:
        "a".encode(encoding or "utf-8")
    except LookupError as error:
        raise ValueError(f"encoding={encoding}: is not known; try utf-8, utf-16, cp1252 or latin-1") from error


_WESTERN = "cp1252"
_SHUFFLED = re.compile("[a-zß-ÿœšž][À-ÞŒŠŽŸ]|[A-Z][À-ÞŒŠŽŸ][a-zß-ÿœšž]")
"""Capitals beyond ASCII where no word has them."""


def _marked(content: bytes) -> str | None:
    return next((name for mark, name in _MARKS if content.startswith(mark)), None)


def _unmarked(content: bytes) -> str:
    """UTF-16 if every other byte of most characters is zero, as in Western text; UTF-8 if it is valid."""
    head = content[: 4096 // 2 * 2]
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if len(content) % 2 == 0 and max(even, odd) > len(head) / 8 and min(even, odd) * 8 <= max(even, odd):
        return "utf-16-le" if odd > even else "utf-16-be"
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return _WESTERN
    return "utf-8"


def _without_mark(name: str, content: bytes) -> str:
    """Python's name that takes a byte order mark away: utf-8 keeps it, and utf-16 assumes little-endian without one."""
    plain = codecs.lookup(name).name
    return "utf-8-sig" if plain == "utf-8" and content.startswith(codecs.BOM_UTF8) else name


def _judge(text: str, where: str, warnings: list[str]) -> None:
    """Refuse what Windows-1252 makes into no words of any language that is written in it; else say what was read."""
    strange = [word for word in re.findall(r"\S*[^\x00-\x7f]\S*", text) if not _western(word)]
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    number, line = next((n, line) for n, line in enumerate(lines, start=1) if not line.isascii())
    if strange:
        raise RequestError(
            f"{where}: line {number} is neither UTF-8 nor Western European text (Windows-1252 makes {strange[0]!r} of "
            "it); save it in UTF-8 or set dataset.encoding to its encoding"
        )
    warnings.append(
        f"{where}: is not UTF-8 and was read as Windows-1252 (line {number}: {line.strip()[:60]!r}); dataset.encoding "
        "names another one"
    )


def _western(word: str) -> bool:
    """Whether the signs beyond ASCII are letters among others, or the usual signs of Western text."""
    for part in re.findall(r"[^\W\d_]+|[^\x00-\x7f]", word):
        beyond = sum(not letter.isascii() for letter in part)
        if part.isalpha() and (beyond > max(1, len(part) * 2 // 3) or _SHUFFLED.search(part)):
            return False  # Cyrillic, Greek or Chinese bytes make words of accents and capitals
        if not part.isalpha() and part not in "€“”‘’„–—…°·§©®™²³µ½¼¾±×÷«»¡¿\xa0":
            return False
    return True
