"""The random walk that spreads activation maps up to the boundaries (method 8).

Legend: K = maps, H W = pixels of the image, h w = the grid of stride 4, P = h·w.

The released code forms the dense P × P transition matrix and squares it eight times; the same result comes from
applying the sparse matrix (about 70 entries per row at radius 5) 256 times to the K maps.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from amn_ray.stages.irn.config import WalkConfig
from amn_ray.stages.irn.model import affinity
from amn_ray.stages.irn.paths import paths


def transition(edge_hw: Tensor, radius: int, beta: float) -> Tensor:
    """The transition matrix T, transposed: sparse CSR (P, P).

    An entry is affinity^β (1 to itself), divided so that each column of T sums to 1.
    """
    height, width = edge_hw.shape
    index = torch.arange(height * width, device=edge_hw.device).view(height, width)
    own = index.flatten()
    rows, columns, values = [own], [own], [edge_hw.new_ones(own.shape)]
    for path in paths(radius):
        if path.dy < height and abs(path.dx) < width:
            one, other = (index[path.window(end, height, width)].flatten() for end in ((0, 0), (path.dy, path.dx)))
            weight = affinity(edge_hw[None], path).flatten() ** beta
            rows += [one, other]
            columns += [other, one]
            values += [weight, weight]
    row, column, value = torch.cat(rows), torch.cat(columns), torch.cat(values)
    # The affinity is symmetric, so T's columns, transposed, are rows divided by the sums of the same rows.
    total = edge_hw.new_zeros(own.shape).index_add(0, row, value)
    with warnings.catch_warnings(), torch.sparse.check_sparse_tensor_invariants(enable=False):
        warnings.filterwarnings("ignore", message=".*CSR.*")  # "is in beta state"
        return torch.sparse_coo_tensor(torch.stack([row, column]), value / total[row], (len(own),) * 2).to_sparse_csr()


def random_walk(maps_Khw: Tensor, edge_hw: Tensor, config: WalkConfig) -> Tensor:
    """(map^power · (1 − edge)) · T^(2^doublings): (K, h, w) -> (K, h, w)."""
    step = transition(edge_hw, config.radius, config.beta)
    state_PK = (maps_Khw**config.power * (1 - edge_hw)).flatten(1).T.contiguous()
    for _ in range(2**config.doublings):
        state_PK = step @ state_PK
    return state_PK.T.reshape(maps_Khw.shape)


@torch.inference_mode()
def pseudo_mask(
    maps_Khw: Tensor, edge_hw: Tensor, keys: Sequence[int], size: tuple[int, int], config: WalkConfig
) -> np.ndarray:
    """The pseudo-mask of an image: walk, ×4 bilinear, division by the maximum over all classes, argmax.

    Args:
        maps_Khw: float32 maps of the classes `keys`, at stride 4.
        edge_hw: edge probabilities float32 of the same grid.
        keys: K labels 1…N.
        size: (H, W) of the image.
        config: walk and background score.

    Returns:
        uint8 (H, W): 0 or a label of `keys`; all 0 for an image without label.
    """
    height, width = size
    if not keys:
        return np.zeros(size, np.uint8)
    walked = random_walk(maps_Khw, edge_hw, config)
    full = F.interpolate(walked[None], scale_factor=4, mode="bilinear", align_corners=False)[0, :, :height, :width]
    scores = full / full.amax().clamp(min=torch.finfo(full.dtype).tiny)
    background = torch.full_like(scores[:1], config.background)
    labels = np.array([0, *keys], np.uint8)
    return labels[torch.cat([background, scores]).argmax(0).cpu().numpy()]
