"""Two parts of the images that have ground truth: one selects, the other reports.

A number by which settings, thresholds or epochs were chosen is too good to report. So every score also comes for two
disjoint parts: each fifth image (in the order of the ids) is for selection, all others are for the report.
"""

from __future__ import annotations

from collections.abc import Iterable

EVERY = 5


def selection_ids(scored: Iterable[str]) -> list[str]:
    """Of the ids of all images with ground truth, those that select."""
    return sorted(scored)[::EVERY]


def report_ids(scored: Iterable[str]) -> list[str]:
    """The others: those that report."""
    ids = sorted(scored)
    selecting = set(selection_ids(ids))
    return [image_id for image_id in ids if image_id not in selecting]
