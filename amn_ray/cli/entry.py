"""What every job does around its work: one-sentence errors instead of tracebacks, and meaningful exit codes."""

from __future__ import annotations

import dataclasses
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

from amn_ray.cli.overrides import as_meant, plugins_of, with_choices, with_recorded
from amn_ray.cli.schemas import PLANS, register, schemas
from amn_ray.core import plugins
from amn_ray.core.errors import RequestError, RunError
from amn_ray.stages import methods

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

FULL_ERROR = "HYDRA_FULL_ERROR"
TRACEBACK = "AMN_TRACEBACK"
ENDED_BY = {signal.SIGTERM: "terminated", signal.SIGHUP: "the terminal was closed"}


def run(job: str, main: Callable[[], None]) -> None:
    """Call the Hydra main of a job (see schemas.ROOTS) and exit: 0, 1 for a failed run, 2 for a bad request.

    Hydra would report composition errors itself, always with code 1; HYDRA_FULL_ERROR=1 prevents that, so the user's
    own value is kept in another variable.
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
        _exit(error.exit_code, str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _exit(RequestError.exit_code, _one_line(job, error))
    except KeyboardInterrupt:
        _exit(128 + signal.SIGINT, "interrupted; run the same command again to resume")
    except SystemExit as stop:
        if not _signals or stop.code == 128 + _signals[0]:
            raise
        number = _signals[0]
        _exit(128 + number, f"{ENDED_BY[number]}; run the same command again to resume")
    except Exception as error:
        disk_full = _DISK_FULL.search(str(error))
        if disk_full is None:
            raise
        _exit(
            RunError.exit_code,
            f"{disk_full[0]}: free some in store=, in out= and where Ray keeps its files (RAY_TMPDIR, else /tmp); "
            "run the same command again to resume",
        )


_DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded|database or disk is full|Read-only file system")
"""Disk errors of the system and of SQLite, also as quoted by Ray."""


_signals: list[signal.Signals] = []
"""Those received: if one interrupts Ray, Ray's exception does not say which."""


def _terminate(number: int, frame: object) -> NoReturn:
    _signals.append(signal.Signals(number))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the shell and the kernel both send it; exiting takes a moment
    sys.exit(number)


def _prepare_streams() -> None:
    """Keep unencodable characters and closed terminals or pipes from ending a job or hiding its exit code."""
    for number in range(3):  # otherwise the next file opened becomes the standard output
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
                    line_buffering=True,  # workers' output survives if this process is killed
                ),
            )
    if "PYTHONIOENCODING" in os.environ:  # workers print, too
        os.environ["PYTHONIOENCODING"] = f"{os.environ['PYTHONIOENCODING'].partition(':')[0]}:replace"


class _Lasting(io.FileIO):
    """A stream whose reader may disappear: `… | head`, or a terminal that is closed while SIGHUP is ignored."""

    def write(self, content: ReadableBuffer) -> int:
        """Drops what cannot be written."""
        try:
            return super().write(content)
        except OSError:
            return len(memoryview(content).cast("B"))


def _prepare_user() -> None:
    """Containers may run as users missing from /etc/passwd, but libraries look up a home directory on import."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"  # Docker's default; nothing is written there
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = str(os.getuid())


def _use_utf8() -> None:
    """Restart Python in UTF-8 mode if file names are not UTF-8, also for child processes.

    PyArrow assumes UTF-8 names, Python the locale's encoding: one store would become two folders.
    """
    if sys.getfilesystemencoding() != "utf-8":
        encoding = getattr(sys.stdout, "encoding", "utf-8")
        os.environ |= {"PYTHONUTF8": "1", "PYTHONIOENCODING": f"{encoding}:replace"}
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def compose(job: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration of a job as if `overrides` were its command line; call it within a Hydra main.

    Raises:
        RequestError: there is no such configuration.
    """
    try:
        return hydra.compose(job, with_choices(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise RequestError(_one_line(job, error)) from error


def _exit(code: int, sentence: str) -> NoReturn:
    console = Console(stderr=True, soft_wrap=True, emoji=False)
    if os.environ.get(TRACEBACK) == "1":
        console.print_exception()
    console.print("error:", style="bold red", end=" ")
    console.print(sentence, markup=False, highlight=False)
    sys.exit(code)


def _one_line(job: str, error: BaseException) -> str:
    """A multi-line, chained error of Hydra or OmegaConf as one line."""
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
        if choices := _choices_with(str(key)):
            return f"{key}: belongs to {' or '.join(choices)}, which is not chosen"
        return f"unknown configuration key {key}{_nearest(job, str(key))}; `--help` shows all keys"
    if key:
        return f"{key}: {text}"
    return " ".join(line.strip() for line in str(cause).splitlines() if line.strip())


def _choices_with(key: str) -> list[str]:
    """The methods that have a setting of this name; if one of them were chosen, the key would be known."""
    step, _, name = key.partition(".")
    return [
        f"{method.group}={method.name}"
        for method in methods.all_methods()
        if step in method.stages and name in {item.name for item in dataclasses.fields(method.stages[step].config)}
    ]


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
