"""Calling a function that may end its process: decoders in C do, for some files.

`python -m amn_ray.data.in_subprocess` is the process: a function and then items in, a result or an error of each out.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from amn_ray.core.errors import RunError


class Died(Exception):
    """The process died; the message says how."""


@contextmanager
def apart(function: Callable[[Any], Any]) -> Iterator[Callable[[Any], Any]]:
    """`function`, called in another process, which is started again after it has died.

    What is yielded raises what `function` raises, and Died.
    """
    process: subprocess.Popen[bytes] | None = None

    def call(item: Any) -> Any:
        nonlocal process
        process = process or _started(function)
        try:
            result, error = _answer(process, item)
        except _GONE as gone:
            reason, process = _ended(process), None
            raise Died(reason) from gone
        if error is not None:
            raise error
        return result

    try:
        yield call
    finally:
        if process is not None:
            _ended(process)


_GONE = (EOFError, BrokenPipeError, pickle.UnpicklingError)
"""What a pipe to a process raises that is no longer there."""


def _started(function: Callable[[Any], Any]) -> subprocess.Popen[bytes]:
    # Not multiprocessing, whose processes import the main module (on a worker, Ray's) before they do anything.
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        _answer(process, function)
    except _GONE as gone:
        raise RunError(f"a process to read images in did not start ({_ended(process)})") from gone
    return process


def _answer(process: subprocess.Popen[bytes], item: Any) -> Any:
    assert process.stdin
    assert process.stdout
    process.stdin.write(pickle.dumps(item))
    process.stdin.flush()
    return pickle.load(process.stdout)


def _ended(process: subprocess.Popen[bytes]) -> str:
    """How it ended; with its input closed it has nothing left to do."""
    with suppress(BrokenPipeError), process:
        pass
    return _reason(process.wait())


def _reason(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer

    def tell(answer: object) -> None:
        answers.write(pickle.dumps(answer))
        answers.flush()

    function = pickle.load(sys.stdin.buffer)
    tell("ready")
    with suppress(EOFError):
        while True:
            item = pickle.load(sys.stdin.buffer)
            try:
                result, error = function(item), None
            except Exception as raised:
                result, error = None, raised
            tell((result, error))


if __name__ == "__main__":
    _serve()
