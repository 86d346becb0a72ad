"""Images stored as numbers in Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from torch import Tensor
from written_images import random_image, write_parquet

from concert.attacks.record import nested
from concert.data import load_images
from concert.errors import ConcertError


def write(folder: Path, columns: dict[str, Any], file: str = "test.parquet") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / file)
    return folder


def numbers(count: int = 4, shape: tuple[int, ...] = (3, 2, 5), seed: int = 0) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["fixed", "lists", "doubles"])
def test_every_bit_is_read(kind: str, tmp_path: Path) -> None:
    images = numbers()
    column: Any = nested(images)
    if kind != "fixed":
        number = pyarrow.float32() if kind == "lists" else pyarrow.float64()
        for _ in range(3):
            number = pyarrow.list_(number)
        column = pyarrow.array(images.tolist(), number)
    folder = write(tmp_path, {"image": column, "label": [2, 0, 1, 0]})
    read = load_images("mine", "test", folder)
    assert torch.equal(read.images([3, 1]), images[[3, 1]])
    assert read.labels.tolist() == [2, 0, 1, 0]
    assert (read.shape, read.num_classes, read.class_names) == ((3, 2, 5), 3, ("0", "1", "2"))
    assert read.attack is None
    assert read.fingerprint == load_images("mine", "test", folder).fingerprint


def test_files_of_a_split_are_read_in_order(tmp_path: Path) -> None:
    for part in range(2):
        columns = {"image": nested(numbers(3, seed=part)), "label": [part] * 3}
        write(tmp_path, columns, f"test-{part}.parquet")
    read = load_images("mine", "test", tmp_path)
    assert torch.equal(read.images(range(6)), torch.cat([numbers(3, seed=s) for s in range(2)]))


def test_pictures_are_still_pictures(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", [random_image(0), random_image(1)], [0, 1])
    assert load_images("mine", "test", tmp_path).shape == (3, 7, 9)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    ragged = pyarrow.array([[[[0.1, 0.2]]], [[[0.1]]]])
    # 2 x 3 and 4 x 3 pixels have as many values as two images of 3 x 3.
    crossed = pyarrow.array([[[[0.1] * 3] * rows] for rows in (2, 4)])
    labels = [0, 0, 0, 0]
    for number, (columns, message) in enumerate(
        (
            ({"image": ragged, "label": [0, 1]}, "must all have one size"),
            ({"image": crossed, "label": [0, 1]}, "must all have one size"),
            ({"image": pyarrow.array([[[0.1]], [[0.2]]]), "label": [0, 1]}, "must be lists"),
            ({"image": pyarrow.array([[[["a"]]]]), "label": [0]}, "must hold numbers"),
            ({"image": nested(numbers())}, "column 'label'"),
            ({"image": nested(numbers()), "label": ["a", "b", "c", "d"]}, "must hold integers"),
            ({"image": nested(numbers() * 255), "label": labels}, r"must lie in \[0, 1\]"),
            ({"image": nested(numbers() * torch.nan), "label": labels}, r"must lie in \[0, 1\]"),
            ({"image": pyarrow.array([[[[0.1]]], None]), "label": [0, 1]}, "without gaps"),
        )
    ):
        folder = write(tmp_path / str(number), columns)
        with pytest.raises(ConcertError, match=message):
            load_images("mine", "test", folder)


def test_a_known_name_has_its_shape_and_classes(tmp_path: Path) -> None:
    folder = write(tmp_path, {"image": nested(numbers(2)), "label": [0, 9]})
    with pytest.raises(ConcertError, match="3x2x5 of 10 classes, those of cifar10 3x32x32"):
        load_images("cifar10", "test", folder)
    with pytest.raises(ConcertError, match="numbers, not pictures, of 2x5 pixels"):
        load_images("mine", "test", folder, size=4)
    right = write(tmp_path / "right", {"image": nested(numbers(2, (3, 32, 32))), "label": [0, 9]})
    assert load_images("cifar10", "test", right).shape == (3, 32, 32)
    # Attacked images of a model that was trained at another size.
    assert load_images("cifar10", "test", folder_of(tmp_path, 16), size=16).shape == (3, 16, 16)
    with pytest.raises(ConcertError, match="1x16x16 of 10 classes, those of cifar10 3x16x16"):
        load_images("cifar10", "test", folder_of(tmp_path, 16, channels=1), size=16)


def folder_of(tmp_path: Path, size: int, channels: int = 3) -> Path:
    columns = {"image": nested(numbers(2, (channels, size, size))), "label": [0, 9]}
    return write(tmp_path / f"{channels}x{size}", columns)
