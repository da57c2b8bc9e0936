"""The text files of VOC's layout, as VOC and others' tools write them: lists of images, annotations, class names."""

from __future__ import annotations

import codecs
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from amn_ray.core.errors import RequestError
from amn_ray.data.class_names import is_background
from amn_ray.data.named_files import NamedFiles, without_ending
from amn_ray.data.source import IGNORE
from amn_ray.data.text import decode_text, read_text, same_name

CLASS_FILES = ("class_names.txt", "labelmap.txt", "labels.txt", "classes.txt")
"""Where labelme, CVAT and others write the class names, in the order of the masks' values."""
_UNDEFINED = {"__ignore__", "ignore", "void"}
_FLAGGED = re.compile(r"(.*\S)\s+([+-]?[01])")
"""A line of ImageSets/Main: 1 if the class is in the image, -1 if it is not, 0 if it is hard to see."""
_MAP_LINE = re.compile(r"(.+?):\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*:.*")
"""A line of CVAT's labelmap.txt: name:r,g,b:parts:actions."""
_DECLARED = re.compile(rb"""\s*<\?xml[^>]*encoding\s*=\s*["']([\w.:-]+)""")


@dataclass(frozen=True)
class Listed:
    """An image as a list names it."""

    image_id: str
    image: Path
    line: int
    """Where it stands, from 1."""


@dataclass(frozen=True)
class ClassFile:
    """A file of CLASS_FILES."""

    path: Path
    names: list[str]
    """Of the masks' values 1…N."""
    palette: dict[str, list[int]]
    """The colours that it gives to them and to the background (labelmap.txt); empty if it gives none."""


def read_list(path: Path, images: NamedFiles, encoding: str | None, warnings: list[str]) -> list[Listed]:
    """The images that a list names.

    Args:
        path: a text file with one image a line: its id, its file name, or the paths of image and mask (SBD).
        images: those that can be named.
        encoding: see text.py.
        warnings: get a sentence for what was passed over.

    Raises:
        RequestError: a line names no image, or one that another line has named.
    """
    lines = list(_lines(path, encoding, warnings))
    lines = [(number, line) for number, line in lines if not line.startswith("#") or images.find(line)]
    if lines and all(_FLAGGED.fullmatch(line) and not images.find(line) for _, line in lines):
        lines = _present(path, lines, warnings)
    found: dict[str, Listed] = {}
    missing = []
    for number, line in lines:
        listed = _image(number, line, images)
        if listed is None:
            missing.append((number, line))
        elif listed.image_id in found:
            raise RequestError(
                f"{path}: the image {listed.image_id!r} occurs more than once, in the lines "
                f"{found[listed.image_id].line} and {number}; remove one of them"
            )
        else:
            found[listed.image_id] = listed
    if missing:
        number, line = missing[0]
        more = f" (like those of {len(missing) - 1} other lines)" if len(missing) > 1 else ""
        name = without_ending(line.replace("\\", "/").rpartition("/")[2])
        raise RequestError(
            f"{path}: line {number} names {line!r}, but {images.folder / name}.jpg, or with another ending of images, "
            f"does not exist{more}; add the file or remove the line (expected one id or file name a line)"
        )
    return list(found.values())


def object_names(path: Path, encoding: str | None, warnings: list[str]) -> list[str]:
    """The class names of all objects in an annotation; parts of objects (VOC: head, hand, foot) do not count.

    Raises:
        RequestError: it is no XML, or an object has no name.
    """
    names = []
    for element in _parsed(path, encoding, warnings).iter():
        if _tag(element) == "object":
            name = next((" ".join((child.text or "").split()) for child in element if _tag(child) == "name"), "")
            if not name:
                raise RequestError(f"{path}: an <object> has no <name>; name its class or remove it")
            names.append(same_name(name))
    return names


def read_class_file(root: Path, encoding: str | None) -> ClassFile | None:
    """The file that names the classes in the order of the masks' values; None without one.

    Raises:
        RequestError: two of them contradict each other, one names no class or one twice, or the background is not the
            first.
    """
    found = [_classes(root / name, encoding) for name in CLASS_FILES if (root / name).is_file()]
    for other in found:
        if other.names != found[0].names:
            raise RequestError(
                f"{other.path}: says that the classes are {', '.join(other.names)}, but {found[0].path.name} says "
                f"{', '.join(found[0].names)}; remove the one that is not the order of the masks' values"
            )
    return found[0] if found else None


def _lines(path: Path, encoding: str | None, warnings: list[str]) -> Iterator[tuple[int, str]]:
    text = read_text(path, encoding, warnings)
    yield from ((number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip())


def _present(path: Path, lines: Sequence[tuple[int, str]], warnings: list[str]) -> list[tuple[int, str]]:
    """The lines of a list of one class (ImageSets/Main) whose images show it, without their flags."""
    flagged = [(number, match[1], match[2]) for number, line in lines if (match := _FLAGGED.fullmatch(line))]
    flags = {int(flag) for _, _, flag in flagged}
    if flags == {0} or flags == {0, 1}:
        raise RequestError(
            f"{path}: line {flagged[0][0]} ends with {flagged[0][2]}, which no list of images has (those of "
            "ImageSets/Main end with 1 or -1); write one id a line and nothing else"
        )
    left_out = sum(flag == "-1" for _, _, flag in flagged)
    if left_out:
        warnings.append(f"{path}: is a list of one class; {left_out} images that do not show it (-1) are left out")
    return [(number, name) for number, name, flag in flagged if flag != "-1"]


def _image(number: int, line: str, images: NamedFiles) -> Listed | None:
    """The image of a line: all of it is a name, or what stands before the path of a mask."""
    cuts = [match.start() for match in re.finditer(r"[\s,;]+", line)]
    for cut in (len(line), *reversed(cuts)):
        rest = line[cut:].strip(" \t,;")
        if rest and "/" not in rest and "\\" not in rest and without_ending(rest) == rest:
            continue  # more of a name, and no path
        spellings = (line[:cut], without_ending(line[:cut]))  # as the file's ending may be another
        for moved, name in product((False, True), spellings):
            if image := images.find(name, moved=moved):
                return Listed(images.name_of(image), image, number)
    return None


def _parsed(path: Path, encoding: str | None, warnings: list[str]) -> ET.Element:
    """The root of an XML file."""
    try:
        content = path.read_bytes()
        # Of text, the parser ignores what encoding the file says it is in.
        return ET.fromstring(decode_text(content, str(path), _encoding(content, encoding), warnings).strip())
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror}); mend its permissions") from error
    except ET.ParseError as error:
        raise RequestError(f"{path}: is not valid XML ({error}); restore the file") from error


def _encoding(content: bytes, otherwise: str | None) -> str | None:
    """How to decode an XML file, whose declaration may lie; None: text.py finds it out.

    Bytes that are valid UTF-8, or have a byte order mark, tell it themselves.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return None
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        declared = _DECLARED.match(content)
        name = otherwise or (declared and declared[1].decode()) or "utf-8"
        try:
            content.decode(name)
            return None if codecs.lookup(name).name.startswith("utf") else name
        except (LookupError, UnicodeDecodeError):
            return None
    return None


def _tag(element: ET.Element) -> str:
    """The name of an element, in lower case and without its namespace."""
    return str(element.tag).rpartition("}")[2].lower()


def _classes(path: Path, encoding: str | None) -> ClassFile:
    names: list[str] = []
    palette: dict[str, list[int]] = {}
    for number, line in _lines(path, encoding, []):
        if line.startswith("#"):
            continue
        match = _MAP_LINE.fullmatch(line)
        name = same_name(match[1].strip() if match else line)
        if is_background(name):
            if names:
                raise RequestError(
                    f"{path}: line {number} is the background, which the value 0 stands for, but {names[0]!r} comes "
                    "before it; make it the first line"
                )
            name = "background"
        elif name.lower() in _UNDEFINED:
            name = "undefined"
        elif name in names:
            raise RequestError(f"{path}: line {number} names the class {name!r} a second time; remove it")
        else:
            names.append(name)
        if match:
            palette[name] = [int(value) for value in match.groups()[1:]]
    if not 1 <= len(names) < IGNORE:
        raise RequestError(f"{path}: names {len(names)} classes, expected 1 to {IGNORE - 1}; correct or remove it")
    return ClassFile(path, names, palette)
