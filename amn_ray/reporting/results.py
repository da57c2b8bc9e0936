"""From a pipeline's artifacts to its figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from amn_ray.artifacts import Artifact
from amn_ray.data.images import decode_image, decode_mask
from amn_ray.nn.maps import from_row, full_size
from amn_ray.reporting import figures

EXAMPLES = 6
MAPS = ("cam", "amn")


def one_line(metrics: Mapping[str, float]) -> str:
    """The scores of a step in words."""
    text = f"mIoU {100 * metrics['miou']:.1f}"
    if "best_miou" in metrics:
        text += f", best {100 * metrics['best_miou']:.1f} at τ = {metrics['best_tau']:.2f}"
    return text


def draw(artifacts: Mapping[str, Artifact], manifests: Mapping[str, dict[str, Any]], folder: Path) -> list[Path]:
    """All figures that the steps made so far allow; returns their files."""
    folder.mkdir(parents=True, exist_ok=True)
    scores = {name.removesuffix("_score"): manifests[name] for name in manifests if f"{name}".endswith("_score")}
    scores = {step: manifest for step, manifest in scores.items() if "iou" in manifest}
    if not scores:
        return []
    curves = {step: scores[step]["curve"] for step in MAPS if step in scores}
    drawn = [
        figures.threshold_curves(curves, folder / "miou_by_threshold.png"),
        figures.best_threshold_histogram(
            {step: _best_taus(artifacts[f"{step}_score"]) for step in curves}, folder / "best_threshold.png"
        ),
        figures.class_iou_bars({step: manifest["iou"] for step, manifest in scores.items()}, folder / "class_iou.png"),
        _class_table({step: manifest["iou"] for step, manifest in scores.items()}, folder / "class_iou.csv"),
    ]
    rows = _examples(artifacts, scores)
    if rows:
        drawn.append(figures.example_panel(rows, folder / "examples.png"))
    return drawn


def _best_taus(score: Artifact) -> list[float]:
    return [tau for tau in score.table("images").column("best_tau").values() if tau is not None]


def _class_table(tables: Mapping[str, Mapping[str, float | None]], path: Path) -> Path:
    lines = ["class," + ",".join(tables)]
    for name in next(iter(tables.values())):
        values = [table[name] for table in tables.values()]
        lines.append(f"{name}," + ",".join("" if value is None else f"{value:.6f}" for value in values))
    path.write_text("\n".join(lines) + "\n")
    return path


def _examples(artifacts: Mapping[str, Artifact], scores: Mapping[str, dict[str, Any]]) -> list[figures.PanelRow]:
    """A fixed choice of evaluated images, spread evenly over the split."""
    best = artifacts["cam_score"].table("images").column("best_tau")
    scored = [image_id for image_id, tau in best.items() if tau is not None]
    chosen = [scored[i] for i in np.linspace(0, len(scored) - 1, min(EXAMPLES, len(scored))).astype(int)]
    return [_example(image_id, artifacts, scores) for image_id in chosen]


def _example(
    image_id: str, artifacts: Mapping[str, Artifact], scores: Mapping[str, dict[str, Any]]
) -> figures.PanelRow:
    row = artifacts["images"].table("rows").take([image_id], ["image", "mask"])[0]
    image_HWC = decode_image(row["image"])
    size = image_HWC.shape[:2]
    maps = {step: _maps(artifacts[step], image_id, size) for step in MAPS if step in artifacts}
    last = "amn" if "amn" in maps else "cam"
    keys, maps_KHW = maps[last]
    threshold = scores[last]["config"]["threshold"]
    labels = np.array([0, *keys], np.uint8)
    constant = np.full((1, *size), threshold, np.float32)
    return figures.PanelRow(
        image=image_HWC,
        truth=decode_mask(row["mask"]),
        cam=_largest(maps["cam"][1], size),
        seed=_mask(artifacts["seed"], image_id) if "seed" in artifacts else None,
        amn=_largest(maps["amn"][1], size) if "amn" in maps else None,
        prediction=labels[np.concatenate([constant, maps_KHW]).argmax(0)],
    )


def _maps(artifact: Artifact, image_id: str, size: tuple[int, int]) -> tuple[list[int], np.ndarray]:
    row = artifact.table("maps").take([image_id], ["keys", "maps", "h", "w"])[0]
    return row["keys"], full_size(from_row(row), *size)


def _largest(maps_KHW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return maps_KHW.max(0) if len(maps_KHW) else np.zeros(size, np.float32)


def _mask(artifact: Artifact, image_id: str) -> np.ndarray:
    return decode_mask(artifact.table("masks").take([image_id], ["mask"])[0]["mask"])
