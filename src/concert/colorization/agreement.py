"""Do the entropies of two colorizers agree?

    python -m concert.colorization.agreement FIRST SECOND [--cifar10 DIR] [--out FILE] ...

FIRST and SECOND are names or weights files of colorizers. On images that neither was fitted to,
without hints, the Spearman correlation between their entropies of the same 4 x 4 cells:

- *mean*: within each image, then over images, with the 95 % normal interval of the mean. The noise
  model uses the order within an image, so this is the figure that counts.
- *pooled*: over all cells of all images.
- *shifted*: the mean when the second's entropies are those of the next image: what a pattern common
  to all images explains.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from concert.colorization.build import build_colorizer
from concert.colorization.entropy import raw_entropies
from concert.colorization.evaluate import Cells, spearman
from concert.colorization.pictures import center_crops, held_out, read_pictures, stack
from concert.tool import as_json, run_tool


def agreement(
    first: nn.Module, second: nn.Module, images: Tensor, batch_size: int = 20
) -> dict[str, float]:
    """The figures of the module's docstring for at least two uint8 images (N, C, H, W)."""
    cells = [all_entropies(colorizer, images, batch_size) for colorizer in (first, second)]
    each = spearman(*cells)
    each = each[np.isfinite(each)]
    mean = float(each.mean())
    error = float(each.std(ddof=1) / np.sqrt(len(each)))
    return {
        "images": len(images),
        "images_with_varying_entropies": len(each),
        "cells": cells[0].size,
        "mean": mean,
        "low": mean - 1.96 * error,
        "high": mean + 1.96 * error,
        "pooled": float(spearman(cells[0].reshape(1, -1), cells[1].reshape(1, -1))[0]),
        "shifted": float(np.nanmean(spearman(cells[0], np.roll(cells[1], 1, axis=0)))),
    }


def all_entropies(colorizer: nn.Module, images: Tensor, batch_size: int) -> Cells:
    """The entropies of uint8 images, one row an image."""
    pieces = [
        raw_entropies(batch.float() / 255, colorizer).flatten(1)
        for batch in torch.split(images, batch_size)
    ]
    cells: Cells = torch.cat(pieces).numpy()
    return cells


def main(
    first: str,
    second: str,
    cifar10: Path = Path("data/cifar10"),
    photos: Path = Path("data/imagenet-sample/validation.parquet"),
    mnist: Path = Path("data/mnist/test.parquet"),
    out: Path | None = None,
) -> str:
    """The agreement of two colorizers as JSON, also written to `out`."""
    pair = build_colorizer(first), build_colorizer(second)
    sources = {
        "cifar10_test": stack(read_pictures(cifar10 / "test.parquet")),
        "photos_held_out": center_crops(held_out(read_pictures(photos))[1], 256, 224),
        "mnist_test": stack(read_pictures(mnist))[:, :1],
    }
    result = {
        "first": str(pair[0].fingerprint),
        "second": str(pair[1].fingerprint),
        **{name: agreement(*pair, images) for name, images in sources.items()},
    }
    return as_json(result, out)


if __name__ == "__main__":
    run_tool(main)
