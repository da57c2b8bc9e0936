"""The images with ground truth, divided into a selection split and a report split.

A number by which settings, thresholds or epochs were chosen is biased. So every score is also computed on two disjoint
splits: every fifth image (in the order of the ids) is for selection, all others are for the report.
"""

from __future__ import annotations

from collections.abc import Iterable

EVERY = 5


def selection_ids(scored: Iterable[str]) -> list[str]:
    """The selection split of the ids of all images with ground truth."""
    return sorted(scored)[::EVERY]


def report_ids(scored: Iterable[str]) -> list[str]:
    """The report split: all others."""
    ids = sorted(scored)
    selecting = set(selection_ids(ids))
    return [image_id for image_id in ids if image_id not in selecting]
