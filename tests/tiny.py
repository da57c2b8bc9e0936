"""A pipeline small enough for tests, started as a user starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from amn_ray.data.images import encode_mask
from amn_ray.data.shapes import Shapes, ShapesConfig

ROOT = Path(__file__).parent.parent
SETTINGS = [
    "dataset=folder", "dataset.allow_unlabelled=true", "dataset.rows_per_shard=8", "recipe=shapes", "precision=fp32",
    "cluster.object_store_gb=0.2", "cluster.map_actors=1", "cluster.cpu_actors=1", "cluster.worker_cpus=1",
    "classifier.epochs=2", "classifier.batch_size=8", "classifier.crop=64", "classifier.long_side=[64,80]",
    "amn.epochs=2", "amn.batch_size=8", "amn.crop=64", "amn.scale=[1.0,1.2]", "amn_maps.scales=[1.0]",
    "irn.epochs=1", "irn.batch_size=8", "irn.crop=64", "irn.radius=4",
    "segmenter.iterations=5", "segmenter.batch_size=8", "segmenter.grad_accumulation=2", "segmenter.crop=65",
]  # fmt: skip


def start(
    root: Path, store: Path | str, *overrides: str, job: str = "pipeline", address: str | None = None
) -> subprocess.Popen[str]:
    """A job on the images in `root`, as a user starts it: on the Ray at `address`, or on one of its own."""
    command = [sys.executable, f"jobs/{job}.py", f"dataset.root={root}", f"store={store}", *SETTINGS, *overrides]
    environment = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "HYDRA_FULL_ERROR")}
    if address is not None:
        # A Ray of our own has the address 127.0.0.1, for which Ray would take this machine's on Linux.
        environment |= {"RAY_ADDRESS": address, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(process: subprocess.Popen[str]) -> str:
    """The output of a job that ends well."""
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output[-4000:]
    return output


def kill_when(process: subprocess.Popen[str], ready: Callable[[], bool], by: int = signal.SIGKILL) -> str:
    """End the process by a signal as soon as `ready`; it must not have ended before. Returns its output."""
    deadline = time.monotonic() + 600
    while not ready():
        assert process.poll() is None, process.communicate()[0][-4000:]
        assert time.monotonic() < deadline
        time.sleep(0.3)  # a store on a server is asked several times
    process.send_signal(by)
    return process.communicate(timeout=120)[0]


def write_folder(root: Path, masks: bool) -> Path:
    """24 drawn images for training and 6 for validation, as a plain folder."""
    source = Shapes(ShapesConfig(num_train=24, num_val=6, size=64))
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    lines = ["image,labels,split"]
    # The folder's classes are in the order of the alphabet.
    renumbered = np.array([0, *(1 + sorted(source.classes).index(name) for name in source.classes)], np.uint8)
    records = {split: source.listing(split).records for split in ("train", "val")}
    for split, record in ((split, record) for split, listed in records.items() for record in listed):
        (root / "images" / f"{record.image_id}.png").write_bytes(source.image(record))
        if masks:
            (root / "masks" / f"{record.image_id}.png").write_bytes(encode_mask(renumbered[source.mask(record)]))
        labels = ";".join(source.classes[label - 1] for label in record.labels)
        lines.append(f"{record.image_id}.png,{labels},{split}")
    (root / "labels.csv").write_text("\n".join(lines))
    return root
