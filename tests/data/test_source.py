"""What all sources are held to: ids that files can be named after, each once, and files that are there."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from amn_ray.core.errors import RequestError
from amn_ray.data.source import Record, checked


def check(*image_ids: str, image: str = "", mask: str | None = None) -> list[Record]:
    return checked([Record(image_id, (1,), image, mask) for image_id in image_ids], where="list.txt", labelled=True)


@pytest.mark.parametrize(
    "image_id", ["a", "IMG.2021.01", "my photo", "sub/a", "a..b", "Screenshot 10.00\u202fAM", "图", "👩‍🚀", "-1", "#1"]
)
def test_ids_may_be_whatever_a_file_can_be_called(image_id: str) -> None:
    assert [record.image_id for record in check(image_id)] == [image_id]


@pytest.mark.parametrize("image_id", ["", "/a", "../a", "a/../../b", "a//b", "./a", "a/", "a\nb", "a\0b", "a\tb"])
def test_ids_that_would_lead_elsewhere_are_refused(image_id: str) -> None:
    with pytest.raises(RequestError, match=r"list\.txt: image id .* cannot be the path of a mask"):
        check(image_id)


def test_the_unicode_form_of_an_id_does_not_count() -> None:
    composed, decomposed = (unicodedata.normalize(form, "Mühle") for form in ("NFC", "NFD"))
    assert [record.image_id for record in check(decomposed)] == [composed]
    with pytest.raises(RequestError, match="occurs more than once"):
        check(composed, decomposed)


def test_ids_that_are_not_utf8_are_refused_in_readable_form() -> None:
    with pytest.raises(RequestError, match=r"list\.txt: image f\\xfcr\.png is not in UTF-8"):
        check(os.fsdecode(b"f\xfcr.png"))


def test_files_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    check("a", image=str(tmp_path / "a.png"), mask=str(tmp_path / "a.png"))
    with pytest.raises(RequestError, match=r"image .*b\.png does not exist"):
        check("a", image=str(tmp_path / "b.png"))
    with pytest.raises(RequestError, match=r"mask .*b\.png does not exist"):
        check("a", image=str(tmp_path / "a.png"), mask=str(tmp_path / "b.png"))


def test_a_split_has_images_and_they_have_labels() -> None:
    with pytest.raises(RequestError, match=r"list\.txt: lists no image"):
        check()
    with pytest.raises(RequestError, match="image 'a' has no label"):
        checked([Record("a", (), "")], where="list.txt", labelled=True)
