"""What every job does around its work: one sentence instead of a traceback, and exit codes that mean something."""

from __future__ import annotations

import difflib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from amn_ray.config import SCHEMAS, register
from amn_ray.errors import RequestError, RunError

FULL_ERROR = "HYDRA_FULL_ERROR"
TRACEBACK = "AMN_TRACEBACK"
TERMINATED = 128 + signal.SIGTERM


def run(main: Callable[[], None]) -> None:
    """Call a Hydra main and exit: 0, 1 for a failed run, 2 for a bad request.

    Hydra would report errors of the composition by itself, always with code 1; HYDRA_FULL_ERROR=1 stops it from that,
    so the user's own wish for a traceback is kept in another variable.
    """
    register()
    signal.signal(signal.SIGTERM, _terminate)
    os.environ[TRACEBACK] = os.environ.get(FULL_ERROR, "0")
    os.environ[FULL_ERROR] = "1"
    try:
        with plain_errors():
            main()
    finally:
        os.environ[FULL_ERROR] = os.environ[TRACEBACK]


@contextmanager
def plain_errors() -> Iterator[None]:
    """End the process with one sentence and the error's exit code; with a traceback only if HYDRA_FULL_ERROR=1.

    Jobs use it around their work too: Hydra adds a line of its own to any exception that passes through it.
    """
    try:
        yield
    except (RequestError, RunError) as error:
        _leave(error.exit_code, str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _leave(RequestError.exit_code, _sentence(error))
    except KeyboardInterrupt:
        _leave(128 + signal.SIGINT, "interrupted; the same command goes on from here")
    except SystemExit as stop:
        if not _terminated.is_set() or stop.code == TERMINATED:
            raise
        _leave(TERMINATED, "terminated; the same command goes on from here")


_terminated = threading.Event()
"""Whether SIGTERM came: where it interrupts Ray, the exception that Ray makes of it does not tell."""


def _terminate(number: int, frame: object) -> NoReturn:
    _terminated.set()
    sys.exit(number)


def compose(job: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration of a job as if `overrides` were its command line; to be called within a Hydra main.

    Raises:
        RequestError: there is no such configuration.
    """
    try:
        return hydra.compose(job, list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise RequestError(_sentence(error)) from error


def _leave(code: int, sentence: str) -> NoReturn:
    console = Console(stderr=True, soft_wrap=True)
    if os.environ.get(TRACEBACK) == "1":
        console.print_exception()
    console.print("error:", style="bold red", end=" ")
    console.print(sentence, markup=False, highlight=False)
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
    keys = [name for schema in SCHEMAS.values() for name in _keys(schema)]
    matches = difflib.get_close_matches(key, keys, n=1)
    return f", did you mean {matches[0]}" if matches else ""


def _keys(schema: type) -> Iterable[str]:
    def walk(node: object, prefix: str) -> Iterable[str]:
        if isinstance(node, dict):
            for name, child in node.items():
                yield f"{prefix}{name}"
                yield from walk(child, f"{prefix}{name}.")

    yield from walk(OmegaConf.to_container(OmegaConf.structured(schema)), "")
