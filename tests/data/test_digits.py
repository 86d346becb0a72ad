"""The built-in digits: the pixels of scikit-learn, and a fixed stratified split."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

from concert.data import load_images


def test_pixels_and_labels_are_those_of_scikit_learn() -> None:
    raw = load_digits()
    known = {}
    for image, label in zip(raw.images, raw.target, strict=True):
        known.setdefault(image.astype(int).tobytes(), []).append(label)
    for split in ("train", "test"):
        loaded = load_images("digits", split)
        images = loaded.images(range(len(loaded)))
        assert images.shape[1:] == (1, 28, 28)
        border = images.clone()
        border[:, :, 2:-2, 2:-2] = 0
        assert border.max() == 0
        small = images[:, 0, 2:-2:3, 2:-2:3]
        assert torch.equal(images[:, 0, 4:-2:3, 3:-2:3], small)
        for values, label in zip((small * 16).round().numpy(), loaded.labels, strict=True):
            assert int(label) in known[values.astype(int).tobytes()]


def test_split_is_disjoint_stratified_and_fixed() -> None:
    raw = load_digits()
    train, test = load_images("digits", "train"), load_images("digits", "test")
    assert (len(train), len(test)) == (1500, 297)
    flat = [s.images(range(len(s))).flatten(1).numpy() for s in (train, test)]
    rows = [[image.tobytes() for image in images] for images in flat]
    assert len(set(rows[0])) + len(set(rows[1])) == 1797
    assert not set(rows[0]) & set(rows[1])
    share = np.bincount(raw.target) * 297 / 1797
    assert (np.abs(test.labels.bincount().numpy() - share) < 1).all()
    again = load_images("digits", "test")
    assert again.fingerprint == test.fingerprint != train.fingerprint
