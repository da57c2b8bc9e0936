"""A function that may end its process, called in another one."""

from __future__ import annotations

import os
import signal

import pytest

from amn_ray.core.errors import RunError
from amn_ray.data.in_subprocess import Died, apart


def half(number: int) -> float:
    if number == 13:
        os.kill(os.getpid(), signal.SIGSEGV)
    return 1 / (number - 2) if number < 13 else os._exit(3)


def test_a_function_goes_on_in_a_new_process_after_one_died() -> None:
    with apart(half) as call:
        assert call(4) == 0.5
        with pytest.raises(ZeroDivisionError):
            call(2)
        with pytest.raises(Died, match="SIGSEGV"):
            call(13)
        with pytest.raises(Died, match="exit code 3"):
            call(14)
        assert call(3) == 1


class NotThere:
    """What another process cannot load."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (4,)

    def __call__(self, item: object) -> None: ...


def test_a_process_that_does_not_start_is_no_fault_of_the_image() -> None:
    with apart(NotThere()) as call, pytest.raises(RunError, match=r"did not start \(exit code 4\)"):
        call("image")
