"""The data set that needs no download: scikit-learn's handwritten digits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

TEST_IMAGES = 297


def digits(split: str) -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 handwritten digits as uint8 (N, 1, 28, 28) images, and labels.

    Each of the 8x8 values 0..16 is scaled to 0..255 and repeated 3x3 times; two black pixels are
    added on each side. 297 images are for testing: each class gives its share, evenly spaced in
    the order of the file.
    """
    # Imported here because it takes seconds.
    from sklearn.datasets import load_digits

    raw = load_digits()
    labels = torch.from_numpy(np.asarray(raw.target, dtype=np.int64))
    values = np.rint(np.asarray(raw.images) * (255 / 16)).astype(np.uint8)
    images = np.pad(values.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (2, 2), (2, 2)))
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    counts = torch.bincount(labels)
    quota = counts * TEST_IMAGES / len(labels)
    share = quota.floor().long()
    missing = TEST_IMAGES - int(share.sum())
    share[torch.argsort(quota - share, descending=True, stable=True)[:missing]] += 1
    for digit, (count, taken) in enumerate(zip(counts.tolist(), share.tolist(), strict=True)):
        steps = (2 * torch.arange(taken) + 1) * count // (2 * taken)
        chosen[torch.nonzero(labels == digit)[steps, 0]] = True
    keep = chosen if split == "test" else ~chosen
    return torch.from_numpy(images)[:, None][keep], labels[keep]
