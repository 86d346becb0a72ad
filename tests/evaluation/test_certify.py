"""What `concert certify` says of images that a model does not take."""

from __future__ import annotations

import pytest
import torch

from concert.data import ImageSet, load_images
from concert.evaluation.certify import shape_hint


def images(
    shape: tuple[int, ...], name: str = "mine", dtype: torch.dtype = torch.uint8
) -> ImageSet:
    return ImageSet(name, "test", torch.zeros(2, *shape, dtype=dtype), torch.tensor([0, 1]), "ab")


GREY = "store them all as RGB, for pictures are grey if all of their split are"
SIZE = "resize them with --data.size 32"


@pytest.mark.parametrize(
    ("name", "shape", "hint"),
    [
        ("mine", (1, 32, 32), f": {GREY}"),
        ("mine", (1, 28, 28), f": {GREY}, and {SIZE}"),
        ("mine", (3, 64, 64), f": {SIZE}"),
        ("mine", (3, 64, 48), f": {SIZE}"),
        ("mine", (4, 32, 32), ""),
        ("mnist", (1, 28, 28), ""),
    ],
)
def test_images_of_another_shape(name: str, shape: tuple[int, int, int], hint: str) -> None:
    assert shape_hint((3, 32, 32), images(shape, name)) == hint


def test_nothing_is_resized_to_pictures_that_are_not_square() -> None:
    assert shape_hint((3, 32, 48), images((3, 64, 64))) == ""


def test_numbers_and_the_digits_are_not_resized() -> None:
    assert shape_hint((3, 32, 32), images((3, 64, 64), dtype=torch.float32)) == ""
    assert shape_hint((1, 32, 32), load_images("digits", "test")) == ""
