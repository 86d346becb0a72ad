"""From a name and perhaps a folder to an `ImageSet`, through the cache of decoded images."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from concert.data.cache import cache_folder, read_cache, write_cache
from concert.data.decode import FloatRows, LazyImages, Rows, decode, read_headers
from concert.data.digits import digits
from concert.data.image_set import ImageSet
from concert.data.known import KNOWN
from concert.data.sources import folder_source, hub_source
from concert.errors import ConcertError, nearest

SPLITS = ("train", "test")
# Part of the names of cache files: to be raised whenever decoding changes.
CACHE_VERSION = 1


def load_images(
    name: str, split: str, path: Path | str | None = None, size: int | None = None
) -> ImageSet:
    """A split of a data set, from a folder if `path` is given, else from the Hugging Face hub.

    `name`: "digits" (always at hand), "mnist", "cifar10" or "imagenet"; with `path`, any name.
    `split`: "train" or "test" (validation images count as test).
    `path`: a folder with train*.parquet and test*.parquet (or validation*.parquet), or with
    train/CLASS/ and test/CLASS/ folders of images.
    `size`: resize the shorter side to this many pixels and crop the centre; needed when the images
    differ in size. ImageNet is resized to 256 and cropped to 224 without it.

    Decoded images of at most 2 GiB are kept in the cache and memory-mapped; larger data sets and
    the training images of ImageNet are decoded on demand. Raises ConcertError for whatever is
    missing, damaged or does not fit the name.
    """
    if split not in SPLITS:
        raise ConcertError(nearest("split", split, SPLITS))
    if size is not None and size < 1:
        raise ConcertError(f"image size {size} is too small: use at least 1 pixel")
    if name == "digits" and path is None:
        if size is not None:
            raise ConcertError("the digits have one size, 28x28: leave the image size out")
        return _digits(split)
    if path is not None:
        source = folder_source(name, split, Path(path))
    elif name in KNOWN:
        source = hub_source(name, split)
    else:
        raise unknown_data(name)

    file = _cache_file(name, split, size, source.key)
    stored = read_cache(file)
    images: Tensor | LazyImages
    digest: str | None
    if stored is not None:
        images, labels, class_names, notes, digest = stored
    else:
        rows = source.rows()
        if isinstance(rows, FloatRows):
            return _numeric_images(name, split, rows, size, source.description)
        images, notes = _decode(name, split, rows, size, source.description)
        labels, class_names, digest = rows.labels, rows.class_names, None
    image_set = ImageSet(
        name,
        split,
        images,
        labels,
        class_names,
        source=source.description,
        notes=notes,
        augmentation=KNOWN[name].augmentation if name in KNOWN else "none",
        fingerprint_hex=digest,
    )
    if stored is None and isinstance(images, Tensor):
        write_cache(file, images, labels, class_names, notes, image_set.fingerprint)
    return image_set


def _numeric_images(
    name: str, split: str, rows: FloatRows, size: int | None, where: str
) -> ImageSet:
    """Images stored as numbers: read as they are, and not cached."""
    known = KNOWN.get(name)
    if size is not None and tuple(rows.images.shape[2:]) != (size, size):
        raise ConcertError(
            f"{where} holds numbers, not pictures, of {_times(rows.images.shape[2:])} pixels: they "
            f"are not resized to {size}x{size}, give images of that size"
        )
    shape, advice = rows.images.shape[1:], "give other images another name (--data.name)"
    if known:
        usual = known.shape_at(size)
        if len(rows.class_names) != known.num_classes or tuple(shape) != usual:
            raise ConcertError(
                f"the images of {where} are {_times(shape)} of {len(rows.class_names)} classes, "
                f"those of {name} {_times(usual)} of {known.num_classes}: {advice}"
            )
    return ImageSet(
        name,
        split,
        rows.images,
        rows.labels,
        rows.class_names,
        source=where,
        notes="" if rows.attack is None else _attack_notes(rows.attack),
        attack=rows.attack,
    )


def unknown_data(name: str) -> ConcertError:
    """That a name is no data set's, and no folder was given."""
    unknown = nearest("data set", name, KNOWN)
    return ConcertError(f"{unknown}; for other images give their folder (--data.path FOLDER)")


def _attack_notes(attack: Mapping[str, Any]) -> str:
    """That the images were attacked, and what was to be said of them before."""
    data = attack.get("data")
    before = data.get("notes") if isinstance(data, dict) else None
    return "; ".join(filter(None, (f"attacked by {attack['method']}", before)))


def _digits(split: str) -> ImageSet:
    """The built-in data set; cached only because importing scikit-learn takes seconds."""
    class_names = tuple(str(digit) for digit in range(10))
    file = _cache_file("digits", split, None, "built-in")
    stored = read_cache(file)
    images, labels = stored[:2] if stored is not None else digits(split)
    notes = "digits of 8x8 pixels, each repeated 3x3 times, with two black pixels around"
    image_set = ImageSet(
        "digits", split, images, labels, class_names, "scikit-learn load_digits", notes
    )
    if stored is None:
        write_cache(file, images, labels, class_names, notes, image_set.fingerprint)
    return image_set


def _cache_file(name: str, split: str, size: int | None, key: str) -> Path:
    readable = re.sub(r"[^A-Za-z0-9]+", "-", name)[:40]
    file = f"{readable}-{split}-{size or 'stored'}-{key[:24]}-v{CACHE_VERSION}.safetensors"
    return cache_folder() / "images" / file


def _decode(
    name: str, split: str, rows: Rows, size: int | None, where: str
) -> tuple[Tensor | LazyImages, str]:
    """Images in the geometry of their data set, and caveats about them."""
    known = KNOWN.get(name)
    advice = "give other images another name (--data.name)"
    if known and len(rows.class_names) != known.num_classes:
        raise ConcertError(
            f"{where} has {len(rows.class_names)} classes, {name} has {known.num_classes}: {advice}"
        )
    notes = []
    steps = rows.labels.diff()
    if bool((steps >= 0).all()) and bool((steps > 0).any()):
        notes.append("ordered by class")
    if size is not None:
        notes.append(f"shorter side resized, centre cropped to {size}x{size}")
    if known and len(rows.labels) != known.counts[split]:
        notes.append(f"{len(rows.labels)} of the usual {known.counts[split]} {split} images")

    if known and known.resize:
        shape = known.shape_at(size)
        # The same margin around the crop as at the usual size.
        resize = round(shape[1] * known.resize / known.shape[1])
        if split == "train":
            return LazyImages(rows, shape, resize), "; ".join(notes)
        return decode(rows, shape, resize), "; ".join(notes)

    headers = read_headers(rows)
    if size is not None:
        shape = (headers.channels, size, size)
    elif len(headers.sizes) == 1:
        shape = (headers.channels, *next(iter(headers.sizes)))
    else:
        raise ConcertError(f"{where} {_sizes(headers.sizes)}: pass one size (--data.size PIXELS)")
    if known and (shape[0] != known.shape[0] or (size is None and shape != known.shape)):
        raise ConcertError(
            f"the images of {where} are {_times(shape)}, those of {name} {_times(known.shape)}: "
            f"{advice}"
        )
    if known and headers.jpeg:
        notes.append(
            "JPEG re-encoded: not the original pixels, and the order is not canonical, so image "
            "indices do not match published logs"
        )
    return decode(rows, shape, size), "; ".join(notes)


def _sizes(sizes: frozenset[tuple[int, int]]) -> str:
    smallest, largest = min(sizes), max(sizes)
    return f"holds images of {len(sizes)} sizes, {_times(smallest)} to {_times(largest)} pixels"


def _times(shape: Sequence[int]) -> str:
    return "x".join(str(s) for s in shape)
