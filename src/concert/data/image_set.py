"""A labelled set of images, and the rule that selects some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from concert.data.augment import crop_and_flip, resized_crop
from concert.data.cache import fingerprint
from concert.data.decode import LazyImages
from concert.errors import ConcertError

SUBSET_RULES = "'all', 'first:COUNT', 'every:STEP' or 'random:COUNT:SEED'"


class ImageSet:
    """A split of a data set: images of one shape with integer labels.

    Attributes:
        name, split: of the data set.
        labels: int64 (N,)
        num_classes, class_names: class k is named class_names[k]
        shape: (C, H, W) of an image
        source: where the images came from, with the start of the fingerprint
        notes: caveats about them, "" if there are none
        fingerprint: sha256 of the images and labels; of the labels and a sample of the encoded
            images where images are decoded on demand
        augmentation: "none", "crop_flip" or "photo", see `training_images`
        attack: for attacked images, how they were made and a list per number known of each, else
            None
    """

    def __init__(
        self,
        name: str,
        split: str,
        images: Tensor | LazyImages,
        labels: Tensor,
        class_names: Sequence[str],
        source: str = "tensors",
        notes: str = "",
        augmentation: str = "none",
        fingerprint_hex: str | None = None,
        attack: Mapping[str, Any] | None = None,
    ) -> None:
        """`images` are uint8 (N, C, H, W), or floats in [0, 1]; anything else is a ConcertError."""
        if isinstance(images, Tensor):
            images = _checked(images)
        if images.shape[0] == 0:
            raise ConcertError(f"the {split} split of {name} is empty: pass at least one image")
        if labels.shape != (images.shape[0],):
            raise ConcertError(f"{images.shape[0]} images need as many labels: {len(labels)} given")
        labels = labels.to(torch.int64)
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(class_names):
            wrong = low if low < 0 else high
            raise ConcertError(
                f"label {wrong} of {name} is outside 0..{len(class_names) - 1}: every image needs "
                "the label of one of its classes"
            )
        self.name = name
        self.split = split
        self.labels = labels
        self.class_names = tuple(class_names)
        self.num_classes = len(class_names)
        self.shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
        self.notes = notes
        self.augmentation = augmentation
        self.attack = attack
        self._images = images
        if fingerprint_hex is None:
            fingerprint_hex = (
                fingerprint(images, labels) if isinstance(images, Tensor) else images.fingerprint()
            )
        self.fingerprint = fingerprint_hex
        self.source = f"{source} (sha256 {fingerprint_hex[:12]})"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def resizable(self) -> bool:
        """Whether the images can be had in another size: neither numbers nor the digits can."""
        numbers = isinstance(self._images, Tensor) and self._images.dtype != torch.uint8
        return self.name != "digits" and not numbers

    def images(self, indices: Sequence[int] | Tensor) -> Tensor:
        """The images as stored: float32 (B, C, H, W) in [0, 1]; new memory every time."""
        chosen = self._checked_indices(indices)
        if isinstance(self._images, Tensor):
            return _to_float(self._images.index_select(0, chosen))
        return _to_float(self._images.take(chosen.tolist()))

    def training_images(
        self,
        indices: Sequence[int] | Tensor,
        generator: torch.Generator,
        extra: Tensor | None = None,
    ) -> Tensor:
        """Augmented images: float32 (B, C, H, W), or (B, C + E, H, W) with `extra`.

        `extra` (B, E, H, W), for instance entropy maps of `images(indices)`, gets the same
        geometry as the images; where a crop reaches over the border it is 0, like the images.
        The result depends only on the indices and the state of `generator` (a CPU generator).

        "crop_flip" pads by 4, crops at random and flips. "photo" is RandomResizedCrop and flip: of
        the original image, or of the centre crop when `extra` is given, which knows no more.
        """
        if self.augmentation == "photo" and extra is None and isinstance(self._images, LazyImages):
            chosen = self._checked_indices(indices)
            return _to_float(self._images.random_crops(chosen.tolist(), generator))
        batch = self.images(indices)
        if extra is not None:
            if extra.ndim != 4 or _sides(extra) != _sides(batch):
                raise ConcertError(
                    f"extra channels of shape {tuple(extra.shape)} do not fit images of shape "
                    f"{tuple(batch.shape)}: pass (B, E, H, W) with the same B, H and W"
                )
            batch = torch.cat((batch, extra.to(batch.dtype)), dim=1)
        if self.augmentation == "crop_flip":
            return crop_and_flip(batch, generator)
        if self.augmentation == "photo":
            return resized_crop(batch, generator)
        return batch

    def _checked_indices(self, indices: Sequence[int] | Tensor) -> Tensor:
        chosen = torch.as_tensor(indices, dtype=torch.int64, device="cpu")
        if chosen.ndim != 1:
            raise ConcertError("indices must be a flat list of integers")
        if len(chosen):
            low, high = (int(value) for value in torch.aminmax(chosen))
            if low < 0 or high >= len(self):
                wrong = low if low < 0 else high
                raise ConcertError(
                    f"there is no image {wrong} in {self.name} {self.split}: "
                    f"choose from 0..{len(self) - 1}"
                )
        return chosen


def subset_indices(size: int, rule: str) -> list[int]:
    """The ascending indices, out of `size`, that a subset rule selects.

    "all"; "first:500"; "every:20" (0, 20, 40, ...); "random:500:7" (500 distinct ones drawn by
    numpy's PCG64 with seed 7). Anything else, more than there are or none at all is a ConcertError.
    """
    kind, *numbers = rule.split(":")
    expected = {"all": 0, "first": 1, "every": 1, "random": 2}.get(kind)
    if expected != len(numbers) or not all(n.isascii() and n.isdigit() for n in numbers):
        raise ConcertError(f"unknown subset rule '{rule}': use {SUBSET_RULES}")
    if kind == "all":
        return list(range(size))
    count = int(numbers[0])
    if count == 0:
        raise ConcertError(f"subset rule '{rule}' selects nothing: use a number of at least 1")
    if kind == "every":
        return list(range(0, size, count))
    if count > size:
        raise ConcertError(f"subset rule '{rule}' asks for more than the {size} images there are")
    if kind == "first":
        return list(range(count))
    drawn = np.random.Generator(np.random.PCG64(int(numbers[1]))).choice(size, count, replace=False)
    return sorted(int(index) for index in drawn)


def _sides(batch: Tensor) -> tuple[int, int, int]:
    return batch.shape[0], batch.shape[2], batch.shape[3]


def _checked(images: Tensor) -> Tensor:
    if images.ndim != 4:
        raise ConcertError(f"images must have shape (N, C, H, W), not {tuple(images.shape)}")
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise ConcertError(f"images must be uint8 or floats in [0, 1], not {images.dtype}")
    # NaN fails both comparisons, so the test is written as what must hold.
    if images.numel() and not bool(((images >= 0) & (images <= 1)).all()):
        raise ConcertError("image values must lie in [0, 1] and be finite: divide by 255?")
    return images.to(torch.float32)


def _to_float(images: Tensor) -> Tensor:
    return images.float().div_(255.0) if images.dtype == torch.uint8 else images
