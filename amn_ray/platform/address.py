"""The cluster that RAY_ADDRESS names: its address is checked before `ray.init`.

Ray itself retries for minutes if something else answers there, and prints pages of logs.
"""

from __future__ import annotations

import os

import grpc
from ray.exceptions import AuthenticationError

from amn_ray.core.errors import RequestError
from amn_ray.core.places import without_secrets
from amn_ray.platform import ray_internals

VARIABLE = "RAY_ADDRESS"
ANSWER_S = 15.0
"""How long to wait for an answer of the cluster."""


def names_cluster() -> bool:
    """Whether RAY_ADDRESS names a cluster; empty or `local` is the same as unset, as for `ray.init`."""
    return _given() not in ("", "local")


def answering() -> str:
    """The address host:port of the cluster, which has answered.

    Raises:
        RequestError: the variable holds no address that `ray.init` takes, or nothing there answers as a cluster does.
    """
    given = _given()
    if "://" in given:
        kind = given.split("://")[0]
        what = "Ray Client, which Ray Data cannot use" if kind == "ray" else "what `ray job submit` takes"
        raise refused_address(
            f"{kind}://… is {what}; submit this job with `ray job submit`, or set host:port as `ray start --head` "
            "prints it (port 6379)"
        )
    host, _, port = given.rpartition(":")
    # A colon of IPv6 is between brackets.
    is_host = bool(host) and (":" not in host or (host[0], host[-1]) == ("[", "]"))
    if given != "auto" and not (is_host and port.isascii() and port.isdecimal() and 0 < int(port) < 2**16):
        raise refused_address("is not host:port; set it as `ray start --head` prints it (port 6379), or to auto")
    try:
        address = ray_internals.canonical_address(given)
    except ConnectionError as error:
        raise refused_address(
            "no cluster runs on this machine; start one with `ray start --head`, or unset RAY_ADDRESS to run locally"
        ) from error
    _ask(address)
    return address


def refused_address(reason: str) -> RequestError:
    """An error whose sentence begins with the variable and its value."""
    return RequestError(f"{VARIABLE}={without_secrets(_given())}: {reason}")


def _given() -> str:
    return os.environ.get(VARIABLE, "").strip()


def _ask(address: str) -> None:
    """Refuse an address at which no head of a cluster answers."""
    try:
        ray_internals.check_head(address, ANSWER_S)
    except (grpc.RpcError, AuthenticationError) as error:
        if isinstance(error, AuthenticationError) or error.code() == grpc.StatusCode.UNAUTHENTICATED:
            raise refused_address(
                "the Ray cluster there does not accept this token (RAY_AUTH_TOKEN, else ~/.ray/auth_token); use that "
                "of the cluster"
            ) from error
        raise refused_address(
            f"no Ray cluster answers there ({error.code().name.lower()}); give the address that `ray start --head` "
            "printed (port 6379, not the dashboard's 8265 or the client's 10001), or unset RAY_ADDRESS to run locally"
        ) from error
