"""Maps as they are stored (float16, stride 4), and back at full size.

Legend: K = classes of one image, H W = its pixels, h w = ⌈H/4⌉ ⌈W/4⌉, the stored grid.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from PIL import Image

STORED_STRIDE = 4
SCHEMA = pa.schema(
    {
        "image_id": pa.string(),
        "keys": pa.list_(pa.int16()),
        "maps": pa.binary(),  # float16, little-endian, [K, h, w]
        "h": pa.int32(),
        "w": pa.int32(),
    }
)
"""One row of a maps table. `keys` are labels 1…N; the background is not among them."""


def stored_size(height: int, width: int) -> tuple[int, int]:
    """(H, W) -> (h, w) = ((H−1)//4+1, (W−1)//4+1)."""
    return (height - 1) // STORED_STRIDE + 1, (width - 1) // STORED_STRIDE + 1


def to_row(image_id: str, keys: list[int], maps_Khw: np.ndarray) -> dict[str, object]:
    """A row of SCHEMA of float maps (K, h, w)."""
    _, h, w = maps_Khw.shape
    return {"image_id": image_id, "keys": keys, "maps": maps_Khw.astype("<f2").tobytes(), "h": h, "w": w}


def from_row(row: dict) -> np.ndarray:
    """The maps of a row, float32 (K, h, w)."""
    shape = (len(row["keys"]), row["h"], row["w"])
    return np.frombuffer(row["maps"], "<f2").reshape(shape).astype(np.float32)


def full_size(maps_Khw: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear upsampling to the image: float32 (K, h, w) -> (K, H, W).

    Pillow's, which enlarges exactly like `F.interpolate(mode="bilinear", align_corners=False)`, but needs no PyTorch.
    """
    full = np.empty((len(maps_Khw), height, width), np.float32)
    for target, map_hw in zip(full, maps_Khw, strict=True):
        target[:] = np.asarray(Image.fromarray(map_hw).resize((width, height), Image.Resampling.BILINEAR))
    return full


def hard_labels(maps_KHW: np.ndarray, threshold: float) -> np.ndarray:
    """Argmax of the maps behind a constant background: int32 (H, W), 0 = background, k = the k-th map (1…K)."""
    background = np.full((1, *maps_KHW.shape[1:]), threshold, maps_KHW.dtype)
    return np.concatenate([background, maps_KHW]).argmax(0).astype(np.int32)
