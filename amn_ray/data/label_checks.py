"""Whether a data set can teach anything: its labels on their own, and against what its masks hold.

Pure functions on numbers. Both are for a training split; of other splits `review_masks` is enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from amn_ray.data.source import IGNORE

HANDFUL = 5
"""A class in fewer images than this is learnt from almost nothing; so few contradictions are no system."""


def review_labels(labels: Sequence[Sequence[int]], classes: Sequence[str]) -> list[str]:
    """Classes that a classifier cannot learn: in every image, in a handful of them, in none.

    Args:
        labels: of each image, 1…N.
        classes: names of the labels 1…N.
    """
    count = Counter(label for row in labels for label in set(row))
    total, result = len(labels), []
    if total and not count:
        return [
            f"none of the {total} images has a label, so there is nothing to learn; label them, or see dataset.classes"
        ]
    number = {name: count[label] for label, name in enumerate(classes, start=1)}
    if always := [name for name, n in number.items() if n == total > 1]:
        result.append(
            f"{_names(always)} {'is' if len(always) == 1 else 'are'} in every one of {total} images, so no image shows "
            "what is not the class and its maps will cover whole images; add images without it (and set "
            "dataset.allow_unlabelled=true where they have no label)"
        )
    if few := [f"{name} ({n})" for name, n in number.items() if 0 < n < HANDFUL and n < total]:
        result.append(
            f"classes in fewer than {HANDFUL} of {total} images are hardly learnt: {_few(few)}; add images, or leave "
            "them out by dataset.classes"
        )
    if absent := [name for name, n in number.items() if n == 0]:
        result.append(f"no image has {_names(absent)}; correct the labels, or dataset.classes")
    return result


def review_masks(
    labels: Sequence[Sequence[int]], present: Sequence[Sequence[int]], classes: Sequence[str], ids: Sequence[str]
) -> tuple[list[str], str | None]:
    """Where masks and labels contradict one another; refused where most images do.

    A class that is labelled and not in the mask is no contradiction if the mask has undefined pixels: small objects
    may be all of them.

    Args:
        labels: of each image that has a mask, 1…N.
        present: the values in its mask, 0…N and 255.
        classes: names of the labels 1…N.
        ids: of these images.

    Returns:
        What the user should know before hours are spent, and why the set is refused (None: it is not).
    """
    told: list[str] = []
    pairs = [(image, set(row), set(values)) for image, row, values in zip(ids, labels, present, strict=True)]
    if void := [image for image, _, values in pairs if values == {IGNORE}]:
        told.append(
            f"{len(void)} of {len(pairs)} masks, such as that of image {void[0]!r}, are {IGNORE} (undefined) "
            "everywhere, so nothing is measured there; see dataset.mask_values"
        )
    extra, lacking = [], []
    for image, row, values in pairs:
        seen = values - {0, IGNORE}
        if seen - row:
            extra.append((image, min(seen - row)))
        if row - seen and IGNORE not in values:
            lacking.append((image, min(row - seen)))
    for found, sentence in (
        (extra, "hold a class that labels lack"),
        (lacking, "lack a class that labels name"),
    ):
        if found:
            image, label = found[0]
            told.append(
                f"{len(found)} of {len(pairs)} masks {sentence}, such as {classes[label - 1]!r} (label {label}) of "
                f"image {image!r}; correct its labels or its mask"
            )
    wrong = {image for image, _ in [*extra, *lacking]}
    if len(wrong) * 2 <= len(pairs) or len(wrong) <= HANDFUL:  # so few can be mended by hand
        return told, None
    # Objects lost under undefined pixels are common, other contradictions of most images are not.
    image, row, values = next(pair for pair in pairs if pair[0] in wrong)
    return told, (
        f"in {len(wrong)} of {len(pairs)} images labels and mask contradict one another, such as image {image!r} with "
        f"the labels {_numbered(row, classes)} and a mask of {_numbered(values - {0, IGNORE}, classes)}; "
        + _remedy(pairs, classes)
    )


def _remedy(pairs: Sequence[tuple[str, set[int], set[int]]], classes: Sequence[str]) -> str:
    if order := _permutation([(row, values - {0, IGNORE}) for _, row, values in pairs], len(classes)):
        return f"labels and masks agree with dataset.classes=[{','.join(classes[label - 1] for label in order)}]"
    seen = {value for _, _, values in pairs for value in values - {0, IGNORE}}
    if len(seen) == 1 and len(classes) > 1:
        return (
            f"all masks hold only {seen.pop()}: set dataset.mask_values=binary if that is the class of the image, or "
            "give dataset.classes in the order of the masks' values"
        )
    return (
        "give dataset.classes in the order of the masks' values 1…N (0 is background, 255 undefined), or say how masks "
        "are read by dataset.mask_values or dataset.palette"
    )


def _permutation(pairs: Sequence[tuple[set[int], set[int]]], num_classes: int) -> list[int] | None:
    """The order of classes in which the labels are the masks' values; None if there is none for nearly all images."""
    together = np.zeros((num_classes, num_classes))
    apart = np.zeros((num_classes, num_classes))
    for row, seen in pairs:
        for value in seen:
            for label in range(1, num_classes + 1):
                (together if label in row else apart)[value - 1, label - 1] += 1
    _, label_of_value = linear_sum_assignment(apart - together)
    order = [int(label) + 1 for label in label_of_value]
    fitting = sum({order[value - 1] for value in seen} <= row for row, seen in pairs if seen)
    return order if fitting >= 0.95 * sum(bool(seen) for _, seen in pairs) and fitting else None


def _numbered(labels: set[int], classes: Sequence[str]) -> str:
    return ", ".join(f"{label} ({classes[label - 1]})" for label in sorted(labels)) or "nothing"


def _names(names: Sequence[str]) -> str:
    return ("the class " if len(names) == 1 else "the classes ") + _few(names)


def _few(items: Sequence[str]) -> str:
    return ", ".join(items[:8]) + (f", … ({len(items)} in all)" if len(items) > 8 else "")
