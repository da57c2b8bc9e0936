"""The cost of a pipeline on any cluster: `python -m benchmarks.scaling` measures, predicts and simulates.

Costs are seconds of one core per image; those of networks are also counted in floating-point operations, to extrapolate
to GPUs. The formula is `Work.total`; docs/scaling.md has its results. The simulation runs the work as Ray tasks that
sleep for their batch's time, on a cluster of 16 fake nodes.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray
import torch
from ray.cluster_utils import Cluster as Nodes
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from amn_ray.data.images import decode_image, encode_mask, encode_png
from amn_ray.evaluation.thresholds import count_image, threshold_grid
from amn_ray.nn.class_activation import cam_maps
from amn_ray.nn.classifier import Classifier
from amn_ray.nn.config import BackboneConfig
from amn_ray.nn.precision import autocast
from amn_ray.platform.cluster import authenticate
from amn_ray.platform.mapping import BATCH
from amn_ray.stages.amn.config import AmnConfig, AmnMapsConfig
from amn_ray.stages.amn.model import AmnNet, amn_maps, pcl_loss
from amn_ray.stages.crf.config import CrfConfig, KernelConfig
from amn_ray.stages.crf.model import refined_prediction, refined_seed
from amn_ray.stages.deeplabv2.config import DeepLabConfig
from amn_ray.stages.deeplabv2.model import DeepLabNet, predict
from amn_ray.stages.irn.config import IrnConfig, WalkConfig
from amn_ray.stages.irn.loss import irn_loss
from amn_ray.stages.irn.model import IrnNet, edge_maps
from amn_ray.stages.irn.walk import random_walk
from benchmarks.boundaries import scene
from benchmarks.numerics import CPU, HEIGHT, WIDTH, photograph
from benchmarks.timing import in_turn
from tests.tiny import finish, start, write_folder

GPU_FLOPS = 20e12
"""Operations per second that one GPU sustains: an assumption, not a measurement."""
ROUNDS = 3
CROP = torch.zeros(1, 3, 512, 512).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Cost:
    """The cost of one image in seconds of a core; `flops` if it may run on a GPU."""

    seconds: float
    flops: float = 0

    def on_gpu(self) -> float:
        return self.flops / GPU_FLOPS


@dataclass(frozen=True)
class DataSet:
    """Numbers of images, and the recipe's iterations of the segmentation network."""

    name: str
    train: int
    scored: int
    val: int
    classes: int
    iterations: int


VOC = DataSet("VOC 2012", 10_582, 1_464, 1_449, 20, 20_000)
COCO = DataSet("COCO 2014", 82_783, 82_783, 40_504, 80, 100_000)
EPOCHS = {"classifier": 5, "amn": 5, "irn": 3}
BATCH_SIZES = {"classifier": 16, "amn": 16, "irn": 32, "segmenter": 10}
"""Of training; the number of workers must divide it."""


@dataclass(frozen=True)
class Work:
    """The work of a step: `images`, of which `slots` batches are processed concurrently."""

    name: str
    images: float
    seconds: float
    slots: int
    batch: int = BATCH

    @property
    def seconds_of_work(self) -> float:
        """⌈images / batch / slots⌉ · batch · seconds."""
        return math.ceil(self.images / self.batch / self.slots) * self.batch * self.seconds

    def total(self, start_s: float) -> float:
        """The formula: start + work."""
        return start_s + self.seconds_of_work


def networks() -> dict[str, Callable[[], object]]:
    """Each network's work on one image, as the paper's recipe has it: crops in training, photographs in inference."""
    torch.manual_seed(0)
    image_HWC, _, keys = photograph()
    backbone = BackboneConfig(weights=None)
    irn_config, deeplab_config = IrnConfig(backbone=backbone), DeepLabConfig()
    resnet101 = dataclasses.replace(backbone, name="resnet101")
    classifier = Classifier(backbone, 20, "layer2").to(memory_format=torch.channels_last)
    amn = AmnNet(AmnConfig(backbone=backbone), 20).to(memory_format=torch.channels_last)
    irn = IrnNet(irn_config).to(memory_format=torch.channels_last)
    deeplab = DeepLabNet(resnet101, 20, deeplab_config.scales).to(memory_format=torch.channels_last)
    labels = torch.zeros(1, 20)
    labels[0, 7] = 1

    def train_classifier() -> None:
        with autocast(CPU, "auto"):
            classifier.train()(CROP).float().sum().backward()

    def train_amn() -> None:
        with autocast(CPU, "auto"):
            logits = amn.train()(CROP, labels).float()
        pcl_loss(logits, torch.zeros(1, *logits.shape[2:], dtype=torch.uint8), 0.4).backward()

    def train_irn() -> None:
        with autocast(CPU, "auto"):
            edge, displacement = irn.train()(CROP)
        small = torch.zeros(1, *edge.shape[1:], dtype=torch.uint8)
        irn_loss(edge.float().sigmoid(), displacement.float(), small, irn_config.radius).backward()

    def train_deeplab() -> None:
        with autocast(CPU, "auto"):
            pyramid = deeplab.train()(CROP[:, :, :321, :321].contiguous(memory_format=torch.channels_last))
        torch.stack([logits.float().sum() for logits in pyramid]).sum().backward()

    return {
        "classifier, training": train_classifier,
        "cam, maps": lambda: cam_maps(
            classifier.eval(), [image_HWC], [keys], scales=[1.0, 0.5, 1.5, 2.0], precision="auto", device=CPU
        ),
        "amn, training": train_amn,
        "amn, maps": lambda: amn_maps(
            amn.eval(), [image_HWC], [keys], num_classes=20, config=AmnMapsConfig(precision="auto"), device=CPU
        ),
        "irn, training": train_irn,
        "irn, edges": lambda: edge_maps(irn.eval(), [image_HWC], device=CPU, precision="auto"),
        "segmenter, training": train_deeplab,
        "segmenter, predictions": lambda: predict(deeplab.eval(), [image_HWC], device=CPU, precision="auto"),
    }


def on_cores() -> dict[str, Callable[[], object]]:
    """The work that runs on CPUs only."""
    image_HWC, truth_HW, keys = photograph()
    encoded, grid = encode_png(image_HWC), threshold_grid(101)
    maps_KHW = np.random.default_rng(0).random((len(keys), HEIGHT, WIDTH), np.float32)
    large = scene(94, 125)
    walk = WalkConfig(power=1.3)
    kernels = KernelConfig(gaussian_sxy=1, gaussian_compat=3, bilateral_sxy=67, bilateral_srgb=3, bilateral_compat=4)
    rng = np.random.default_rng(0)

    def final(labels: int) -> None:
        refined_prediction(image_HWC, rng.normal(size=(labels, HEIGHT, WIDTH)).astype(np.float32), kernels)

    return {
        "images": lambda: (decode_image(encoded), encode_mask(truth_HW)),
        "score of maps": lambda: count_image(maps_KHW, keys, truth_HW, grid),
        "CRF of maps": lambda: refined_seed(image_HWC, maps_KHW, keys, CrfConfig()),
        "walk": lambda: random_walk(*large, walk),
        "CRF of 21 labels": lambda: final(21),
        "CRF of 81 labels": lambda: final(81),
    }


def measured() -> dict[str, Cost]:
    """All costs on one core, medians."""
    torch.set_num_threads(1)
    costs = {}
    for name, work in networks().items():
        with FlopCounterMode(display=False) as counter:
            work()
        costs[name] = Cost(in_turn({name: work}, rounds=ROUNDS)[name], counter.get_total_flops())
    for name, work in on_cores().items():
        costs[name] = Cost(in_turn({name: work}, rounds=ROUNDS)[name])
    return costs


def start_s() -> float:
    """The time of a step besides its work: starting processes, loading networks, counting rows.

    The mean over the steps of a whole pipeline of 24 tiny images, whose work is negligible.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        finish(start(write_folder(Path(folder) / "images", masks=True), store))
        (path,) = store.glob("runs/*/summary.json")
        summary = json.loads(path.read_text())
    seconds = [m["seconds"] for step, m in summary.items() if "seconds" in m and not step.startswith("final_")]
    return sum(seconds) / len(seconds)


def pipeline(data: DataSet, costs: Mapping[str, Cost], gpus: int, cores: int) -> Iterator[Work]:
    """The pipeline on a cluster with GPUs; epochs count as images."""
    gpu = {name: cost.on_gpu() for name, cost in costs.items()}
    core = {name: cost.seconds for name, cost in costs.items()}

    def training(step: str, images: int) -> Work:
        workers = max(count for count in range(1, gpus + 1) if BATCH_SIZES[step] % count == 0)
        return Work(f"{step}, training", images, gpu[f"{step}, training"], workers)

    yield Work("images", data.train + data.val, core["images"], cores)
    for step, method in (("classifier", "cam"), ("amn", "amn")):
        yield training(step, EPOCHS[step] * data.train)
        yield Work(f"{method}, maps", data.train, gpu[f"{method}, maps"], gpus)
        yield Work(f"{method}, score", data.scored, core["score of maps"], cores)
        yield Work(f"{method}, CRF", data.train, core["CRF of maps"], cores)
    yield training("irn", EPOCHS["irn"] * data.train)
    yield Work("irn, walk", data.train, gpu["irn, edges"] + core["walk"], gpus)
    yield training("segmenter", BATCH_SIZES["segmenter"] * data.iterations)
    yield Work("segmenter, predictions", data.val, gpu["segmenter, predictions"], gpus)
    yield Work("segmenter, CRF", data.val, core[f"CRF of {data.classes + 1} labels"], cores)


# --- simulation -------------------------------------------------------------------------------------------------------

NODES, CPUS = 16, 4
SMALL = DataSet("a sixteenth of VOC", 660, 92, 90, 20, 1_250)
SPEED_UP = 12
"""How many times shorter the sleeps are than the work."""


@ray.remote
class Slot:
    """One GPU or core that works on batches."""

    def work(self, seconds: float) -> None:
        """A batch."""
        time.sleep(seconds)


def simulate(costs: Mapping[str, Cost]) -> tuple[float, float]:
    """(seconds of the formula, seconds that 16 nodes took), both at the speed of the work itself."""
    authenticate(is_own=True)
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100_000_000})
    for _ in range(NODES):
        nodes.add_node(num_cpus=CPUS, num_gpus=1, object_store_memory=80_000_000)
    ray.init(address=nodes.address, log_to_driver=False)
    pools = {
        NODES: [Slot.options(num_gpus=1, num_cpus=0).remote() for _ in range(NODES)],
        NODES * CPUS: [Slot.options(num_cpus=1).remote() for _ in range(NODES * CPUS)],
    }
    for pool in pools.values():  # wait for all processes: their start is a constant of the formula
        ray.get([slot.work.remote(0) for slot in pool])
    predicted = taken = 0.0
    for work in pipeline(SMALL, costs, NODES, NODES * CPUS):
        pool = pools[NODES if work.slots <= NODES else NODES * CPUS][: work.slots]
        predicted += work.seconds_of_work
        started = time.monotonic()
        seconds = work.batch * work.seconds / SPEED_UP
        remaining = math.ceil(work.images / work.batch)
        idle, pending = list(pool), {}
        while remaining or pending:
            while remaining and idle:
                slot = idle.pop()
                pending[slot.work.remote(seconds)] = slot
                remaining -= 1
            done, _ = ray.wait(list(pending), num_returns=1)
            idle += [pending.pop(reference) for reference in done]
        taken += (time.monotonic() - started) * SPEED_UP
    ray.shutdown()
    nodes.shutdown()
    return predicted, taken


def main() -> None:
    """Measure, predict, simulate, and print everything."""
    started = start_s()
    costs = measured()
    console = Console(width=120)
    table = Table("work on one image", "s on one core", "GFLOP", "s on a GPU (assumed)", title="Costs")
    for name, cost in costs.items():
        flops = (f"{cost.flops / 1e9:.0f}", f"{cost.on_gpu():.4f}") if cost.flops else ("", "")
        table.add_row(name, f"{cost.seconds:.3f}", *flops)
    console.print(table)
    console.print(f"Besides its work a step takes {started:.1f} s.")
    for data in (VOC, COCO):
        table = Table("work", *(f"{gpus} GPU, {16 * gpus} cores" for gpus in (1, 8, 64)), title=f"{data.name}, hours")
        columns = [list(pipeline(data, costs, gpus, 16 * gpus)) for gpus in (1, 8, 64)]
        for row in zip(*columns, strict=True):
            table.add_row(row[0].name, *(f"{work.total(started) / 3600:.2f}" for work in row))
        table.add_row("all", *(f"{sum(work.total(started) for work in column) / 3600:.1f}" for column in columns))
        console.print(table)
    predicted, taken = simulate(costs)
    agreement = f"formula {predicted:.0f} s, simulation {taken:.0f} s: {taken / predicted - 1:+.1%}"
    console.print(f"{NODES} nodes, {SMALL.name}: {agreement}")


if __name__ == "__main__":
    main()
