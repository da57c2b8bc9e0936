"""Shared fixtures: tiny data sets on disk, jobs in this process, and one local Ray for all tests that need it."""

from __future__ import annotations

import io
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from amn_ray.platform.cluster import Cluster, ClusterConfig

# Two of these processes share two cores, with those of Ray: threads of OpenMP that wait for each other would spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers would have a niceness of 15, and next to nothing of a processor beside anything else that runs.
os.environ.setdefault("RAY_worker_niceness", "0")
SECRET = "not-to-be-shown-anywhere"
"""A credential of the object store; no log or record may hold it."""
ROOT = Path(__file__).parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest begin, so that no process is left with one of them alone."""
    first = ("test_pipeline.py", "test_sweep.py")
    items.sort(key=lambda item: item.path.name not in first)


@pytest.fixture(scope="session")
def cluster(bucket: str) -> Iterator[Cluster]:
    """A real local Ray, shared by the session; its processes have the credentials of the object store."""
    import ray

    result = Cluster(ClusterConfig(cpus=2, object_store_gb=0.3))
    result.connect()
    yield result
    ray.shutdown()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(port: int, program: str, *arguments: str, **environment: str) -> Iterator[None]:
    """A server in a process of its own, from when it answers."""
    command = [str(Path(sys.executable).parent / program), *arguments]
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | environment, process_group=0
    )
    try:
        deadline = time.monotonic() + 300
        while socket.socket().connect_ex(("127.0.0.1", port)) != 0:
            assert server.poll() is None, f"{program} ended with {server.returncode}"
            assert time.monotonic() < deadline, f"{program} did not start"
            time.sleep(0.1)
        yield
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@contextmanager
def serving_mlflow(folder: Path) -> Iterator[str]:
    """The URI of a real MLflow server on loopback, which keeps all in the folder."""
    port = free_port()
    places = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/artifacts"]
    address = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with serving(port, "mlflow", "server", *address, *places, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """See serving_mlflow."""
    with serving_mlflow(tmp_path_factory.mktemp("mlflow")) as uri:
        yield uri


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """`s3://tests` on a real S3 server on loopback, with its endpoint and credentials in the environment."""
    port = free_port()
    secrets = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": SECRET}
    settings = {**secrets, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_REGION": "us-east-1"}
    before = dict(os.environ)
    os.environ |= settings
    try:
        with serving(port, "moto_server", "--host", "127.0.0.1", "--port", str(port)):
            boto3.client("s3").create_bucket(Bucket="tests")
            yield "s3://tests"
    finally:
        for name in settings:
            os.environ.pop(name)
        os.environ |= before


@pytest.fixture
def job(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """`job("pipeline", "classifier.epochs=3")` -> (exit code, standard error), run in this process."""

    def run(name: str, *overrides: str) -> tuple[int, str]:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [f"jobs/{name}.py", *overrides])
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        try:
            runpy.run_path(str(ROOT / "jobs" / f"{name}.py"), run_name="__main__")
        except SystemExit as stop:
            return int(stop.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().err

    return run


def encode(array: np.ndarray, file_format: str = "PNG", mode: str | None = None) -> bytes:
    """An array as an image file."""
    stream = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(stream, file_format)
    return stream.getvalue()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A random RGB image."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A VOC folder with three images: a (cat), b (cat, dog), c (person); all in train_aug, a and b in train."""
    root = tmp_path / "voc"
    for folder in ("JPEGImages", "Annotations", "SegmentationClassAug", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for seed, (name, objects, value) in enumerate(
        [("a", ["cat"], 8), ("b", ["cat", "dog"], 12), ("c", ["person"], 15)]
    ):
        (root / f"JPEGImages/{name}.jpg").write_bytes(encode(noise(24, 32, seed), "JPEG"))
        tags = "".join(f"<object><name>{label}</name></object>" for label in objects)
        (root / f"Annotations/{name}.xml").write_text(f"<annotation>{tags}</annotation>")
        mask = np.zeros((24, 32), np.uint8)
        mask[4:20, 6:20], mask[0, 0] = value, 255
        (root / f"SegmentationClassAug/{name}.png").write_bytes(encode(mask))
    lists = {"train_aug": "abc", "train": "ab", "val": "c"}
    for name, ids in lists.items():
        (root / f"ImageSets/Segmentation/{name}.txt").write_text("\n".join(ids) + "\n")
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A plain folder with four images of classes nut and bolt; three have masks."""
    root = tmp_path / "parts"
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    lines = ["image,labels,split"]
    for seed, (name, labels, split) in enumerate(
        [("p.png", "nut", "train"), ("q.png", "bolt;nut", "train"), ("r.jpg", "bolt", "train"), ("s.png", "nut", "val")]
    ):
        (root / "images" / name).write_bytes(encode(noise(20, 28, seed), "JPEG" if name.endswith("jpg") else "PNG"))
        lines.append(f"{name},{labels},{split}")
        if name != "r.jpg":
            mask = np.zeros((20, 28), np.uint8)
            mask[5:15, 5:15] = 2 if labels.startswith("nut") else 1
            (root / "masks" / f"{Path(name).stem}.png").write_bytes(encode(mask))
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root
