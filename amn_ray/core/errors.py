"""The two kinds of errors that end a job, with their exit codes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager


class RequestError(Exception):
    """The user asked for something that cannot be done (exit code 2).

    The message is one sentence: the file or key, what was found, what was expected, what to do.
    """

    exit_code = 2


class RunError(Exception):
    """The request was fine, but the run failed (exit code 1)."""

    exit_code = 1


_IN_MESSAGE = re.compile(rf"^\s*{re.escape(__name__)}\.(RequestError|RunError): (.+)$", re.MULTILINE)


@contextmanager
def unwrap_worker_errors() -> Iterator[None]:
    """Re-raise a RequestError or RunError from a worker with its original type.

    Ray wraps it in its own exceptions, and pickling drops their causes; only the text remains.
    """
    try:
        yield
    except Exception as error:
        if type(error) in (RequestError, RunError):  # not subclasses: Ray derives its own from them
            raise
        matches = _IN_MESSAGE.findall(str(error))
        if not matches:
            raise
        name, message = matches[-1]
        raise (RequestError if name == "RequestError" else RunError)(message) from None
