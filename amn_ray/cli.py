"""What every job does around its work: one sentence instead of a traceback, and exit codes that mean something."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterable

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from amn_ray.config import PipelineConfig, register
from amn_ray.errors import RequestError, RunError


def run(main: Callable[[], None]) -> None:
    """Call a Hydra main and exit: 0, 1 for a failed run, 2 for a bad request (no traceback in either case).

    HYDRA_FULL_ERROR=1 brings the traceback back.
    """
    full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints and exits by itself, always with 1
    register()
    try:
        main()
    except (RequestError, RunError) as error:
        _leave(error, error.exit_code, full)
    except (HydraException, OmegaConfBaseException) as error:
        _leave(error, RequestError.exit_code, full, _sentence(error))
    except KeyboardInterrupt as error:
        _leave(error, 130, full, "interrupted; the same command goes on from here")


def _leave(error: BaseException, code: int, full: bool, sentence: str | None = None) -> None:
    if full:
        raise error
    console = Console(stderr=True, soft_wrap=True)
    console.print("error:", style="bold red", end=" ")
    console.print(sentence or str(error), markup=False, highlight=False)
    sys.stdout.flush()
    sys.exit(code)


def _sentence(error: BaseException) -> str:
    """What Hydra and OmegaConf tell in several lines and exceptions, in one."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    key = getattr(cause, "full_key", None) or getattr(cause, "key", None)
    text = str(cause).splitlines()[0]
    if key and ("not in" in text or "not in struct" in text):
        return f"unknown configuration key {key}{_nearest(str(key))}; `--help` shows all keys"
    if key:
        return f"{key}: {text}"
    return " ".join(line.strip() for line in str(cause).splitlines() if line.strip())


def _nearest(key: str) -> str:
    matches = difflib.get_close_matches(key, list(_keys(PipelineConfig)), n=1)
    return f", did you mean {matches[0]}" if matches else ""


def _keys(schema: type) -> Iterable[str]:
    def walk(node: object, prefix: str) -> Iterable[str]:
        if isinstance(node, dict):
            for name, child in node.items():
                yield f"{prefix}{name}"
                yield from walk(child, f"{prefix}{name}.")

    yield from walk(OmegaConf.to_container(OmegaConf.structured(schema)), "")
