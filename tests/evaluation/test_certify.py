"""What `concert certify` says of images that a model does not take."""

from __future__ import annotations

import pytest

from concert.evaluation.certify import shape_hint


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        (
            (1, 32, 32),
            ": a folder is grey if all pictures of its split are, so store them all as RGB",
        ),
        ((3, 64, 64), ": resize them with --data.size 32"),
        ((3, 64, 48), ": resize them with --data.size 32"),
        ((4, 32, 32), ""),
    ],
)
def test_images_of_another_shape(shape: tuple[int, int, int], hint: str) -> None:
    assert shape_hint((3, 32, 32), shape) == hint


def test_nothing_is_resized_to_pictures_that_are_not_square() -> None:
    assert shape_hint((3, 32, 48), (3, 64, 64)) == ""
