"""What a whole set of photographs says that a single one cannot: which way masks lie, and what white is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from amn_ray.core.errors import RequestError
from amn_ray.data.images import BadFile, Geometry, Photograph
from amn_ray.data.pixels import Pixels

UPRIGHT, LYING, EITHER = "upright", "lying", "either"
"""Which of its image a mask's size is that of: the upright one, the one in the file, or both."""
DARKEST = 1 / 8
"""Of white. Where no image reaches it, white is likely not what we think: 12 bits in a file of 16 reach 1/16."""
BRIGHTEST = 2
"""Of white. More is not noise, or what sharpening adds, but another white."""
FACTS = ("low", "peak", "floats")
"""What `review_photographs` needs of each image; see stages/images."""


def mask_lay(size: tuple[int, int], image: Geometry) -> str | None:
    """Which picture a mask of `size` (height, width) belongs to, as far as sizes tell; None where nothing is turned."""
    if image.orientation == 1 or not image.upright:
        return None
    if image.size == image.lying:
        return EITHER
    return UPRIGHT if size == image.size else LYING


def review_photographs(rows: Iterable[Mapping[str, Any]], pixels: Pixels) -> list[str]:
    """What the user should know of these images.

    Args:
        rows: `image_id` and FACTS of each image.
        pixels: how they were read.

    Raises:
        RequestError: images of more than 8 bits would be black or white, or lose what is below 0.
    """
    rows = list(rows)
    told: list[str] = []
    deep = [row for row in rows if row["peak"] is not None]
    kinds = [kind for kind in ([row for row in deep if row["floats"] is floats] for floats in (False, True)) if kind]
    for kind in kinds:
        told += _about_white(kind, pixels, alone=len(kinds) == 1)
    return told


def review_lays(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the user should know of masks whose photographs are turned.

    Args:
        rows: `image_id` and `mask_lay` (see there) of each mask.
    """
    rows = list(rows)
    either = [row for row in rows if row["mask_lay"] == EITHER]
    if not either:
        return []
    lying = sum(row["mask_lay"] == LYING for row in rows)
    others = f" (of others, whose sizes tell, {lying} lie)" if lying else ""
    return [
        f"{len(either)} masks count as upright, although their sizes do not tell whether they were drawn on the "
        f"photograph as its EXIF orientation turns it or as it lies in the file, the first that of image "
        f"{either[0]['image_id']!r}{others}; if they lie, set dataset.exif=ignore"
    ]


def _about_white(rows: list[Mapping[str, Any]], pixels: Pixels, *, alone: bool) -> list[str]:
    """Of the images of integers with more than 8 bits, or of floats.

    A white that is set is the user's answer, and what it cuts off is only told; but one answer cannot be right for
    integers and floats if one of them stays black.
    """
    floats = rows[0]["floats"]
    kind = f"{len(rows)} images of {'floats' if floats else 'more than 8 bits'}"
    white, is_set = pixels.white_of(floats=floats), pixels.white is not None
    brightest = max(rows, key=lambda row: row["peak"])
    peak, name = brightest["peak"], brightest["image_id"]
    above = sum(row["peak"] > white for row in rows)
    below = [row for row in rows if row["low"] < 0]
    likely = peak if floats or peak < 1 else 2 ** int(peak).bit_length() - 1
    answer = f"set dataset.white={likely:.7g} if that is white, or dataset.white={white:g} to take them as they are"
    dark = 0 < peak < DARKEST * white  # nothing is lost of what is black
    if dark and not (is_set and alone):
        if is_set:
            answer = "integers and floats in one data set need the same white; convert the ones or the others"
        raise RequestError(
            f"dataset.white={white:g}: the largest value in {kind} is {peak:.7g} (image {name!r}), so all would be "
            f"nearly black; {answer}"
        )
    if peak > BRIGHTEST * white and not is_set:
        raise RequestError(
            f"dataset.white={white:g}: {above} of {kind} hold larger values, up to {peak:.7g} (image {name!r}), which "
            f"would all be white; {answer}"
        )
    if 2 * len([row for row in below if row["low"] < -DARKEST * white]) > len(rows) and not is_set:
        raise RequestError(
            f"dataset.white={white:g}: most of {kind} hold values far below 0, as image {below[0]['image_id']!r} with "
            f"{below[0]['low']:.7g}, which would all be black; save them from 0 on, or set dataset.white to have that"
        )
    told = []
    if dark:
        told.append(f"the largest value in {kind} is {peak:.7g}: with dataset.white={white:g} they are nearly black")
    if above:
        told.append(
            f"{above} of {kind} hold values above dataset.white={white:g}, which are white: up to {peak:.7g} in image "
            f"{name!r}"
        )
    if below:
        told.append(
            f"{len(below)} of {kind} hold values below 0, which are black, as image {below[0]['image_id']!r} with "
            f"{below[0]['low']:.7g}; save them from 0 on if that matters (dataset.white scales upwards only)"
        )
    return told


def check_white(image: Photograph, pixels: Pixels) -> None:
    """Refuse an image of more than 8 bits whose white cannot be that of the training's images.

    Raises:
        BadFile: nobody has set white, and its values are far beyond the one that is assumed.
    """
    share = brightness(image, pixels)
    if pixels.white is None and share is not None and share > BRIGHTEST:
        raise BadFile(
            f"has values up to {image.peak:.7g}, but white was {pixels.white_of(floats=image.floats):g} when the "
            "network was trained (dataset.white=null); scale them"
        )


def brightness(image: Photograph, pixels: Pixels) -> float | None:
    """The largest value of an image of more than 8 bits, as a share of white; None for other images."""
    return None if image.peak is None else image.peak / pixels.white_of(floats=image.floats)


def dark_warning(shares: Iterable[float], pixels: Pixels) -> str | None:
    """What to say of images to predict that are so dark together that their white is likely another one.

    Args:
        shares: the `brightness` of those with more than 8 bits.
        pixels: how the training's images were read, and these.
    """
    shares = list(shares)
    brightest = max(shares, default=0)
    if pixels.white is not None or not 0 < brightest < DARKEST:
        return None
    return (
        f"{len(shares)} images of more than 8 bits reach {brightest:.1%} of white at most, so the network saw them "
        "nearly black; scale their values to 0…65535 (floats: 0…1), as white was when it was trained "
        "(dataset.white=null)"
    )
