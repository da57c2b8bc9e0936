"""From the sampled features to the prototypes of all classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from amn_ray.core.artifacts import MODEL, Artifact
from amn_ray.core.tables import Table
from amn_ray.stages.lpcam.config import LpcamPrototypesConfig
from amn_ray.stages.lpcam.model import chosen_centres, direction, k_means
from amn_ray.stages.lpcam.sample import CONTEXT, OWN, Sample

BYTES_AT_ONCE = 2**30
"""Of features that are in memory together, a class at least."""


def write_prototypes(
    config: LpcamPrototypesConfig, sample: Sample, features: Table, classifier: Artifact, output: Artifact
) -> dict[str, list[int]]:
    """Cluster the features class by class, and write the direction of each class.

    Args:
        config: the settings.
        sample: which features belong to each class and part.
        features: the table of features.
        classifier: its weights.
        output: gets `model.safetensors`: `directions` (N, C), and `known` (N), whether a class has prototypes.

    Returns:
        By class, the numbers of `prototypes` and of centres of its `context`.
    """
    weights_NC = safetensors.torch.load(classifier.read(MODEL))["classifier.weight"].flatten(1).float()
    directions_NC, known_N = torch.zeros_like(weights_NC), torch.zeros(len(weights_NC), dtype=torch.bool)
    counted = {"prototypes": [0] * len(weights_NC), "context": [0] * len(weights_NC)}
    labels = sorted(label for label, part in sample if part == OWN)
    for group in _groups(labels, sample, weights_NC.shape[1]):
        rows = _rows(features, {key: places for key, places in sample.items() if key[0] in group}, weights_NC.shape[1])
        for label in group:
            centres = {
                part: k_means(rows[label, part], _start(rows[label, part], config, label, part))
                for part in (OWN, CONTEXT)
                if (label, part) in rows
            }
            nothing = weights_NC[:0]
            own_kC, context_kC = chosen_centres(
                centres[OWN],
                centres.get(CONTEXT, nothing),
                weights_NC,
                label - 1,
                own=config.own,
                bounds=config.context,
            )
            directions_NC[label - 1], known_N[label - 1] = direction(own_kC, context_kC), True
            counted["prototypes"][label - 1], counted["context"][label - 1] = len(own_kC), len(context_kC)
    output.write(MODEL, safetensors.torch.save({"directions": directions_NC, "known": known_N}))
    return counted


def _groups(labels: Sequence[int], sample: Sample, channels: int) -> Iterator[list[int]]:
    """Classes whose features fit into memory together."""
    group: list[int] = []
    held = 0
    for label in labels:
        size = 4 * channels * sum(len(sample.get((label, part), ())) for part in (OWN, CONTEXT))
        if group and held + size > BYTES_AT_ONCE:
            yield group
            group, held = [], 0
        group.append(label)
        held += size
    if group:
        yield group


def _rows(features: Table, sample: Sample, channels: int) -> dict[tuple[int, int], Tensor]:
    """The features of each class and part, in the order of the sample."""
    result = {key: np.empty((len(places), channels), np.float32) for key, places in sample.items()}
    wanted: dict[str, list[tuple[tuple[int, int], int, int]]] = {}
    for key, places in sample.items():
        for row, (image_id, position) in enumerate(places):
            wanted.setdefault(image_id, []).append((key, row, position))
    for image_id in sorted(wanted):
        (stored,) = features.take([image_id], ["positions", "features"])
        place = {position: row for row, position in enumerate(stored["positions"])}
        features_nC = np.frombuffer(stored["features"], np.float32).reshape(-1, channels)
        for key, row, position in wanted[image_id]:
            result[key][row] = features_nC[place[position]]
    return {key: torch.from_numpy(rows) for key, rows in result.items()}


def _start(rows_nC: Tensor, config: LpcamPrototypesConfig, label: int, part: int) -> Tensor:
    """Different rows, as many as there are clusters."""
    rng = np.random.default_rng([config.seed or 0, label, part])
    return rows_nC[rng.permutation(len(rows_nC))[: config.clusters]]
