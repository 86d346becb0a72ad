"""Judge a colorizer on images that it was not fitted to.

    python -m concert.colorization.evaluate --cifar10 DIR --photos FILE --mnist FILE --out FILE

Without hints, in nats per 4 x 4 cell:

- *cross-entropy* with the true colours, which is the mean negative log-likelihood of the nearest of
  the 529 colours, against that of the best constant prediction: the marginal distribution of the
  same source's training images.
- *soft cross-entropy*: the same with the fit's target, which spreads a colour over the four nearest
  and so cannot be predicted with certainty by any model.
- *Spearman correlation* between the predicted entropy and the negative log-likelihood of the same
  cell: does the entropy rank how badly the colour is predicted? Over all cells, and within images.
- *mean entropy*: equals the cross-entropy when the predicted distribution is calibrated.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import rankdata
from torch import Tensor

from concert.colorization.compact import CompactColorizer, load_colorizer
from concert.colorization.entropy import (
    MIN_RANGE,
    color_entropy,
    normalize_entropies,
    raw_entropies,
)
from concert.colorization.fit import cell_losses
from concert.colorization.lab import rgb_to_lab
from concert.colorization.pictures import (
    cell_colors,
    center_crops,
    color_counts,
    held_out,
    nearest_colors,
    random_hints,
    read_pictures,
    stack,
)
from concert.errors import ConcertError
from concert.files import write_atomically

Cells = npt.NDArray[np.float32]


def smoothed_marginal(counts: Tensor) -> Tensor:
    """Colour frequencies (529,) of counts, each plus one, so that no colour is impossible."""
    return (counts + 1) / (counts + 1).sum()


def marginals(images: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Colour frequencies (529,) of uint8 images: nearest colours, and soft encoding."""
    nearest = smoothed_marginal(color_counts(images, batch_size, soft=False))
    return nearest, smoothed_marginal(color_counts(images, batch_size))


@torch.no_grad()
def judge(
    colorizer: CompactColorizer,
    images: Tensor,
    marginal: Tensor,
    soft_marginal: Tensor,
    batch_size: int = 50,
) -> dict[str, Any]:
    """The figures of the module's docstring for uint8 images (N, 3, H, W).

    Args:
        marginal: frequencies of the nearest colours of training images, (529,), all positive.
        soft_marginal: those of their soft encoding.
    """
    constants = [probabilities.log().float() for probabilities in (marginal, soft_marginal)]
    collected: dict[str, list[Cells]] = {}
    generator = torch.Generator().manual_seed(0)
    for batch in torch.split(images, batch_size):
        lab = rgb_to_lab(batch.float() / 255)
        bins, shares = cell_colors(lab[:, 1:])
        nearest = nearest_colors(bins, shares)
        whole = torch.ones_like(nearest)
        zeros = torch.zeros_like(lab)
        logits = colorizer(lab[:, :1], zeros[:, 1:], zeros[:, :1])
        hinted = colorizer(lab[:, :1], *random_hints(lab[:, 1:], 1.0, generator))
        cells = {
            "loss": cell_losses(logits, nearest, whole),
            "soft": cell_losses(logits, bins, shares),
            "hinted": cell_losses(hinted, nearest, whole),
            "entropy": color_entropy(logits)[:, 0],
            "marginal": -constants[0][nearest][:, 0],
            "soft_marginal": -(constants[1][bins] * shares).sum(dim=1),
        }
        for name, value in cells.items():
            collected.setdefault(name, []).append(value.flatten(1).numpy())
    table = {name: np.concatenate(parts) for name, parts in collected.items()}
    return {
        "images": len(images),
        "cells": int(table["loss"].size),
        "cross_entropy": _comparison(table["loss"], table["marginal"]),
        "soft_cross_entropy": _comparison(table["soft"], table["soft_marginal"]),
        "cross_entropy_with_hints": float(table["hinted"].mean()),
        "mean_entropy": float(table["entropy"].mean()),
        "entropy_range": [float(table["entropy"].min()), float(table["entropy"].max())],
        "spearman_pooled": float(
            spearman(table["entropy"].reshape(1, -1), table["loss"].reshape(1, -1))[0]
        ),
        "spearman_mean_over_images": float(np.nanmean(spearman(table["entropy"], table["loss"]))),
    }


def _comparison(loss: Cells, constant: Cells) -> dict[str, float]:
    model, marginal = float(loss.mean()), float(constant.mean())
    return {"model": model, "marginal": marginal, "below": 1 - model / marginal}


def spearman(first: Cells, second: Cells) -> npt.NDArray[np.float64]:
    """Rank correlation of each row of two (N, M) arrays, (N,); NaN where a row is constant."""
    ranks = [rankdata(values, axis=1) - (values.shape[1] + 1) / 2 for values in (first, second)]
    covariance = (ranks[0] * ranks[1]).sum(axis=1)
    scale = np.sqrt((ranks[0] ** 2).sum(axis=1) * (ranks[1] ** 2).sum(axis=1))
    correlation: npt.NDArray[np.float64] = np.divide(
        covariance, scale, out=np.full(len(first), np.nan), where=scale > 0
    )
    return correlation


def describe_grey(
    colorizer: CompactColorizer, images: Tensor, batch_size: int = 250
) -> dict[str, Any]:
    """Entropies of grey uint8 images (N, 1, H, W), where there is no true colour to compare with.

    The range of the entropies (nats) within an image, and the mean of the normalised map on bright
    pixels (above one half) and on dark ones.
    """
    pieces = [
        raw_entropies(batch.float() / 255, colorizer) for batch in torch.split(images, batch_size)
    ]
    entropies = torch.cat(pieces)
    maps = normalize_entropies(entropies, *images.shape[-2:])
    spans = (entropies.amax(dim=(1, 2, 3)) - entropies.amin(dim=(1, 2, 3))).numpy()
    bright = images > 127
    return {
        "images": len(images),
        "entropy_range": [float(entropies.min()), float(entropies.max())],
        "range_within_image": dict(
            zip(("min", "median", "max"), np.quantile(spans, (0, 0.5, 1)).tolist(), strict=True)
        ),
        "share_without_map": float((spans < MIN_RANGE).mean()),
        "mean_map_on_bright_pixels": float(maps[bright].mean()),
        "mean_map_on_dark_pixels": float(maps[~bright].mean()),
    }


def main() -> None:
    """The command line of the evaluation."""
    parser = argparse.ArgumentParser(description="Judge a colorizer.", allow_abbrev=False)
    parser.add_argument("--cifar10", type=Path, required=True, help="folder of the Parquet files")
    parser.add_argument("--photos", type=Path, required=True, help="Parquet file of photographs")
    parser.add_argument("--mnist", type=Path, required=True, help="Parquet file of digits")
    parser.add_argument("--colorizer", default="compact", help="name or weights file")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    colorizer = load_colorizer(arguments.colorizer)
    images = stack(read_pictures(arguments.cifar10 / "train.parquet"))
    photos, others = held_out(read_pictures(arguments.photos))
    digits = stack(read_pictures(arguments.mnist))[:, :1]
    test_images = stack(read_pictures(arguments.cifar10 / "test.parquet"))
    crops = center_crops(photos, 256, 224)
    evidence = {
        "colorizer": colorizer.fingerprint,
        "cifar10_test": judge(colorizer, test_images, *marginals(images, 500)),
        "photos_held_out": judge(
            colorizer, center_crops(others, 256, 224), *marginals(crops, 20), batch_size=5
        ),
        "mnist_test": describe_grey(colorizer, digits),
    }
    write_atomically(arguments.out, (json.dumps(evidence, indent=2) + "\n").encode())


if __name__ == "__main__":
    try:
        main()
    except ConcertError as error:
        raise SystemExit(f"error: {error}") from error
