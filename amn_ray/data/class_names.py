"""What counts as one class name, however it is spelled, and as the background's."""

from __future__ import annotations

import re
import unicodedata

from amn_ray.data.text import same_name

QUOTES = "\"'“”‘’`"
BACKGROUND = "background"


def plain(name: str) -> str:
    """A class name without spaces and quotes around, in one Unicode form."""
    name = re.sub(r"\s+", " ", same_name(name)).strip()
    while len(name) > 1 and name[0] in QUOTES and name[-1] in QUOTES:
        name = name[1:-1].strip()
    if sum(name.count(quote) for quote in QUOTES) == 1 and not re.search(r"\d\W$", name):  # but for inches
        name = name.strip(QUOTES)
    return name


def fold(name: str) -> str:
    """What is equal in spellings of one name."""
    visible = "".join(sign for sign in name if unicodedata.category(sign) != "Cf")  # marks of direction, soft hyphens
    return re.sub(r"[\s_]+|(?<=\w)-(?=\w)", " ", plain(visible)).casefold().strip()


def is_background(name: str) -> bool:
    """Whether a name is that of label 0."""
    return fold(name) == BACKGROUND


def squeezed(name: str) -> str:
    """The same, also where words are written together: `Dining Table`, `dining_table`, `diningtable`."""
    return re.sub(r"[\s_-]", "", name).casefold()
