"""Which file is whose mask: the scheme by which masks are named after images, or `dataset.mask_pattern`.

files, warnings = find_masks(folder, image_names, config.mask_pattern)      # image name -> path of its mask
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from amn_ray.core.errors import RequestError
from amn_ray.data.named_files import NamedFiles, folded, names_below, without_ending

ENDINGS = (".png", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".jpg", ".jpeg", ".jp2", ".pgm", ".ppm")
_WORDS = ("mask", "masks", "gt", "seg", "segm", "segmentation", "label", "labels", "annotation", "groundtruth",
          "labelids", "labeltrainids", "gtfine", "truth", "m")  # fmt: skip
"""What people add to an image's name for its mask."""


def find_masks(folder: Path, images: Sequence[str], pattern: str | None = None) -> tuple[dict[str, Path], list[str]]:
    """The mask of each image that has one, and sentences for the user.

    Args:
        folder: holds masks, perhaps in folders of its own.
        images: names of image files, perhaps with folders (`train/1.jpg`); or ids without an ending.
        pattern: `dataset.mask_pattern`; null finds the scheme: what stands before and after the image's name.

    Raises:
        RequestError: no file is the mask of any image, or an image has several.
    """
    everything = sorted(names_below(folder))
    files = [name for name in everything if name.lower().endswith(ENDINGS)]
    if everything and not files:
        raise RequestError(
            f"{folder}: holds {len(everything)} files, such as {everything[0]}, but none is an image of a format for "
            "masks; save masks as PNG"
        )
    if not files:
        return {}, [f"{folder}: is empty, so nothing is evaluated"]
    found, dropped = dict[str, Path](), ""
    for word, stem in _stems(images):
        if not found:
            found = _by_pattern(folder, images, pattern, stem) if pattern else _by_scheme(folder, files, images, stem)
            dropped = word
    if images and not found:
        raise RequestError(
            f"{folder}: holds {len(files)} files, such as {files[0]}, but none is the mask of an image, such as "
            f"{images[0]}; name masks after their images, or set dataset.mask_pattern (such as "
            f'"{{id}}_mask.png"){f", which is {pattern}" if pattern else ""}'
        )
    warnings = []
    if dropped:
        warnings.append(
            f"{folder}: masks are named after images without the {dropped!r} that all images have, such as "
            f"{next(iter(found.values())).name} for {next(iter(found))}; dataset.mask_pattern is the other answer"
        )
    without = {folded(without_ending(PurePosixPath(image).name)) for image in images if image not in found}
    others = sorted(set(everything) - set(files))
    if odd := [name for name in others if folded(PurePosixPath(name).stem) in without]:
        warnings.append(
            f"{folder}: {len(odd)} files, such as {odd[0]}, are named after images that have no mask, but are of no "
            "format for masks; save them as PNG if they are"
        )
    used = {path for path in found.values()}
    if left := [name for name in files if folder / name not in used]:
        warnings.append(
            f"{folder}: {len(left)} of {len(files)} files, such as {left[0]}, belong to no image that is listed "
            f"({len(found)} of {len(images)} images have a mask); dataset.mask_pattern says which do"
        )
    return found, warnings


def _stems(images: Sequence[str]) -> Iterator[tuple[str, Callable[[str], str]]]:
    """What all images' names share beside their endings, and how names are read without it: nothing comes first.

    x_leftImg8bit.png has x_labelIds.png for its mask, and image_7.png has mask_7.png.
    """
    yield "", without_ending
    names = [without_ending(PurePosixPath(image).name) for image in images]
    for word in (_LAST_WORD, _FIRST_WORD):
        shared = {found[0] if (found := word.search(name)) else "" for name in names}
        if len(shared) == 1 and (part := shared.pop()):
            cut = str.removesuffix if word is _LAST_WORD else str.removeprefix
            yield part, lambda name, part=part, cut=cut: cut(without_ending(name), part)  # type: ignore[misc]


_LAST_WORD = re.compile(r"[\W_]+[^\W_]*[^\W\d_][^\W_]*$")
_FIRST_WORD = re.compile(r"^[^\W_]*[^\W\d_][^\W_]*[\W_]+|^[^\W\d_]+(?=\d)")
"""With its sign, such as _leftImg8bit and image_; words have a letter."""


def masks_among(files: Iterable[str], images: Iterable[str]) -> list[str]:
    """Files that are named as masks of these images are (1_mask.png), sorted."""
    stems = {folded(without_ending(PurePosixPath(image).name)): image for image in images}
    lengths = sorted({len(stem) for stem in stems})
    return sorted(
        name
        for name in files
        if name.lower().endswith(ENDINGS) and any(_says_mask(scheme) for scheme, _ in _schemes(name, stems, lengths))
    )


def _by_pattern(folder: Path, images: Sequence[str], pattern: str, stem: Callable[[str], str]) -> dict[str, Path]:
    files = NamedFiles(folder, ENDINGS)
    found: dict[str, Path] = {}
    for image in images:
        inside = PurePosixPath(image)
        name = pattern.replace("{id}", stem(inside.name)).replace("{name}", inside.name)
        for place in (name, (inside.parent / name).as_posix()):
            path = folder / place  # which may be outside of the folder
            if image not in found and (mask := path if path.is_file() else files.find(place)):
                found[image] = mask
    _refuse_shared(found)
    return found


def _by_scheme(
    folder: Path, files: Sequence[str], images: Sequence[str], stem: Callable[[str], str]
) -> dict[str, Path]:
    by_stem = defaultdict(list)
    for image in images:
        by_stem[folded(stem(PurePosixPath(image).name))].append(image)
    lengths = sorted({len(stem) for stem in by_stem})
    fits = {name: _schemes(name, by_stem, lengths) for name in files}
    if stem is not without_ending:  # val_1 is not the mask of train_1
        fits = {name: [fit for fit in schemes if _says_mask(fit[0])] for name, schemes in fits.items()}
    count = Counter(scheme for schemes in fits.values() for scheme, _ in schemes)
    if not count:
        return {}
    best = max(count, key=lambda scheme: (count[scheme], scheme == ("", "")))
    # Others count where they speak of masks, or are nearly as frequent: x_1.png and x_2.png, a mask of each object.
    usable = {scheme for scheme in count if _says_mask(scheme) or count[scheme] * 2 >= count[best]}
    owners = defaultdict(list)
    for name, schemes in fits.items():
        if known := [fit for fit in schemes if fit[0] in usable]:
            _, owner = max(known, key=lambda fit: (fit[0] == best, count[fit[0]]))
            for image in _of_folder(name, by_stem[owner]):
                owners[image].append(name)
    for image, names in owners.items():
        if len(names) > 1:
            raise RequestError(
                f"{folder}: {names[0]} and {names[1]} may both be the mask of image {image}; remove one, or set "
                'dataset.mask_pattern (such as "{id}_mask.png")'
            )
    found = {image: folder / names[0] for image, names in owners.items()}
    _refuse_shared(found)
    return found


def _schemes(name: str, stems: Mapping[str, object], lengths: Sequence[int]) -> list[tuple[tuple[str, str], str]]:
    """((what stands before, what stands after), stem) of every image whose name is in the file's.

    Args:
        name: of a mask file.
        stems: names of images without their endings.
        lengths: those that occur among them.
    """
    whole = folded(without_ending(PurePosixPath(name).name))
    if whole in stems:
        return [(("", ""), whole)]
    result = []
    for start in range(len(whole)):
        if _may_end(whole, start):
            for end in (start + length for length in lengths if start + length <= len(whole)):
                if whole[start:end] in stems and _may_end(whole, end):
                    result.append(((whole[:start], whole[end:]), whole[start:end]))
    return result


def _may_end(text: str, at: int) -> bool:
    """Whether a name may begin or end there: not within a number or a word (10 is not image 1's)."""
    if at in (0, len(text)):
        return True
    before, after = text[at - 1], text[at]
    return not ((before.isdigit() and after.isdigit()) or (before.isalpha() and after.isalpha()))


def _says_mask(scheme: tuple[str, str]) -> bool:
    """Whether a scheme adds nothing, a word for masks, or the ending of the image (1.jpg.png)."""
    added = "".join(scheme).casefold()
    words = "".join(sign if sign.isalpha() else " " for sign in added).split()
    return added in ("", *ENDINGS) or (
        bool(words) and all(word in _WORDS for word in words) and not any(map(str.isdigit, added))
    )


def _of_folder(name: str, images: Sequence[str]) -> list[str]:
    """Of images of one name, those in the folder that the mask lies in; else all."""
    if len(images) == 1:
        return list(images)
    return [image for image in images if PurePosixPath(image).parent == PurePosixPath(name).parent] or list(images)


def _refuse_shared(found: Mapping[str, Path]) -> None:
    owner: dict[Path, str] = {}
    for image, path in found.items():
        if path in owner:
            raise RequestError(
                f"{path}: may be the mask of {owner[path]} and of {image}; give masks the folders of their images, or "
                'set dataset.mask_pattern (such as "{name}.png")'
            )
        owner[path] = image
