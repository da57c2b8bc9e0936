"""Which files predict takes and what their masks are called: on real folders, without Ray."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from amn_ray.core.errors import RequestError
from amn_ray.inference.photographs import assign, find
from tests.conftest import encode, noise

JPEG = encode(noise(4, 4), "JPEG")


def fill(root: Path, *names: str, content: bytes = JPEG) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_sidecars_are_passed_over_and_named(tmp_path: Path) -> None:
    images = ["IMG_1.JPG", "a.b.jpeg", "more/x.webp", "part.png"]
    sidecars = ["IMG_1.AAE", "IMG_1.MOV", "README", "Thumbs.db", "a.b.json", "clip.mpg", "features.h5", "more/x.txt"]
    fill(tmp_path, *images)
    fill(tmp_path, *sidecars, content=b"{}")
    fill(tmp_path, ".DS_Store", "._IMG_1.JPG", ".ipynb_checkpoints/part.png", content=b"{}")
    found = find(str(tmp_path))
    assert found.images == images
    assert found.others == sidecars
    assert found.broken == {}


def test_a_name_without_an_images_ending_is_judged_by_its_content(tmp_path: Path) -> None:
    fill(tmp_path, "photo", "frame.0001", "shot.jpg_large")
    fill(tmp_path, "LICENSE", "frame.0002", content=b"text")
    found = find(str(tmp_path))
    assert found.images == ["frame.0001", "photo", "shot.jpg_large"]
    assert found.others == ["LICENSE", "frame.0002"]


def test_a_damaged_photograph_is_no_sidecar(tmp_path: Path) -> None:
    fill(tmp_path, "good.jpg")
    fill(tmp_path, "cut.jpg", content=JPEG[:40])
    fill(tmp_path, "empty.png", content=b"")
    assert find(str(tmp_path)).images == ["cut.jpg", "empty.png", "good.jpg"]  # decoding tells what is wrong


def test_a_photograph_that_pillow_does_not_decode_is_missed_unless_its_jpeg_is_there(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "a.CR2", "b.HEIC")
    found = find(str(tmp_path))
    assert found.images == ["a.jpg"]
    assert found.others == ["a.CR2"]
    assert found.broken == {"b.HEIC": "HEIC is not decoded; convert it to JPEG"}


def test_a_single_image_is_taken_alone(tmp_path: Path) -> None:
    fill(tmp_path, "x #1.jpg", "y.jpg", "plain")
    for name in ("x #1.jpg", "plain"):
        found = find(str(tmp_path / name))
        assert (found.source.path, found.images, found.is_folder) == (str(tmp_path), [name], False)
    with pytest.raises(RequestError, match="not an image"):
        find(str(fill(tmp_path, "list.txt", content=b"y.jpg") / "list.txt"))


def test_a_folder_without_any_image_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"contains no image$"):
        find(str(tmp_path))
    fill(tmp_path, "a.json", "b.json", content=b"{}")
    fill(tmp_path, "c.heic")
    with pytest.raises(RequestError, match=r"only c.heic \(HEIC is not decoded; convert it to JPEG\), a.json, b.json"):
        find(str(tmp_path))


@pytest.mark.parametrize(
    "name", ["a#b%20c?.jpg", "it's (2) [x] {y}.jpg", "e\u0301.jpg", "猫 $HOME ~.jpg", "a\\b.jpg", "a:b.jpg"]
)
def test_every_utf8_name_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    fill(tmp_path, name)
    found = find(str(tmp_path))
    assert found.images == [name]
    with found.source.fs.open_input_stream(found.source.at(name)) as stream:
        assert stream.read() == JPEG


def test_names_that_are_not_utf8_and_links_to_nothing_are_named(tmp_path: Path) -> None:
    fill(tmp_path, "good.jpg", "sub/more.jpg")
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(JPEG)
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "sub/back").symlink_to(tmp_path)
    (tmp_path / "sub/root").symlink_to("/")
    (tmp_path / "link").symlink_to(tmp_path / "sub")
    found = find(str(tmp_path))
    assert found.images == ["good.jpg", "link/more.jpg", "sub/more.jpg"]
    assert found.others == [r"caf\xe9.txt"]
    assert found.broken == {
        r"caf\xe9.jpg": "its name is not UTF-8; rename it",
        "gone.jpg": "is a broken link",
        "pipe.jpg": "is not a file",
    }


def test_a_mask_has_its_images_name_unless_another_would_have_it_too() -> None:
    assert assign(["a.jpg", "b.jpg", "b.png", "c/b.tif"], {}) == {
        "a.jpg": "a", "b.jpg": "b.jpg", "b.png": "b.png", "c/b.tif": "c/b",
    }  # fmt: skip
    # The same in capitals, and é in one and in two characters.
    assert assign(["A.JPG", "a.jpg"], {}) == {"A.JPG": "A.JPG", "a.jpg": "a.jpg-2"}
    assert assign(["\u00e9.jpg", "e\u0301.png"], {}) == {"\u00e9.jpg": "\u00e9.jpg", "e\u0301.png": "e\u0301.png"}


def test_no_two_masks_are_one_file_whatever_comes_in_whatever_order() -> None:
    names = ["a.jpg", "a.png", "a.jpg.png", "A.jpg", "a.JPG", "a.png.jpg", "a", "b/a.jpg", "a-2.jpg", "a.jpg-2.png"]
    for first in range(len(names)):
        known: dict[str, str] = {}
        for end in range(1, len(names) + 1):
            before = dict(known)
            known |= assign((names[first:] + names[:first])[:end], known)
            assert before.items() <= known.items()  # what was assigned stays
            folded = [mask.casefold() for mask in known.values()]
            assert len(set(folded)) == len(folded) == end


def test_the_mask_of_an_image_that_came_later_is_not_that_of_an_earlier_one() -> None:
    first = assign(["a.jpg.png"], {})
    assert first == {"a.jpg.png": "a.jpg"}
    assert assign(["a.jpg", "a.png", "a.jpg.png"], first) == {
        "a.jpg.png": "a.jpg", "a.jpg": "a.jpg-2", "a.png": "a.png",
    }  # fmt: skip
    # An image that took the place of one that has gone.
    assert assign(["a.png"], {"a.jpg": "a"}) == {"a.png": "a.png"}
