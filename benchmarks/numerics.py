"""Maps, CRF and thresholds of 500×375 photographs' size, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from matplotlib.cbook import get_sample_data
from PIL import Image

from amn_ray.core.artifacts import Store
from amn_ray.data.images import decode_image
from amn_ray.data.maps import hard_labels, to_row
from amn_ray.data.shapes import Shapes, ShapesConfig
from amn_ray.data.transforms import resize_image
from amn_ray.evaluation.confusion import confusion_matrix, mean_iou
from amn_ray.evaluation.thresholds import confusion_curve, count_image, threshold_grid
from amn_ray.nn.class_activation import cam_maps
from amn_ray.nn.classifier import Classifier, load_classifier
from amn_ray.nn.config import BackboneConfig
from amn_ray.nn.precision import autocast, has_bf16
from amn_ray.platform.cluster import set_worker_environment
from amn_ray.recipe.records import find
from amn_ray.stages.crf.config import CrfConfig
from amn_ray.stages.crf.model import ImageCrf
from amn_ray.stages.deeplabv2.config import DeepLabConfig
from amn_ray.stages.deeplabv2.example import grid_size
from amn_ray.stages.deeplabv2.model import DeepLabNet, predict, segmentation_loss
from benchmarks.timing import in_turn

CPU = torch.device("cpu")
HEIGHT, WIDTH, CLASSES = 375, 500, 20
SCALES = [1.0, 0.5, 1.5, 2.0]
Row = tuple[str, str, float, str]
"""(what, against what, ratio, target)"""


@lru_cache
def pictures(count: int) -> list[tuple[np.ndarray, np.ndarray, list[int]]]:
    """Drawn scenes of a photograph's size, their ground truth and labels."""
    source = Shapes(ShapesConfig(num_train=count, size=500))
    result = []
    for record in source.listing("train").records:
        image, mask = decode_image(source.image(record)), source.mask(record)
        result.append((image[:HEIGHT], mask[:HEIGHT], list(record.labels)))
    return result


def soft_maps(truth: np.ndarray, keys: list[int]) -> np.ndarray:
    """CAM-like maps: ground truth blurred at stride 16, float32 (K, H, W)."""
    maps = []
    for key in keys:
        small = Image.fromarray((truth == key).astype(np.float32)).resize((32, 24), Image.Resampling.BOX)
        maps.append(np.asarray(small.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)))
    return np.stack(maps)


@torch.no_grad()
def plain_maps(model: Classifier, image: np.ndarray, keys: list[int]) -> np.ndarray:
    """The released code's way: one image, one scale and one flip at a time, fp32, NCHW, all at full size."""
    total = torch.zeros(len(keys), HEIGHT, WIDTH)
    for scale in SCALES:
        size = (round(HEIGHT * scale), round(WIDTH * scale))
        x = model.backbone.normalise(torch.from_numpy(resize_image(image, *size).copy())[None]).contiguous()
        cam = model.activation(x) + model.activation(x.flip(3)).flip(3)
        up = F.interpolate(cam, (-(-HEIGHT // 16) * 16, -(-WIDTH // 16) * 16), mode="bilinear", align_corners=False)
        total += up[0, [key - 1 for key in keys], :HEIGHT, :WIDTH]
    return (total / (total.amax((1, 2), keepdim=True) + 1e-5)).numpy()


@lru_cache
def random_model() -> Classifier:
    """ResNet-50 with random weights, and statistics of BatchNorm without which its features would vanish."""
    torch.manual_seed(0)
    model = Classifier(BackboneConfig(weights=None), CLASSES, detach_after=None).eval()
    model.backbone.running_statistics = False
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.train()
    with torch.no_grad():
        model.activation(model.backbone.normalise(torch.from_numpy(np.stack([image for image, _, _ in pictures(2)]))))
    return model.eval()


def run_plain() -> None:
    """Two photographs, the plain way."""
    for image, _, keys in pictures(2):
        plain_maps(random_model(), image, keys)


def run_ours(precision: str) -> None:
    """Two photographs, our way."""
    images, keys = [image for image, _, _ in pictures(2)], [labels for _, _, labels in pictures(2)]
    model = random_model().to(memory_format=torch.channels_last)
    cam_maps(model, images, keys, scales=SCALES, precision=precision, device=CPU)


def maps() -> Iterator[Row]:
    """Multi-scale CAMs of ResNet-50, each way in a process of its own, ours with the settings of our workers."""
    spawn = get_context("spawn")
    threads = (torch.get_num_threads(),)
    with ProcessPoolExecutor(1, spawn, torch.set_num_threads, threads) as plain:
        plain.submit(run_plain).result()
        set_worker_environment()
        with ProcessPoolExecutor(1, spawn, torch.set_num_threads, threads) as ours:
            ways: dict[str, Callable[[], object]] = {"plain": lambda: plain.submit(run_plain).result()}
            targets = {"fp32": "≥ 1.5"} | ({"bf16": "≥ 2.5"} if has_bf16(CPU) else {})
            for precision in targets:
                ways[precision] = partial(lambda name: ours.submit(run_ours, name).result(), precision)
            seconds = in_turn(ways, rounds=3)
    for precision, target in targets.items():
        ratio = seconds["plain"] / seconds[precision]
        yield f"multi-scale maps, {precision}", "one image, scale and flip at a time, fp32, NCHW", ratio, target


def rounding(store: Path) -> Iterator[Row]:
    """What bfloat16 changes in the maps of the demo's trained classifier."""
    run = find(Store.reading(str(store)), None, "maps")
    scales, source = run.settings["maps.scales"], Shapes(ShapesConfig())
    model = load_classifier(run.artifacts["classifier"], len(source.classes))
    records = [record for record in source.listing("train").records if record.labels][:16]
    images = [decode_image(source.image(record)) for record in records]
    keys = [record.labels for record in records]
    exact, rounded = (
        cam_maps(model, images, keys, scales=scales, precision=precision, device=CPU) for precision in ("fp32", "bf16")
    )
    differences = [np.abs(a - b) for a, b in zip(exact, rounded, strict=True)]
    yield "largest difference of 16 images' normalised maps, bf16", "fp32", max(d.max() for d in differences), "≤ 0.02"
    yield "mean difference of the same", "fp32", float(np.mean([d.mean() for d in differences])), ""


def photograph() -> tuple[np.ndarray, np.ndarray, list[int]]:
    """A portrait that Matplotlib ships, cut to the drawn scenes' size, a rough mask of the person, and its label."""
    with get_sample_data("grace_hopper.jpg") as stream, Image.open(stream) as image:
        image_HWC = np.array(image.convert("RGB"))[60 : 60 + HEIGHT, :WIDTH]
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return image_HWC, (np.hypot((y - 250) / 250, (x - 250) / 180) < 1).astype(np.uint8), [1]


def crf() -> Iterator[Row]:
    """Two thresholds on one lattice. A photograph has more colours, so a larger lattice, than a drawn scene."""
    for name, (image, truth, keys) in {"a photograph": photograph(), "a drawn scene": pictures(2)[1]}.items():
        hard = [hard_labels(soft_maps(truth, keys), tau) for tau in (0.30, 0.05)]
        seconds = in_turn({"fresh": partial(fresh, image, hard), "shared": partial(shared, image, hard)}, rounds=7)
        ratio = seconds["fresh"] / seconds["shared"]
        yield f"CRF of {name} at two thresholds, one core", "a fresh CRF per threshold", ratio, "≥ 1.2"


def fresh(image: np.ndarray, hard: list[np.ndarray]) -> None:
    """A CRF per threshold."""
    for labels in hard:
        shared(image, [labels])


def shared(image: np.ndarray, hard: list[np.ndarray]) -> None:
    """One CRF for all thresholds."""
    lattice = ImageCrf(image, int(hard[-1].max()) + 1, CrfConfig())
    for labels in hard:
        lattice.refine(labels, 0.7)


def thresholds() -> Iterator[Row]:
    """101 thresholds."""
    _, truth, keys = pictures(2)[1]
    maps_KHW = soft_maps(truth, keys)
    grid = threshold_grid(101)

    def brute() -> np.ndarray:
        curve = []
        for tau in grid:
            prediction = np.where(maps_KHW.max(0) > tau, np.array(keys, np.uint8)[maps_KHW.argmax(0)], 0)
            curve.append(mean_iou(confusion_matrix(truth, prediction, CLASSES)))
        return np.array(curve)

    def one_pass() -> np.ndarray:
        return mean_iou(confusion_curve([count_image(maps_KHW, keys, truth, grid)], CLASSES, len(grid)))

    np.testing.assert_array_equal(brute(), one_pass())
    seconds = in_turn({"brute": brute, "one pass": one_pass}, rounds=7)
    yield "101 thresholds", "one confusion matrix per τ", seconds["brute"] / seconds["one pass"], "≥ 30"


def storage() -> Iterator[Row]:
    """Bytes of a stored row against full-size float32 arrays."""
    _, truth, keys = pictures(2)[1]
    full = soft_maps(truth, keys)
    small = np.stack([np.asarray(Image.fromarray(one).resize((125, 94), Image.Resampling.BILINEAR)) for one in full])
    stored = to_row("x", keys, small)["maps"]
    assert isinstance(stored, bytes)
    yield "stored maps (before zstd)", "full-size float32", len(stored) / full.nbytes, "≤ 0.1"


def deeplab() -> Iterator[Row]:
    """DeepLabv2 with ResNet-50: a training step of crops of 321, and predictions of photographs; three scales each."""
    config, precision = DeepLabConfig(backbone=BackboneConfig(weights=None)), "auto"
    model = DeepLabNet(config.backbone, CLASSES, config.scales).to(memory_format=torch.channels_last)
    image_BCHW = model.backbone.normalise(
        torch.from_numpy(np.stack([image for image, _, _ in pictures(2)]))[:, :321, :321]
    )
    image_BCHW = image_BCHW.contiguous(memory_format=torch.channels_last)
    sizes = [grid_size((321, 321), scale) for scale in config.scales]
    labels = [torch.zeros(2, *size, dtype=torch.uint8) for size in [*sizes, sizes[0]]]
    counts = [torch.tensor(label.numel()) for label in labels]

    def train() -> None:
        with autocast(CPU, precision):
            pyramid = model.train()(image_BCHW)
        segmentation_loss([logits.float() for logits in pyramid], labels, counts).backward()

    def test() -> None:
        predict(model.eval(), [image for image, _, _ in pictures(2)], device=CPU, precision=precision)

    seconds = in_turn({"train": train, "test": test}, rounds=3)
    yield "DeepLab training, ResNet-50: images/s", "", 2 / seconds["train"], ""
    yield "DeepLab prediction, ResNet-50: images/s", "", 2 / seconds["test"], ""
