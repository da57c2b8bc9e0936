"""The two ways in which a job can end badly, and the exit code of each."""


class RequestError(Exception):
    """The user asked for something that cannot be done (exit code 2).

    The message is one sentence: the file or key, what was found, what was expected, what to do.
    """

    exit_code = 2


class RunError(Exception):
    """The request was fine, but the run failed (exit code 1)."""

    exit_code = 1
