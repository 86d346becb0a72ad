"""Encoded images (PNG, JPEG, ...) to uint8 tensors: all at once, or one by one when asked."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from concert.data.augment import resized_crop_boxes
from concert.errors import ConcertError

IN_MEMORY_LIMIT = 2 * 1024**3
SAMPLED = 256
GREY = ("1", "L")
COLOUR = ("RGB", "P", "CMYK", "YCbCr")


@dataclass(frozen=True)
class Rows:
    """Encoded images and their labels.

    `encoded(i)` is the bytes of image i, `where(i)` names it for messages, `labels` is (N,) int64.
    """

    encoded: Callable[[int], bytes]
    where: Callable[[int], str]
    labels: Tensor
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class FloatRows:
    """Images that are stored as numbers, (N, C, H, W) float32 in [0, 1], and their labels.

    `attack` says how they were made and holds a list per number known of each image, or is None.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    attack: Mapping[str, Any] | None


@dataclass(frozen=True)
class Headers:
    """What the headers of all images of a data set say."""

    channels: int
    sizes: frozenset[tuple[int, int]]
    jpeg: bool


def open_image(rows: Rows, index: int) -> Image.Image:
    """Image `index` with only its header read."""
    try:
        return Image.open(io.BytesIO(rows.encoded(index)))
    except ConcertError:
        raise
    # Damaged files make Pillow's readers fail in many ways.
    except Exception as error:
        raise ConcertError(f"{rows.where(index)} is not a readable image: replace it") from error


def check_mode(rows: Rows, index: int, mode: str) -> None:
    """Refuse what three or one channels of eight bits cannot hold."""
    if mode not in GREY + COLOUR:
        raise ConcertError(
            f"{rows.where(index)} has pixel mode {mode}: save the images as 8-bit grey or RGB "
            "without an alpha channel"
        )


def read_headers(rows: Rows) -> Headers:
    """Sizes (height, width) and channels of all images: grey only if every image is."""
    grey, jpeg, sizes = True, False, set()
    for index in range(len(rows.labels)):
        image = open_image(rows, index)
        check_mode(rows, index, image.mode)
        sizes.add((image.height, image.width))
        grey = grey and image.mode in GREY
        jpeg = jpeg or image.format == "JPEG"
    return Headers(1 if grey else 3, frozenset(sizes), jpeg)


def pixels(rows: Rows, index: int, channels: int) -> Image.Image:
    """Image `index`, fully decoded, with one (grey) or three (RGB) channels."""
    image = open_image(rows, index)
    check_mode(rows, index, image.mode)
    try:
        return image.convert("L" if channels == 1 else "RGB")
    except Exception as error:
        raise ConcertError(f"{rows.where(index)} is damaged: replace it") from error


def resize_and_crop(image: Image.Image, resize: int, height: int, width: int) -> Image.Image:
    """Shorter side to `resize` (bilinear, antialiased), then the centre crop."""
    # The longer side is rounded down, as torchvision's Resize does.
    wide, high = (side * resize // min(image.size) for side in image.size)
    image = image.resize((wide, high), Image.Resampling.BILINEAR)
    left, top = round((wide - width) / 2), round((high - height) / 2)
    return image.crop((left, top, left + width, top + height))


def to_tensor(image: Image.Image) -> Tensor:
    """(C, H, W) uint8."""
    array = np.array(image)
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


class LazyImages:
    """Images decoded each time they are asked for: for data sets that do not fit in memory.

    `shape` is (N, C, H, W). `resize` is as in `Known`.
    """

    def __init__(self, rows: Rows, shape: tuple[int, int, int], resize: int | None) -> None:
        self.rows = rows
        self.shape = (len(rows.labels), *shape)
        self.resize = resize

    def take(self, indices: Sequence[int]) -> Tensor:
        """uint8 (B, C, H, W) with the geometry used for testing."""
        batch = torch.empty((len(indices), *self.shape[1:]), dtype=torch.uint8)
        for position, index in enumerate(indices):
            image = pixels(self.rows, index, self.shape[1])
            if self.resize is not None:
                image = resize_and_crop(image, self.resize, *self.shape[2:])
            batch[position] = to_tensor(image)
        return batch

    def random_crops(self, indices: Sequence[int], generator: torch.Generator) -> Tensor:
        """uint8 (B, C, H, W): RandomResizedCrop of the original images and horizontal flip."""
        images = [pixels(self.rows, index, self.shape[1]) for index in indices]
        heights = torch.tensor([image.height for image in images])
        widths = torch.tensor([image.width for image in images])
        boxes, flips = resized_crop_boxes(heights, widths, generator)
        batch = torch.empty((len(images), *self.shape[1:]), dtype=torch.uint8)
        for position, image in enumerate(images):
            top, left, height, width = boxes[position].tolist()
            view = to_tensor(
                image.resize(
                    (self.shape[3], self.shape[2]),
                    Image.Resampling.BILINEAR,
                    box=(left, top, left + width, top + height),
                )
            )
            batch[position] = view.flip(-1) if flips[position] else view
        return batch

    def fingerprint(self) -> str:
        """sha256 of the labels, the geometry and the encoded bytes of evenly spaced images.

        Reading all the bytes of a data set that is too large for memory would take minutes.
        """
        digest = hashlib.sha256(f"lazy {self.shape} {self.resize}\n".encode())
        digest.update(self.rows.labels.contiguous().numpy().data)
        for index in np.linspace(0, self.shape[0] - 1, SAMPLED).astype(int).tolist():
            digest.update(hashlib.sha256(self.rows.encoded(index)).digest())
        return digest.hexdigest()


def decode(rows: Rows, shape: tuple[int, int, int], resize: int | None) -> Tensor | LazyImages:
    """All images as one uint8 tensor (N, C, H, W) if that is at most 2 GiB, else a lazy view."""
    lazy = LazyImages(rows, shape, resize)
    if np.prod(lazy.shape, dtype=np.int64) > IN_MEMORY_LIMIT:
        return lazy
    return lazy.take(range(lazy.shape[0]))
