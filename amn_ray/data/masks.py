"""Masks that others made: what their pixels mean is decided once for a whole set, and every mask is held to it.

    rule, warnings = mask_rule(paths, config, names)      # while listing; names: value in a mask -> class name
    mask_HW = read_mask(encoded, rule, record.labels)     # while loading

A pixel's value is a label (`index`), black or white (`binary`: white is the image's one class) or a colour (`colour`:
VOC's, or `dataset.palette`). `dataset.mask_values` says which; without it the masks themselves do, if they can be read
in one way only. Labels are in the numbering of `names`: 0 is background and 255 undefined. Which file is whose mask is
in mask_files.py. (Masks that we wrote ourselves are read by images.decode_mask.)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from amn_ray.data.images import BadFile, decoding, opened, voc_palette
from amn_ray.data.palette import Colour, colour
from amn_ray.data.source import IGNORE, DatasetConfig
from amn_ray.errors import RequestError

SAMPLE = 256
"""So many masks, spread evenly over the set, decide how all are read. Each is held to it when it is loaded."""
THREADS = 4
"""They look at masks at a time: a large one may take a gigabyte."""


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


def mask_rule(paths: Iterable[Path], config: DatasetConfig, names: Mapping[int, str]) -> tuple[MaskRule, list[str]]:
    """How the masks of a set are to be read, and sentences for the user.

    Args:
        paths: of all masks of the set, in any order.
        config: its mask_values and palette are looked at.
        names: the value of a class in a mask -> its name, without background and undefined.

    Raises:
        RequestError: the masks can be read in several ways or in none; it names the setting that answers.
    """
    labels = tuple(sorted(names))
    if config.palette is not None:
        palette = _palette(config.palette, names)
        return MaskRule("colour", labels, palette, tolerant=config.mask_values == "colour"), []
    if config.mask_values is not None:
        return MaskRule(config.mask_values, labels, tolerant=True), []
    return _decided(_seen(sorted(paths)), labels)


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
        pixels = _pixels(encoded)
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
    if wrong := sorted(set(_unique(pixels.values)) - {0, IGNORE, *rule.labels}):
        raise ValueError(
            f"mask has the value {wrong[0]}, expected {_range(rule.labels)} or {IGNORE}: the class list does not "
            "match; correct dataset.classes, or set dataset.mask_values or dataset.palette"
        )
    return pixels.values.astype(np.uint8)


# --- Pixels ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pixels:
    """What a mask file holds."""

    values: np.ndarray | None
    """(H, W): grey values or palette indices as they are in the file; None if the pixels are coloured."""
    colours: np.ndarray | None
    """0xRRGGBB (H, W), of coloured pixels and of a palette's; None if the pixels are grey."""
    white: int
    """The largest grey value that the file can hold."""
    lossy: str | None
    """The name of a format that alters values."""
    renumbered: bool = False
    """Its format's writers number palettes as they like (GIF): the colours count."""


@decoding()
def _pixels(encoded: bytes) -> _Pixels:
    with opened(encoded) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise ValueError(f"mask has {image.n_frames} frames, expected one")  # type: ignore[attr-defined]
        if image.format == "PNG" and encoded[24] == 16 and encoded[25] != 0:
            raise ValueError("mask has colours of 16 bits; save it with 8 bits")  # Pillow drops the lower half
        raw = _raw_mode(image)
        lossy = _lossy(image, encoded)
        if image.mode == "P":
            indices_HW = np.array(image)
            table = np.array(image.convert("P").getpalette("RGB") or [], np.int32).reshape(-1, 3)
            packed = np.zeros(256, np.int32)
            packed[: len(table)] = _pack(table)
            return _Pixels(indices_HW, packed[indices_HW], 255, lossy, image.format == "GIF")
        if image.mode in ("1", "L"):
            bits = int(found[1]) if (found := re.match(r"L;([24])", raw)) else 1 if image.mode == "1" else 8
            # Pillow spreads 2 and 4 bits over 0…255.
            values_HW = np.array(image).astype(np.uint8) // (255 // (2**bits - 1) if bits in (2, 4) else 1)
            return _Pixels(values_HW, None, 2**bits - 1, lossy)
        if image.mode.startswith("I") or image.mode == "F":
            return _Pixels(_integers(np.array(image)), None, 65535, lossy)
        if image.mode in ("LA", "PA", "RGBA", "La", "RGBa"):
            return _without_alpha(np.array(image.convert("RGBA")), lossy)
        if image.mode == "RGB":
            return _of_colours(np.array(image), lossy)
        raise ValueError(f"mask has image mode {image.mode}, expected grey values, a palette or RGB; save it as PNG")


def _raw_mode(image: Image.Image) -> str:
    tile = getattr(image, "tile", None)  # of image files only
    args = tile[0].args if tile else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _lossy(image: Image.Image, encoded: bytes) -> str | None:
    if image.format == "WEBP":
        return None if b"VP8L" in encoded[:64] else "lossy WEBP"
    return image.format if image.format in ("JPEG", "MPO", "AVIF", "JPEG2000") else None


def _integers(values_HW: np.ndarray) -> np.ndarray:
    if not np.isfinite(values_HW).all() or (values_HW != np.round(values_HW)).any():
        raise ValueError("mask holds fractions, expected whole numbers; write labels (0 = background) and no scores")
    return values_HW if values_HW.dtype.kind in "iu" else values_HW.astype(np.int32)


def _without_alpha(rgba_HWC: np.ndarray, lossy: str | None) -> _Pixels:
    rgb_HWC, alpha_HW = rgba_HWC[..., :3], rgba_HWC[..., 3]
    levels = np.unique(alpha_HW)
    if len(levels) == 1:  # opaque, evenly half-transparent, or an alpha that nobody set
        return _of_colours(rgb_HWC, lossy)
    clear_HW = alpha_HW == 0
    if len(np.unique(_pack(rgb_HWC))) == 1:  # a shape cut out of one colour
        return _Pixels(alpha_HW, None, 255, lossy)
    if len(levels) > 2 or levels[0] > 0:
        raise ValueError("mask is half-transparent in places, so its labels are unclear; save it without transparency")
    if len(np.unique(_pack(rgb_HWC[clear_HW]))) > 1:
        raise ValueError("mask has different colours where it is transparent; save it without transparency")
    return _of_colours(np.where(clear_HW[..., None], 0, rgb_HWC).astype(np.uint8), lossy)  # nothing drawn: background


def _of_colours(rgb_HWC: np.ndarray, lossy: str | None) -> _Pixels:
    grey = (rgb_HWC == rgb_HWC[..., :1]).all()
    return _Pixels(rgb_HWC[..., 0] if grey else None, _pack(rgb_HWC), 255, lossy)


def _pack(rgb: np.ndarray) -> np.ndarray:
    """(…, 3) -> 0xRRGGBB (…)."""
    wide = rgb.astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def _unpacked(colour: int) -> Colour:
    return colour >> 16, colour >> 8 & 255, colour & 255


def _is_grey(colour: int) -> bool:
    red, green, blue = _unpacked(colour)
    return red == green == blue


def _unique(values: np.ndarray) -> list[int]:
    if values.dtype == np.uint8:
        return np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist()
    return np.unique(values).tolist()


# --- Reading by rule -------------------------------------------------------------------------------------------------


def _binary(pixels: _Pixels, rule: MaskRule, labels: Sequence[int]) -> np.ndarray:
    values_HW = pixels.values
    if values_HW is None:
        assert pixels.colours is not None
        rgb = (pixels.colours >> 16, pixels.colours >> 8 & 255, pixels.colours & 255)
        values_HW = np.maximum.reduce(rgb)
    elif pixels.colours is not None and all(_is_grey(colour) for colour in _unique(pixels.colours)):
        values_HW = pixels.colours & 255  # what a palette shows: its indices may be reversed
    found = _unique(values_HW)
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
            f"mask has the values {_few(found)}, none of them near white ({pixels.white}): it is not black and white; "
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


def _coloured(pixels: _Pixels, rule: MaskRule) -> np.ndarray:
    palette = rule.palette if rule.palette is not None else _voc_colours(rule.labels)
    if any(isinstance(key, int) for key in palette):
        keys_HW, named = pixels.values, {key: label for key, label in palette.items() if isinstance(key, int)}
        if keys_HW is None:
            raise ValueError("mask is coloured, but dataset.palette lists grey values; list colours")
    else:
        keys_HW = _shown(pixels)
        named = {int(_pack(np.array(key))): label for key, label in palette.items()}
        shown = _unique(keys_HW)
        if rule.palette is None and not set(shown) <= set(named) and all(_is_grey(colour) for colour in shown):
            named = {value * 0x010101: value for value in (0, IGNORE, *rule.labels)}
    found, inverse = np.unique(keys_HW, return_inverse=True)
    labels = np.array([named.get(int(key), -1) for key in found])
    mask_HW = labels[inverse].reshape(keys_HW.shape)
    strange_HW = mask_HW < 0
    share = strange_HW.mean()
    if share > (0.25 if rule.tolerant else 0):
        first = found[labels < 0][0]
        what = f"the value {first}" if keys_HW is pixels.values else f"the colour {_unpacked(int(first))}"
        raise ValueError(
            f"mask has {what}, which is in no palette ({share:.1%} of its pixels are not); add it to dataset.palette"
            + ("" if rule.tolerant else ", or set dataset.mask_values=colour, which leaves such pixels undefined")
        )
    return np.where(strange_HW, IGNORE, mask_HW).astype(np.uint8)


def _shown(pixels: _Pixels) -> np.ndarray:
    """The colours 0xRRGGBB (H, W) that a viewer shows."""
    if pixels.colours is not None:
        return pixels.colours
    assert pixels.values is not None
    return np.minimum(pixels.values, 255).astype(np.int32) * 0x010101


def _voc_colours(labels: Iterable[int]) -> dict[int | Colour, int]:
    return {_unpacked(int(_pack(voc_palette()[label]))): label for label in (0, *labels, IGNORE)}


# --- Deciding --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sight:
    """The different values and colours of one mask."""

    path: Path
    values: frozenset[int] | None
    colours: frozenset[int] | None
    pairs: frozenset[tuple[int, int]]
    """(index, colour) of a palette."""
    share: Mapping[int, float]
    """Of the pixels, by value."""
    lossy: str | None
    renumbered: bool


def _seen(paths: Sequence[Path]) -> list[_Sight]:
    step = max(1, len(paths) / SAMPLE)
    chosen = [paths[int(position * step)] for position in range(min(len(paths), SAMPLE))]
    with ThreadPoolExecutor(THREADS) as threads:
        return [sight for sight in threads.map(_sight, chosen) if sight is not None]


def _sight(path: Path) -> _Sight | None:
    try:
        pixels = _pixels(path.read_bytes())
    except (BadFile, OSError, MemoryError):  # told with its name when it is listed or loaded
        return None
    values_HW, colours_HW = pixels.values, pixels.colours
    pairs: frozenset[tuple[int, int]] = frozenset()
    share: dict[int, float] = {}
    if values_HW is not None:
        if values_HW.dtype == np.uint8:
            counts = np.bincount(values_HW.ravel(), minlength=256)
            found = np.flatnonzero(counts)
            counts = counts[found]
        else:
            found, counts = np.unique(values_HW, return_counts=True)
        share = dict(zip(found.tolist(), (counts / values_HW.size).tolist(), strict=True))
        if colours_HW is not None:
            pairs = frozenset((value, int(colours_HW.flat[(values_HW == value).argmax()])) for value in share)
    return _Sight(
        path=path,
        values=frozenset(share) if values_HW is not None else None,
        colours=frozenset(_unique(colours_HW)) if colours_HW is not None else None,
        pairs=pairs,
        share=share,
        lossy=pixels.lossy,
        renumbered=pixels.renumbered,
    )


def _decided(seen: Sequence[_Sight], labels: tuple[int, ...]) -> tuple[MaskRule, list[str]]:
    allowed = {0, IGNORE, *labels}
    if any(sight.values is None for sight in seen):
        return _decided_colours(seen, labels)
    values = set().union(*(sight.values or () for sight in seen))
    shown = _shown_otherwise(seen, labels)
    if shown is not None:
        first, otherwise = shown
        if all(sight.renumbered or not sight.values <= allowed for sight in seen if _differs(sight, labels)):  # type: ignore[operator]
            return MaskRule("colour", labels), [
                f"{first.path}: masks are read by the colours of their palettes, whose indices are no labels; "
                "dataset.mask_values=index is the other answer"
            ]
        raise RequestError(
            f"{first.path}: its palette indices {_few(first.values or ())} are labels, and so are its colours, but "
            f"other ones ({_few(otherwise)}); set dataset.mask_values=index if indices count, or =colour"
        )
    if (reversed_ := _reversed(seen)) is not None:
        raise RequestError(
            f"{reversed_.path}: its palette has black at another index than 0, so the object is unclear; set "
            "dataset.mask_values=binary if white is the object, or =index if the indices are labels"
        )
    beside = values - {0}
    if len(labels) == 1 and len(beside) == 1 and not beside <= set(labels) and not _is_void(seen):
        white = beside.pop()
        if values == {white}:
            raise RequestError(
                f"{seen[0].path}: masks hold nothing but {white}; set dataset.mask_values=binary if that is the object "
                "or =index if it means undefined"
            )
        share = float(np.mean([sight.share.get(white, 0) for sight in seen]))
        reverse = f"; if it is the background, set dataset.palette={{background: {white}, <class>: 0}}"
        return MaskRule("binary", labels, white=white), [
            f"{seen[0].path.parent}: masks hold only 0 and {white}, which is taken for the one class ({share:.0%} of "
            f"all pixels); dataset.mask_values=index is the other answer{reverse if share > 0.5 else ''}"
        ]
    if len(labels) > 1 and beside in ({IGNORE}, {65535}):
        white = beside.pop()
        raise RequestError(
            f"{seen[0].path.parent}: masks hold only 0 and {white}, but there are {len(labels)} classes; set "
            "dataset.mask_values=binary if white is the one class that its image is labelled with, or =index if "
            f"{white} means undefined"
        )
    if values <= allowed and not any(sight.lossy and (sight.values or set()) - {0} for sight in seen):
        return MaskRule("index", labels), _doubtful(seen, labels)
    raise _unreadable(seen, labels, allowed)


def _decided_colours(seen: Sequence[_Sight], labels: tuple[int, ...]) -> tuple[MaskRule, list[str]]:
    known = {int(_pack(np.array(colour))) for colour in _voc_colours(labels)}
    found = Counter(colour for sight in seen for colour in _colours_of(sight))
    if set(found) <= known:
        return MaskRule("colour", labels), []
    first = next(sight for sight in seen if not _colours_of(sight) <= known)
    if len(labels) == 1 and len(set(found) - {0}) == 1 and 0 in found:
        colour = _unpacked(max(found))
        return MaskRule("binary", labels, white=max(colour)), [
            f"{first.path.parent}: masks are black and {colour}, which is taken for the one class; dataset.palette is "
            "the other answer"
        ]
    strange = sorted(_unpacked(colour) for colour in set(found) - known)
    raise RequestError(
        f"{first.path}: masks hold {len(found)} colours, of which {_few(strange)} are not VOC's colours of the labels "
        f"{_range(labels)}; say which colour is which class by dataset.palette={{class: [red, green, blue], …}}"
        + (
            ", and save masks without smoothing or as PNG if colours are blended"
            if len(strange) > len(labels) + 2
            else ""
        )
    )


def _colours_of(sight: _Sight) -> set[int]:
    return set(sight.colours) if sight.colours is not None else {min(v, 255) * 0x010101 for v in sight.values or ()}


def _by_colour(sight: _Sight, labels: tuple[int, ...]) -> dict[int, int] | None:
    """Index -> the label that its colour says: VOC's, or a grey of this value; None if the colours say nothing."""
    if not sight.pairs:
        return None
    voc = {int(_pack(np.array(colour))): label for colour, label in _voc_colours(labels).items()}
    if all(colour in voc for _, colour in sight.pairs):
        return {index: voc[colour] for index, colour in sight.pairs}
    greys = {index: colour & 255 for index, colour in sight.pairs if _is_grey(colour)}
    allowed = {0, IGNORE, *labels}
    if len(greys) == len(sight.pairs) and set(greys.values()) <= allowed and set(greys.values()) & set(labels):
        return greys
    return None


def _differs(sight: _Sight, labels: tuple[int, ...]) -> bool:
    by_colour = _by_colour(sight, labels)
    return by_colour is not None and any(index != label for index, label in by_colour.items())


def _shown_otherwise(seen: Sequence[_Sight], labels: tuple[int, ...]) -> tuple[_Sight, list[int]] | None:
    """The first mask whose colours are labels, but not those that its indices are."""
    for sight in seen:
        if _differs(sight, labels):
            return sight, sorted((_by_colour(sight, labels) or {}).values())
    return None


def _reversed(seen: Sequence[_Sight]) -> _Sight | None:
    """A mask whose palette is black and white, with black not at index 0."""
    for sight in seen:
        colours = {colour: index for index, colour in sight.pairs}
        if set(colours) <= {0, 0xFFFFFF} and colours.get(0, 0) != 0:
            return sight
    return None


def _is_void(seen: Sequence[_Sight]) -> bool:
    """Whether 255 is painted in the colour that VOC gives to undefined pixels."""
    void = int(_pack(voc_palette()[IGNORE]))
    return any((IGNORE, void) in sight.pairs for sight in seen)


def _doubtful(seen: Sequence[_Sight], labels: tuple[int, ...]) -> list[str]:
    """Black and white masks among others: is their 255 an object?"""
    doubtful = [sight for sight in seen if sight.values == {0, IGNORE}]
    if not doubtful or len(doubtful) * 10 < len(seen):  # objects that are undefined as a whole occur (VOC)
        return []
    return [
        f"{doubtful[0].path}: holds only 0 and {IGNORE} ({len(doubtful)} of {len(seen)} masks do), which is read as "
        "undefined because other masks hold labels; dataset.mask_values=binary takes all that is not 0 for the object"
    ]


def _unreadable(seen: Sequence[_Sight], labels: tuple[int, ...], allowed: set[int]) -> RequestError:
    def strange(sight: _Sight) -> set[int]:
        return set(sight.values or ()) - allowed

    lossy = next((sight for sight in seen if sight.lossy), None)
    worst = max(seen, key=lambda sight: len(strange(sight)))
    wrong = sorted(set().union(*(strange(sight) for sight in seen)))
    if not wrong and lossy is not None:
        return RequestError(
            f"{lossy.path}: is a {lossy.lossy} file, which alters labels; save masks as PNG"
            + (", or set dataset.mask_values=binary if they are black and white" if len(labels) == 1 else "")
        )
    share = sum(worst.share[value] for value in strange(worst))
    count = sum(bool(strange(sight)) for sight in seen)
    told = (
        f"{worst.path}: mask has the values {_few(strange(worst))} ({share:.1%} of its pixels; {count} of {len(seen)} "
        + (f"masks looked at have such), expected {_range(labels)} or {IGNORE}")
    )
    if len(wrong) > 8 or lossy is not None:
        return RequestError(
            f"{told}: blended edges, as smoothing or JPEG leaves them; save masks as PNG without smoothing, or set "
            "dataset.mask_values=binary, which cuts black-and-white masks at half of white"
        )
    return RequestError(
        f"{told}: the class list does not match; correct dataset.classes, or say which value is which class by "
        "dataset.palette={class: value, …}"
        + ("; dataset.mask_values=binary reads black-and-white masks" if len(labels) == 1 else "")
    )


# --- dataset.palette -------------------------------------------------------------------------------------------------

_UNDEFINED = ("undefined", "void", "ignore")


def _palette(palette: Any, names: Mapping[int, str]) -> dict[int | Colour, int]:
    """Colour (or grey value) -> label.

    Raises:
        RequestError: it names no class, or has too few colours, or one twice.
    """
    if isinstance(palette, Mapping):
        known = {name: label for label, name in names.items()} | {"background": 0} | dict.fromkeys(_UNDEFINED, IGNORE)
        for key in palette:
            if str(key) not in known:
                raise RequestError(
                    f"dataset.palette: {key!r} is not a class; expected some of {', '.join(map(str, known))}"
                )
        entries = [(colour(entry), known[str(key)]) for key, entry in palette.items()]
    else:
        if len(palette) != len(names) + 1:
            raise RequestError(
                f"dataset.palette: lists {len(palette)} colours, expected {len(names) + 1}: of background and of the "
                f"{len(names)} classes in their order; or write {{class: colour, …}}"
            )
        entries = list(zip(map(colour, palette), (0, *sorted(names)), strict=True))
    doubles = [colour for colour, count in Counter(colour for colour, _ in entries).items() if count > 1]
    kinds = {type(colour) for colour, _ in entries}
    if doubles or len(kinds) > 1:
        wrong = f"{doubles[0]} occurs twice" if doubles else "colours and values are mixed"
        raise RequestError(f"dataset.palette: {wrong}; give each class a colour of its own")
    result: dict[int | Colour, int] = dict(entries)
    if kinds == {int}:
        usual: dict[int | Colour, int] = {0: 0, IGNORE: IGNORE}
    else:
        usual = {(0, 0, 0): 0, _unpacked(int(_pack(voc_palette()[IGNORE]))): IGNORE}
    taken = set(result.values())
    return {colour: label for colour, label in usual.items() if colour not in result and label not in taken} | result


def _range(labels: Sequence[int]) -> str:
    """The labels for a sentence: 0…N, or some of them if they have gaps."""
    if list(labels) == list(range(1, len(labels) + 1)):
        return f"0…{len(labels)}"
    return f"0, {_few(labels)}"


def _few(items: Iterable[Any]) -> str:
    listed = sorted(items)
    return ", ".join(map(str, listed[:6])) + (f", … ({len(listed)} in all)" if len(listed) > 6 else "")
