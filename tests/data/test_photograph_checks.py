"""What a set of photographs says that a single one cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from amn_ray.core.errors import RequestError
from amn_ray.data.images import Geometry, read_image
from amn_ray.data.photograph_checks import (
    EITHER,
    FACTS,
    LYING,
    UPRIGHT,
    brightness,
    dark_warning,
    mask_lay,
    review_lays,
    review_photographs,
)
from amn_ray.data.pixels import DEFAULT, Pixels
from tests.conftest import encode, noise


def photograph(orientation: int, height: int = 4, width: int = 6, *, upright: bool = True) -> Geometry:
    return Geometry((height, width), orientation, upright, (height, width))


def row(name: str, **facts: Any) -> dict[str, Any]:
    return {"image_id": name, **dict.fromkeys(FACTS), "floats": False, **facts}


def of_integers(*peaks: float, low: float = 0) -> list[dict[str, Any]]:
    return [row(f"i{number}", low=low, peak=peak) for number, peak in enumerate(peaks)]


def of_floats(*peaks: float, low: float = 0) -> list[dict[str, Any]]:
    return [row(f"f{number}", low=low, peak=peak, floats=True) for number, peak in enumerate(peaks)]


def lays(**lay: str | None) -> list[dict[str, Any]]:
    return [{"image_id": name, "mask_lay": value} for name, value in lay.items()]


EIGHT_BITS = [row("a"), row("b")]


def test_sizes_tell_whether_a_mask_lies_unless_both_pictures_have_the_same_size() -> None:
    assert mask_lay((4, 6), photograph(1)) is None
    for orientation in (5, 6, 7, 8):
        assert mask_lay((4, 6), photograph(orientation)) == UPRIGHT
        assert mask_lay((6, 4), photograph(orientation)) == LYING
        assert mask_lay((5, 5), photograph(orientation, 5, 5)) == EITHER
        assert mask_lay((6, 4), photograph(orientation, 6, 4, upright=False)) is None
    for orientation in (2, 3, 4):
        assert mask_lay((4, 6), photograph(orientation)) == EITHER


def test_masks_whose_size_cannot_tell_are_told_once_with_their_number() -> None:
    told = lays(a=UPRIGHT, b=EITHER, c=None, d=EITHER)
    (warning,) = review_lays(told)
    assert warning.startswith("2 masks count as upright")
    assert "EXIF" in warning
    assert "'b'" in warning
    assert "dataset.exif=ignore" in warning
    assert "lie)" not in warning
    (warning,) = review_lays([*told, *lays(e=LYING)])
    assert "1 lie" in warning
    assert not review_lays(lays(a=UPRIGHT, b=LYING))


@pytest.mark.parametrize(
    "rows",
    [
        EIGHT_BITS,
        of_integers(300, 8192),
        of_floats(0.01, 0.125),
        of_integers(65535, 10) + of_floats(1.0),
        of_integers(0, 0),
    ],
)
def test_one_bright_image_is_enough_for_a_set(rows: list[dict[str, Any]]) -> None:
    assert review_photographs(rows, DEFAULT) == []


@pytest.mark.parametrize(
    ("rows", "largest", "white"),
    [
        (of_integers(12, 4095), "4095", "4095"),
        (of_integers(12, 2049), "2049", "4095"),  # 12 bits
        (EIGHT_BITS + of_integers(255), "255", "255"),
        (of_integers(65535) + of_floats(0.1), "0.1", "0.1"),
        (of_integers(1023) + of_floats(1.0), "1023", "1023"),
    ],
)
def test_a_set_that_would_be_black_is_refused_with_the_setting(
    rows: list[dict[str, Any]], largest: str, white: str
) -> None:
    with pytest.raises(RequestError, match=rf"largest value in .* is {largest} .*black.*set dataset\.white={white}"):
        review_photographs(rows, DEFAULT)


@pytest.mark.parametrize(
    "rows", [of_floats(0.5, 255), of_integers(7000, 2**20 - 1), of_integers(65535) + of_floats(65535)]
)
def test_a_set_that_would_be_white_is_refused_with_the_setting(rows: list[dict[str, Any]]) -> None:
    with pytest.raises(RequestError, match=r"1 of .* hold larger values, up to .* white; set dataset\.white="):
        review_photographs(rows, DEFAULT)


def test_a_set_most_of_which_is_below_0_is_refused() -> None:
    with pytest.raises(RequestError, match=r"below 0, as image 'f0' with -1"):
        review_photographs(of_floats(1, 1, low=-1), DEFAULT)
    (warning,) = review_photographs(of_floats(1, 1, low=-1), Pixels(white=1))
    assert "2 of 2 images of floats hold values below 0" in warning
    (warning,) = review_photographs(of_floats(1, 1) + of_floats(1, low=-1), DEFAULT)
    assert "1 of 3" in warning


def test_a_white_that_is_set_is_the_answer_and_what_it_cuts_off_is_told() -> None:
    assert review_photographs(of_integers(12, 4095), Pixels(white=4095)) == []
    assert review_photographs(of_floats(3, 255), Pixels(white=255)) == []
    (warning,) = review_photographs(of_integers(12, 4095), Pixels(white=65535))
    assert "nearly black" in warning
    (warning,) = review_photographs(of_integers(12, 4095, 5000), Pixels(white=4095))
    assert "1 of 3 images" in warning
    assert "5000" in warning
    (warning,) = review_photographs(of_floats(0.5, 1.2), DEFAULT)
    assert "above dataset.white=1" in warning


def test_one_white_cannot_answer_for_integers_and_floats() -> None:
    with pytest.raises(RequestError, match="integers and floats in one data set need the same white"):
        review_photographs(of_integers(4095) + of_floats(1.0), Pixels(white=4095))
    assert review_photographs(of_integers(4095) + of_floats(4000), Pixels(white=4095)) == []


def test_photographs_of_8_bits_have_no_extreme_values() -> None:
    image = read_image(encode(noise(4, 6)))
    assert (image.low, image.peak, image.floats) == (None, None, False)


def test_images_to_predict_that_are_nearly_black_together_are_told() -> None:
    assert dark_warning([], DEFAULT) is None
    assert dark_warning([0.01, 0.5], DEFAULT) is None
    assert dark_warning([0.01], Pixels(white=65535)) is None
    told = dark_warning([0.01, 1 / 16], DEFAULT)
    assert told is not None
    assert "2 images of more than 8 bits reach 6.2% of white" in told
    assert "dataset.white=null" in told
    twelve_bits = read_image(encode(np.full((2, 3), 4095, np.uint16)))
    assert brightness(twelve_bits, DEFAULT) == 4095 / 65535
    assert brightness(twelve_bits, Pixels(white=4095)) == 1
    assert brightness(read_image(encode(noise(2, 3))), DEFAULT) is None
