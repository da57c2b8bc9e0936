"""The log on the terminal."""

from __future__ import annotations

from rich.console import Console

console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
"""Prints names literally, also with [brackets] and :colons:."""


def log(step: str, text: str) -> None:
    """Log one line."""
    console.print(f"{step:>19}  {text}")


def time_left(seconds: float) -> str:
    """`about 40 s`, `about 12 min`, `about 3.5 h`."""
    if seconds < 100:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 100 * 60 else f"about {seconds / 3600:.1f} h"
