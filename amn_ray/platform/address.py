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
"""How long to wait for an answer from the cluster."""


def names_cluster() -> bool:
    """Whether RAY_ADDRESS names a cluster; empty or `local` is the same as unset, as for `ray.init`."""
    return _value() not in ("", "local")


def answering() -> str:
    """The cluster's address host:port, once it has answered.

    Raises:
        RequestError: the variable is no address that `ray.init` accepts, or no cluster answers at it.
    """
    given = _value()
    if "://" in given:
        kind = given.split("://")[0]
        what = "Ray Client, which Ray Data cannot use" if kind == "ray" else "what `ray job submit` takes"
        raise refused_address(
            f"{kind}://… is {what}; submit this job with `ray job submit`, or set host:port as `ray start --head` "
            "prints it (port 6379)"
        )
    host, _, port = given.rpartition(":")
    # An IPv6 address, which has colons, is in brackets.
    is_host = bool(host) and (":" not in host or (host[0], host[-1]) == ("[", "]"))
    if given != "auto" and not (is_host and port.isascii() and port.isdecimal() and 0 < int(port) < 2**16):
        raise refused_address("is not host:port; set it as `ray start --head` prints it (port 6379), or to auto")
    try:
        address = ray_internals.canonical_address(given)
    except ConnectionError as error:
        raise refused_address(
            "no cluster runs on this machine; start one with `ray start --head`, or unset RAY_ADDRESS to run locally"
        ) from error
    _check_head(address)
    return address


def refused_address(reason: str) -> RequestError:
    """An error whose message begins with the variable and its value."""
    return RequestError(f"{VARIABLE}={without_secrets(_value())}: {reason}")


def _value() -> str:
    return os.environ.get(VARIABLE, "").strip()


def _check_head(address: str) -> None:
    """Refuse an address at which no head of a cluster answers."""
    try:
        ray_internals.check_head(address, ANSWER_S)
    except (grpc.RpcError, AuthenticationError) as error:
        if isinstance(error, AuthenticationError) or error.code() == grpc.StatusCode.UNAUTHENTICATED:
            raise refused_address(
                "the Ray cluster there does not accept this token (RAY_AUTH_TOKEN, else ~/.ray/auth_token); use the "
                "cluster's token"
            ) from error
        raise refused_address(
            f"no Ray cluster answers there ({error.code().name.lower()}); give the address that `ray start --head` "
            "printed (port 6379, not the dashboard's 8265 or the client's 10001), or unset RAY_ADDRESS to run locally"
        ) from error
