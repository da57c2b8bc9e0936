"""What every job does around its work: one sentence instead of a traceback, and exit codes that mean something."""

from __future__ import annotations

import difflib
import getpass
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import hydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from amn_ray.cli.overrides import as_meant, plugins_of, with_recorded
from amn_ray.cli.schemas import PLANS, register, schemas
from amn_ray.core import plugins
from amn_ray.core.errors import RequestError, RunError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

FULL_ERROR = "HYDRA_FULL_ERROR"
TRACEBACK = "AMN_TRACEBACK"
ENDED_BY = {signal.SIGTERM: "terminated", signal.SIGHUP: "the terminal was closed"}


def run(job: str, main: Callable[[], None]) -> None:
    """Call the Hydra main of a job (see schemas.ROOTS) and exit: 0, 1 for a failed run, 2 for a bad request.

    Hydra would report errors of the composition by itself, always with code 1; HYDRA_FULL_ERROR=1 stops it from that,
    so the user's own wish for a traceback is kept in another variable.
    """
    _use_utf8()
    _prepare_streams()
    _prepare_user()
    for number in ENDED_BY:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, _terminate)
    os.environ[TRACEBACK] = os.environ.get(FULL_ERROR, "0")
    os.environ[FULL_ERROR] = "1"
    try:
        with plain_errors(job):
            sys.argv[1:] = with_recorded(sys.argv[1:]) if job in PLANS else sys.argv[1:]
            plugins.load(plugins_of(sys.argv[1:]), where=[str(Path.cwd())])
            register(job)
            sys.argv[1:] = as_meant(job, sys.argv[1:])
            main()
    finally:
        os.environ[FULL_ERROR] = os.environ[TRACEBACK]


@contextmanager
def plain_errors(job: str) -> Iterator[None]:
    """End the process with one sentence and the error's exit code; with a traceback only if HYDRA_FULL_ERROR=1.

    Jobs use it around their work too: Hydra adds a line of its own to any exception that passes through it.
    """
    try:
        yield
    except (RequestError, RunError) as error:
        _leave(error.exit_code, str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _leave(RequestError.exit_code, _sentence(job, error))
    except KeyboardInterrupt:
        _leave(128 + signal.SIGINT, "interrupted; the same command goes on from here")
    except SystemExit as stop:
        if not _signals or stop.code == 128 + _signals[0]:
            raise
        number = _signals[0]
        _leave(128 + number, f"{ENDED_BY[number]}; the same command goes on from here")
    except Exception as error:
        told = _FULL.search(str(error))
        if told is None:
            raise
        _leave(
            RunError.exit_code,
            f"{told[0]}: free some where store= and out= are, and where Ray keeps its files (RAY_TMPDIR, else /tmp); "
            "the same command goes on from here",
        )


_FULL = re.compile(r"No space left on device|Disk quota exceeded|database or disk is full|Read-only file system")
"""In errors of the system, of SQLite, and in what Ray tells of them."""


_signals: list[signal.Signals] = []
"""Those that came: where one interrupts Ray, the exception that Ray makes of it does not tell."""


def _terminate(number: int, frame: object) -> NoReturn:
    _signals.append(signal.Signals(number))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the shell and the kernel both send it; the end takes a moment
    sys.exit(number)


def _prepare_streams() -> None:
    """No letter that a terminal lacks, and no terminal or reader that has gone, ends a job or hides its exit code."""
    for number in range(3):  # else the next file that is opened becomes the standard output
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            setattr(
                sys,
                name,
                io.TextIOWrapper(
                    io.BufferedWriter(_Lasting(stream.fileno(), "w", closefd=False)),
                    encoding=stream.encoding,
                    errors="replace",
                    line_buffering=True,  # what workers told is out when this process is killed
                ),
            )
    if "PYTHONIOENCODING" in os.environ:  # workers print, too
        os.environ["PYTHONIOENCODING"] = f"{os.environ['PYTHONIOENCODING'].partition(':')[0]}:replace"


class _Lasting(io.FileIO):
    """A stream whose reader may go: `… | head`, or a terminal that is closed while SIGHUP is ignored."""

    def write(self, content: ReadableBuffer) -> int:
        """Drops what cannot be written."""
        try:
            return super().write(content)
        except OSError:
            return len(memoryview(content).cast("B"))


def _prepare_user() -> None:
    """Containers run as users that /etc/passwd does not name, but libraries ask for a home when they are imported."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"  # as Docker has it; nothing is written there
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = str(os.getuid())


def _use_utf8() -> None:
    """File names are UTF-8 for this process and all that it starts: Python begins again in its UTF-8 mode.

    PyArrow takes all names for UTF-8, Python takes them for what the locale says: one store would be two folders.
    """
    if sys.getfilesystemencoding() != "utf-8":
        encoding = getattr(sys.stdout, "encoding", "utf-8")
        os.environ |= {"PYTHONUTF8": "1", "PYTHONIOENCODING": f"{encoding}:replace"}
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def compose(job: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration of a job as if `overrides` were its command line; to be called within a Hydra main.

    Raises:
        RequestError: there is no such configuration.
    """
    try:
        return hydra.compose(job, list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise RequestError(_sentence(job, error)) from error


def _leave(code: int, sentence: str) -> NoReturn:
    console = Console(stderr=True, soft_wrap=True, emoji=False)
    if os.environ.get(TRACEBACK) == "1":
        console.print_exception()
    console.print("error:", style="bold red", end=" ")
    console.print(sentence, markup=False, highlight=False)
    sys.exit(code)


def _sentence(job: str, error: BaseException) -> str:
    """What Hydra and OmegaConf tell in several lines and exceptions, in one."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, MissingConfigException) and cause.options and cause.missing_cfg_file:
        group, _, name = cause.missing_cfg_file.rpartition("/")
        near = difflib.get_close_matches(name, cause.options, n=1)
        hint = f", did you mean {near[0]}" if near else ""
        return f"{group}={name}: must be one of {', '.join(cause.options)}{hint}"
    key = getattr(cause, "full_key", None) or getattr(cause, "key", None)
    text = str(cause).splitlines()[0]
    if key and ("not in" in text or "not in struct" in text):
        return f"unknown configuration key {key}{_nearest(job, str(key))}; `--help` shows all keys"
    if key:
        return f"{key}: {text}"
    return " ".join(line.strip() for line in str(cause).splitlines() if line.strip())


def _nearest(job: str, key: str) -> str:
    keys = [f"{prefix}{name}" for prefix, schema in schemas(job) for name in _keys(schema)]
    matches = difflib.get_close_matches(key, keys, n=1)
    return f", did you mean {matches[0]}" if matches else ""


def _keys(schema: type) -> Iterable[str]:
    def walk(node: object, prefix: str) -> Iterable[str]:
        if isinstance(node, dict):
            for name, child in node.items():
                yield f"{prefix}{name}"
                yield from walk(child, f"{prefix}{name}.")

    yield from walk(OmegaConf.to_container(OmegaConf.structured(schema)), "")
