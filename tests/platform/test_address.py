"""RAY_ADDRESS, in all the forms in which people set it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest

from amn_ray.core.errors import RequestError
from amn_ray.platform import address, ray_internals
from amn_ray.platform.cluster import Cluster, ClusterConfig
from tests.conftest import free_port


@pytest.mark.parametrize("value", ["", " ", "local"])
def test_an_empty_address_is_no_cluster_as_for_ray_itself(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", value)
    assert Cluster(ClusterConfig()).is_own


@pytest.mark.parametrize("value", ["auto", "head:6379", "http://head:8265"])
def test_an_address_is_a_cluster_of_others_unless_a_local_one_is_asked_for(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", value)
    assert not Cluster(ClusterConfig()).is_own
    assert Cluster(ClusterConfig(address="local")).is_own


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("http://10.0.0.1:8265", "what `ray job submit` takes"),
        ("https://ray.example.org", "what `ray job submit` takes"),
        ("ray://10.0.0.1:10001", "Ray Client"),
        ("10.0.0.1", "is not host:port"),
        ("head", "is not host:port"),
        ("head:", "is not host:port"),
        (":6379", "is not host:port"),
        ("head:port", "is not host:port"),
        ("head:63790000", "is not host:port"),
        ("head:6379:6379", "is not host:port"),
        ("::1:6379", "is not host:port"),
        ("ray:head:10001", "is not host:port"),
    ],
)
def test_what_is_no_address_of_a_cluster_is_refused_in_a_sentence_that_says_what_is(
    value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", value)
    with pytest.raises(RequestError) as told:
        address.answering()
    assert str(told.value).startswith(f"RAY_ADDRESS={value}: ")
    assert says in str(told.value)
    assert "6379" in str(told.value)
    assert "\n" not in str(told.value)


class _Quiet(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(params=["nothing", "a dashboard", "silence", "another service", "an unknown host"])
def no_cluster(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where something else than the head of a cluster answers, or nothing."""
    if request.param == "nothing":
        yield f"127.0.0.1:{free_port()}"
    elif request.param == "an unknown host":
        yield "no-such-host.invalid:6379"
    elif request.param == "a dashboard":
        with ThreadingHTTPServer(("0.0.0.0", 0), _Quiet) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"127.0.0.1:{server.server_address[1]}"
            server.shutdown()
    elif request.param == "silence":
        with socket.socket() as mute:
            mute.bind(("0.0.0.0", 0))
            mute.listen()
            yield f"127.0.0.1:{mute.getsockname()[1]}"
    else:
        service = grpc.server(futures.ThreadPoolExecutor(1))
        port = service.add_insecure_port("0.0.0.0:0")
        service.start()
        yield f"127.0.0.1:{port}"
        service.stop(None)


def test_an_address_where_no_cluster_answers_is_refused_soon(no_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "ANSWER_S", 2.0)
    monkeypatch.setenv("RAY_ADDRESS", no_cluster)
    started = time.monotonic()
    with pytest.raises(RequestError, match=rf"^RAY_ADDRESS={no_cluster}: no Ray cluster answers there \(") as told:
        address.answering()
    assert time.monotonic() - started < 20
    assert "\n" not in str(told.value)


def test_auto_without_a_cluster_on_this_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_found(given: str) -> str:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray_internals, "canonicalize_bootstrap_address", none_found)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(RequestError, match=r"^RAY_ADDRESS=auto: no cluster runs on this machine"):
        address.answering()
