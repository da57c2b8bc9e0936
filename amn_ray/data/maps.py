"""Maps as they are stored (float16, stride 4), and as they are used: on the stored grid, or at full size.

AMN's maps are stored as the network's probabilities beside the seed that modulates them, and modulated at the size at
which they are used: a seed's borders are as sharp as its pixels.

Legend: K = classes of one image, H W = its pixels, h w = ⌈H/4⌉ ⌈W/4⌉, the stored grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from PIL import Image

from amn_ray.data.images import decode_mask
from amn_ray.data.source import IGNORE
from amn_ray.data.transforms import resize_label

STORED_STRIDE = 4
SCHEMA = pa.schema(
    {
        "image_id": pa.string(),
        "keys": pa.list_(pa.int16()),
        "maps": pa.binary(),  # float16, little-endian, [K, h, w]
        "h": pa.int32(),
        "w": pa.int32(),
        "refined": pa.binary(),  # PNG of the seed, null for maps that nothing modulates
    }
)
"""One row of a maps table. `keys` are labels 1…N; the background is not among them."""
MAP_COLUMNS = ("keys", "maps", "h", "w", "refined")
"""What `grid_maps` and `pixel_maps` need of a row."""


def stored_size(height: int, width: int) -> tuple[int, int]:
    """(H, W) -> (h, w) = ((H−1)//4+1, (W−1)//4+1)."""
    return (height - 1) // STORED_STRIDE + 1, (width - 1) // STORED_STRIDE + 1


def to_row(image_id: str, keys: list[int], maps_Khw: np.ndarray, seed: bytes | None = None) -> dict[str, object]:
    """A row of SCHEMA of float maps (K, h, w), and of the seed (mask PNG of the image's size) that modulates them."""
    _, h, w = maps_Khw.shape
    maps = maps_Khw.astype("<f2").tobytes()
    return {"image_id": image_id, "keys": keys, "maps": maps, "h": h, "w": w, "refined": seed}


def grid_maps(row: dict) -> np.ndarray:
    """The maps of a row on the stored grid, float32 (K, h, w)."""
    maps_Khw = _probabilities(row)
    if row["refined"] is None:
        return maps_Khw
    return modulate(maps_Khw, resize_label(decode_mask(row["refined"]), row["h"], row["w"]))


def pixel_maps(row: dict, height: int, width: int) -> np.ndarray:
    """The maps of a row at the size of its image, float32 (K, H, W)."""
    maps_KHW = full_size(_probabilities(row), height, width)
    return maps_KHW if row["refined"] is None else modulate(maps_KHW, decode_mask(row["refined"]))


def _probabilities(row: dict) -> np.ndarray:
    shape = (len(row["keys"]), row["h"], row["w"])
    return np.frombuffer(row["maps"], "<f2").reshape(shape).astype(np.float32)


def modulate(maps_Khw: np.ndarray, seed_hw: np.ndarray) -> np.ndarray:
    """Seed modulation (method 5): min–max normalised values where the CAM seed is not background.

    Args:
        maps_Khw: probabilities float32.
        seed_hw: the CAM's refined seed at the maps' size (0…N, 255).

    Returns:
        float32 (K, h, w): where `seed_hw` is 0 the probability itself; elsewhere (foreground or 255) each class's
        probability, scaled so that its smallest value in the image becomes 0 and its largest 1.
    """
    low = maps_Khw.min(axis=(1, 2), keepdims=True)
    high = maps_Khw.max(axis=(1, 2), keepdims=True)
    normalised = (maps_Khw - low) / (high - low + 1e-5)
    return np.where(seed_hw == 0, maps_Khw, normalised)


def full_size(maps_Khw: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resampling to the image: float32 (K, h, w) -> (K, H, W).

    Pillow's, which enlarges exactly like `F.interpolate(mode="bilinear", align_corners=False)`, but needs no PyTorch.
    Where it scales down, it averages.
    """
    full = np.empty((len(maps_Khw), height, width), np.float32)
    for target, map_hw in zip(full, maps_Khw, strict=True):
        target[:] = np.asarray(Image.fromarray(map_hw).resize((width, height), Image.Resampling.BILINEAR))
    return full


def at_most_stored(maps_Khw: np.ndarray, height: int, width: int) -> np.ndarray:
    """Maps of an image of this size as they are, or on the stored grid where theirs is finer: float32 (K, h, w)."""
    size = stored_size(height, width)
    return full_size(maps_Khw, *size) if maps_Khw.shape[1] > size[0] or maps_Khw.shape[2] > size[1] else maps_Khw


def as_stored(maps_Khw: np.ndarray, height: int, width: int) -> np.ndarray:
    """Maps of an image of this size as they come back from a table: float32 (K, h, w)."""
    return at_most_stored(maps_Khw, height, width).astype("<f2").astype(np.float32)


def hard_labels(maps_KHW: np.ndarray, threshold: float) -> np.ndarray:
    """Argmax of the maps behind a constant background: int32 (H, W), 0 = background, k = the k-th map (1…K)."""
    background = np.full((1, *maps_KHW.shape[1:]), threshold, maps_KHW.dtype)
    return np.concatenate([background, maps_KHW]).argmax(0).astype(np.int32)


def combined_seed(sure_foreground_HW: np.ndarray, any_foreground_HW: np.ndarray, keys: Sequence[int]) -> np.ndarray:
    """One seed of the labels at two thresholds (method 3, after Ahn et al.).

    Args:
        sure_foreground_HW: local labels 0…K (0 = background, k = the k-th class) of the run at conf_fg.
        any_foreground_HW: those of the run at conf_bg.
        keys: K labels 1…N.

    Returns:
        uint8 (H, W): a label of `keys` where the run at conf_fg says so; 0 where both runs say background; else 255.
    """
    seed_HW = np.array([0, *keys], np.uint8)[sure_foreground_HW]
    seed_HW[(sure_foreground_HW == 0) & (any_foreground_HW > 0)] = IGNORE
    return seed_HW
