"""The paper's published numbers (CVPR 2022), for comparison. All mIoU in %."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

ABLATION: Mapping[str, tuple[float, float]] = {"CAM": (54.3, 66.3), "+PCL": (62.1, 69.1), "+PCL+LC": (65.3, 72.2)}
"""Table 1, VOC train: refined by CRF, by IRN."""

PLACEMENT: Sequence[tuple[tuple[str, ...], float | None]] = (
    ((), None),
    (("layer1",), 48.2),
    (("layer2",), 51.7),
    (("layer3",), 61.2),
    (("layer4",), 62.1),
    (("layer3", "layer4"), 61.0),
    (("layer2", "layer3"), 50.9),
    (("layer2", "layer3", "layer4"), 51.4),
)
"""Table 2, VOC train, without refinement: label conditioning after these layers."""

METHODS: Mapping[str, tuple[float | None, float | None, float]] = {
    "CAM": (48.3, 54.3, 66.3),
    "SEAM": (55.4, 56.8, 63.6),
    "MBMNet": (None, None, 66.8),
    "CONTA": (None, None, 67.9),
    "AdvCAM": (55.6, 62.1, 69.9),
    "RIB": (56.5, 62.9, 70.6),
    "ReCAM": (54.8, None, 70.5),
    "LPCAM": (54.9, None, 71.2),
    "AMN without LC": (None, 62.1, 69.1),
    "AMN": (62.1, 65.3, 72.2),
    "AMN on LPCAM": (65.3, None, 72.7),
}
"""Table 3 and what else was published of its methods, VOC train: maps at the best τ, refined by CRF, pseudo-masks.

The pseudo-masks of the paper's Table 3 are CAM's (there: IRN) to RIB's and AMN's; the other figures are those of the
methods' own papers, repositories and issue threads (docs/rivals.md says which)."""

SEGMENTATION: Mapping[str, tuple[float, float]] = {
    "RIB": (68.3, 68.6),
    "AMN (ImageNet)": (69.5, 69.6),
    "AMN (COCO)": (70.7, 70.6),
}
"""Table 4, VOC val, test."""

COCO: Mapping[str, float] = {"IRN": 41.4, "RIB": 43.8, "AMN": 44.7}
"""Table 5, COCO val."""
