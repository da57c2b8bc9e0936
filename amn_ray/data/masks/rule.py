"""One mask by the rule of its set: an encoded file -> labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from amn_ray.data.images import BadFile
from amn_ray.data.masks.colours import is_grey, packed, unpacked, voc_colours
from amn_ray.data.masks.pixels import MaskPixels, distinct, mask_pixels
from amn_ray.data.palette import Colour
from amn_ray.data.source import IGNORE


@dataclass(frozen=True)
class MaskRule:
    """How every mask of a set is read. Small: it travels to workers."""

    values: str
    """index, binary or colour; see `dataset.mask_values`."""
    labels: tuple[int, ...]
    """The labels that masks may hold beside 0 and 255."""
    palette: Mapping[int | Colour, int] | None = None
    """The label of each colour (or value); null: VOC's colours."""
    white: int | None = None
    """binary: the only value beside 0; null cuts at half of white."""
    tolerant: bool = False
    """colour: colours that are not in the palette are undefined, as blended edges are."""


def read_mask(encoded: bytes, rule: MaskRule, labels: Sequence[int] = ()) -> np.ndarray:
    """An encoded mask -> label values uint8 (H, W).

    Args:
        encoded: the content of a mask file.
        rule: of its set.
        labels: the image's labels, of which `binary` needs the only one if there are several classes.

    Raises:
        ValueError: its pixels do not keep to the rule.
        BadFile: not an image, damaged or cut short.
    """
    try:
        pixels = mask_pixels(encoded)
    except BadFile as error:  # what is told of an image and its mask names the image
        raise BadFile(str(error) if str(error).startswith("mask") else f"mask: {error}") from error
    if rule.values == "binary":
        return _binary(pixels, rule, labels)
    if rule.values == "colour":
        return _coloured(pixels, rule)
    if pixels.values is None:
        raise ValueError("mask is coloured, but labels are expected; set dataset.mask_values=colour or dataset.palette")
    if pixels.lossy:
        raise ValueError(f"mask is a {pixels.lossy} file, which alters labels; save masks as PNG")
    if wrong := sorted(set(distinct(pixels.values)) - {0, IGNORE, *rule.labels}):
        raise ValueError(
            f"mask has the value {wrong[0]}, expected {label_range(rule.labels)} or {IGNORE}: the class list does not "
            "match; correct dataset.classes, or set dataset.mask_values or dataset.palette"
        )
    return pixels.values.astype(np.uint8)


def _binary(pixels: MaskPixels, rule: MaskRule, labels: Sequence[int]) -> np.ndarray:
    values_HW = pixels.values
    if values_HW is None:
        assert pixels.colours is not None
        rgb = (pixels.colours >> 16, pixels.colours >> 8 & 255, pixels.colours & 255)
        values_HW = np.maximum.reduce(rgb)
    elif pixels.colours is not None and all(is_grey(colour) for colour in distinct(pixels.colours)):
        values_HW = pixels.colours & 255  # what a palette shows: its indices may be reversed
    found = distinct(values_HW)
    if rule.white is not None:
        if wrong := sorted(set(found) - {0, rule.white}):
            raise ValueError(
                f"mask has the value {wrong[0]}, but the others hold only 0 and {rule.white}; correct it, or say what "
                "masks hold by dataset.mask_values"
            )
        object_HW = values_HW == rule.white
    elif len(set(found) - {0}) <= 1 and not pixels.lossy:
        object_HW = values_HW > 0
    elif found[-1] * 2 < pixels.white and not pixels.lossy:
        raise ValueError(
            f"mask has the values {few(found)}, none of them near white ({pixels.white}): it is not black and white; "
            "correct dataset.mask_values"
        )
    else:
        object_HW = values_HW > pixels.white // 2  # not values * 2, which 8 bits cannot hold
    if not object_HW.any():
        return np.zeros(object_HW.shape, np.uint8)
    own = rule.labels if len(rule.labels) == 1 else labels
    if len(own) != 1:
        raise ValueError(
            f"mask is black and white (dataset.mask_values=binary), but its image has {len(own)} labels, so its class "
            "is unknown; give it a mask of labels, or leave it without mask"
        )
    return np.where(object_HW, own[0], 0).astype(np.uint8)


def _coloured(pixels: MaskPixels, rule: MaskRule) -> np.ndarray:
    palette = rule.palette if rule.palette is not None else voc_colours(rule.labels)
    if any(isinstance(key, int) for key in palette):
        keys_HW, named = pixels.values, {key: label for key, label in palette.items() if isinstance(key, int)}
        if keys_HW is None:
            raise ValueError("mask is coloured, but dataset.palette lists grey values; list colours")
    else:
        keys_HW = _shown(pixels)
        named = {int(packed(np.array(key))): label for key, label in palette.items()}
        shown = distinct(keys_HW)
        if rule.palette is None and not set(shown) <= set(named) and all(is_grey(colour) for colour in shown):
            named = {value * 0x010101: value for value in (0, IGNORE, *rule.labels)}
    found, inverse = np.unique(keys_HW, return_inverse=True)
    labels = np.array([named.get(int(key), -1) for key in found])
    mask_HW = labels[inverse].reshape(keys_HW.shape)
    strange_HW = mask_HW < 0
    share = strange_HW.mean()
    if share > (0.25 if rule.tolerant else 0):
        first = found[labels < 0][0]
        what = f"the value {first}" if keys_HW is pixels.values else f"the colour {unpacked(int(first))}"
        raise ValueError(
            f"mask has {what}, which is in no palette ({share:.1%} of its pixels are not); add it to dataset.palette"
            + ("" if rule.tolerant else ", or set dataset.mask_values=colour, which leaves such pixels undefined")
        )
    return np.where(strange_HW, IGNORE, mask_HW).astype(np.uint8)


def _shown(pixels: MaskPixels) -> np.ndarray:
    """The colours 0xRRGGBB (H, W) that a viewer shows."""
    if pixels.colours is not None:
        return pixels.colours
    assert pixels.values is not None
    return np.minimum(pixels.values, 255).astype(np.int32) * 0x010101


def label_range(labels: Sequence[int]) -> str:
    """The labels for a sentence: 0…N, or some of them if they have gaps."""
    if list(labels) == list(range(1, len(labels) + 1)):
        return f"0…{len(labels)}"
    return f"0, {few(labels)}"


def few(items: Iterable[Any]) -> str:
    """The first of them for a sentence."""
    listed = sorted(items)
    return ", ".join(map(str, listed[:6])) + (f", … ({len(listed)} in all)" if len(listed) > 6 else "")
