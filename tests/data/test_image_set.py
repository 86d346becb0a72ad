"""ImageSet: what it gives back, and what it refuses; the subset rule."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from concert.data import ImageSet, subset_indices
from concert.errors import ConcertError


def small_set(augmentation: str = "none", side: int = 8) -> ImageSet:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (6, 3, side, side), dtype=torch.uint8, generator=generator)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    return ImageSet("mine", "train", images, labels, "abc", augmentation=augmentation)


def test_bytes_become_exact_fractions() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    loaded = ImageSet("mine", "test", images, torch.tensor([0]), ["a"]).images([0])
    assert loaded.dtype == torch.float32
    expected = (np.arange(256, dtype=np.float32) / np.float32(255)).reshape(1, 1, 16, 16)
    assert np.array_equal(loaded.numpy(), expected)


def test_images_by_any_index_and_in_new_memory() -> None:
    images = small_set()
    assert torch.equal(images.images([4, 0]), images.images(torch.tensor([4, 0])))
    assert torch.equal(images.images(range(2)), images.images(np.array([0, 1])))
    assert images.images([]).shape == (0, 3, 8, 8)
    images.images([0]).zero_()
    assert images.images([0]).max() > 0
    floats = ImageSet("mine", "test", images.images(range(6)), images.labels, "abc")
    floats.images([0]).zero_()
    assert torch.equal(floats.images(range(6)), images.images(range(6)))


@pytest.mark.parametrize("index", [-1, 6])
def test_indices_outside_are_refused(index: int) -> None:
    with pytest.raises(ConcertError, match=rf"no image {index} in mine train: choose from 0\.\.5"):
        small_set().images([0, index])


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf])
def test_floats_outside_the_unit_interval_are_refused(value: float) -> None:
    images = torch.zeros(2, 1, 4, 4)
    images[1, 0, 2, 3] = value
    with pytest.raises(ConcertError, match=r"must lie in \[0, 1\]"):
        ImageSet("mine", "test", images, torch.tensor([0, 0]), ["a"])


def test_wrong_shapes_types_and_labels_are_refused() -> None:
    images, labels = torch.zeros(2, 1, 4, 4), torch.tensor([0, 1])
    for wrong, message in [
        ((images[0], labels, "ab"), r"must have shape \(N, C, H, W\)"),
        ((images.int(), labels, "ab"), "must be uint8 or floats"),
        ((images[:0], labels[:0], "ab"), "is empty"),
        ((images, labels[:1], "ab"), "2 images need as many labels: 1 given"),
        ((images, labels, "a"), r"label 1 of mine is outside 0\.\.0"),
        ((images, -labels, "ab"), r"label -1 of mine is outside 0\.\.1"),
    ]:
        with pytest.raises(ConcertError, match=message):
            ImageSet("mine", "test", *wrong)


def test_fingerprint_depends_on_pixels_labels_and_shape() -> None:
    images, labels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    brighter = images.clone()
    brighter[1, 0, 3, 3] = 1
    variants = [(images, labels), (brighter, labels), (images, 1 - labels)]
    variants.append((images.reshape(2, 1, 2, 8), labels))
    hashes = {ImageSet("mine", "test", *variant, "ab").fingerprint for variant in variants}
    assert len(hashes) == 4
    assert ImageSet("other", "train", images, labels, "ab").fingerprint in hashes


@pytest.mark.parametrize("augmentation", ["none", "crop_flip", "photo"])
def test_training_images_are_a_function_of_the_generator(augmentation: str) -> None:
    images = small_set(augmentation)
    indices = [5, 0, 0, 3] * 4

    def draw(seed: int) -> torch.Tensor:
        return images.training_images(indices, torch.Generator().manual_seed(seed))

    before = torch.get_rng_state()
    assert torch.equal(draw(3), draw(3))
    assert torch.equal(draw(3), draw(4)) == (augmentation == "none")
    assert torch.equal(torch.get_rng_state(), before)
    assert draw(3).shape == (16, 3, 8, 8)
    assert draw(3).min() >= 0
    assert draw(3).max() <= 1


@pytest.mark.parametrize("augmentation", ["none", "crop_flip", "photo"])
def test_extra_channels_go_through_the_same_geometry(augmentation: str) -> None:
    images = small_set(augmentation)
    indices = [0, 1, 2, 3, 4, 5] * 3
    extra = images.images(indices)[:, 1:]
    generator = torch.Generator().manual_seed(0)
    both = images.training_images(indices, generator, extra)
    assert both.shape == (18, 5, 8, 8)
    assert torch.equal(both[:, 1:3], both[:, 3:])
    alone = images.training_images(indices, torch.Generator().manual_seed(0))
    assert torch.equal(alone, both[:, :3])


def test_extra_of_another_shape_is_refused() -> None:
    with pytest.raises(ConcertError, match="do not fit images"):
        small_set().training_images([0, 1], torch.Generator(), torch.zeros(2, 1, 4, 8))


def test_subset_rules() -> None:
    assert subset_indices(4, "all") == [0, 1, 2, 3]
    assert subset_indices(10, "first:3") == [0, 1, 2]
    assert subset_indices(10, "every:4") == [0, 4, 8]
    assert subset_indices(10_000, "every:20") == list(range(0, 10_000, 20))
    drawn = subset_indices(10_000, "random:500:0")
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 500
    assert drawn == subset_indices(10_000, "random:500:0") != subset_indices(10_000, "random:500:1")
    assert subset_indices(7, "random:7:3") == list(range(7))
    chosen = np.random.Generator(np.random.PCG64(0)).choice(10_000, 500, replace=False)
    assert drawn == sorted(chosen.tolist())


NONSENSE = (
    " some first first: first:0 first:11 first:-1 first:1.5 every:0 every:² random:5 random:11:0 "
    "random:0:0 random:5:-1 all:3 first:3:4 evry:3"
)


@pytest.mark.parametrize("rule", NONSENSE.split(" "))
def test_nonsense_subset_rules_are_refused(rule: str) -> None:
    with pytest.raises(ConcertError) as caught:
        subset_indices(10, rule)
    assert rule in str(caught.value)
    assert "\n" not in str(caught.value)
