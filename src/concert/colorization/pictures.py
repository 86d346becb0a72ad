"""Pictures, crops, colour statistics and hints for fitting and judging a colorizer."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional

from concert.colorization.lab import AB_BINS, AB_SIDE, encode_ab, rgb_to_lab
from concert.colorization.layers import STRIDE
from concert.errors import ConcertError

HELD_OUT_EVERY = 8


def read_pictures(path: Path) -> list[Image.Image]:
    """The decoded pictures of a Parquet file whose column "img" or "image" holds image files."""
    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise ConcertError(f"cannot read pictures from {path}: give a Parquet file") from error
    names = [name for name in ("img", "image") if name in table.column_names]
    if not names:
        raise ConcertError(f"{path} has no column 'img' or 'image' with image files")
    rows = table.column(names[0]).to_pylist()
    return [Image.open(io.BytesIO(row["bytes"])).convert("RGB") for row in rows]


def stack(pictures: Iterable[Image.Image]) -> Tensor:
    """Pictures of one size as uint8 (N, 3, H, W)."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).movedim(-1, 1)


def held_out(pictures: list[Image.Image]) -> tuple[list[Image.Image], list[Image.Image]]:
    """(training, held-out) pictures: every eighth one is held out."""
    last = HELD_OUT_EVERY - 1
    return (
        [picture for i, picture in enumerate(pictures) if i % HELD_OUT_EVERY != last],
        pictures[last::HELD_OUT_EVERY],
    )


def center_crops(pictures: list[Image.Image], shortest: int, crop: int) -> Tensor:
    """Central crop x crop pixels after resizing to a shortest side, uint8 (N, 3, crop, crop)."""
    crops = []
    for picture in pictures:
        side = crop * min(picture.size) / shortest
        crops.append(_resized(picture, 0.5, 0.5, side, side, crop))
    return stack(crops)


def random_crops(
    pictures: list[Image.Image],
    count: int,
    crop: int,
    longest: int,
    generator: torch.Generator,
    stretch: float = 1.0,
) -> Tensor:
    """Random crops at random scales of random pictures, uint8 (count, 3, crop, crop).

    The shortest side of the resized picture is log-uniform between `crop` and `longest` pixels.
    With a `stretch` above 1, width or height is stretched by a factor of up to `stretch`.
    """
    chosen = torch.randint(len(pictures), (count,), generator=generator).tolist()
    draws = torch.rand(count, 3, generator=generator)
    factors = torch.ones(count, 2)
    if stretch > 1:
        exponent = 2 * torch.rand(count, generator=generator) - 1
        factors = stretch ** torch.stack([-exponent.clamp(min=0), exponent.clamp(max=0)], dim=1)
    crops = []
    for index, draw, factor in zip(chosen, draws.tolist(), factors.tolist(), strict=True):
        side = min(pictures[index].size) * (crop / longest) ** draw[0]
        width, height = side * factor[0], side * factor[1]
        crops.append(_resized(pictures[index], draw[1], draw[2], width, height, crop))
    return stack(crops)


def _resized(
    picture: Image.Image, x: float, y: float, width: float, height: float, crop: int
) -> Image.Image:
    left, top = x * (picture.width - width), y * (picture.height - height)
    box = (left, top, min(left + width, picture.width), min(top + height, picture.height))
    return picture.resize((crop, crop), Image.Resampling.BICUBIC, box=box)


def vary_lightness(
    lightness: Tensor, gamma: float, noise: float, generator: torch.Generator
) -> Tensor:
    """Lightness (B, 1, H, W) with a random gamma and random noise, each its own for every image.

    So a network cannot recognise a training picture, whose colours it knows by heart, by its exact
    grey values. The exponent is log-uniform between 1 / `gamma` and `gamma`; the noise is Gaussian
    with a standard deviation uniform between 0 and `noise` (units of L). The result is in [0, 100].
    """
    draws = torch.rand(2, len(lightness), 1, 1, 1, generator=generator)
    curved = 100 * (lightness / 100).clamp(0, 1) ** (gamma ** (2 * draws[0] - 1))
    grain = noise * draws[1] * torch.randn(lightness.shape, generator=generator)
    return (curved + grain).clamp(0, 100)


def flip_some(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image (B, 3, H, W) mirrored from left to right with probability one half."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def cell_colors(ab: Tensor) -> tuple[Tensor, Tensor]:
    """Soft encoding (bins, weights), each (B, 4, h, w), of the mean colour of 4 x 4 blocks."""
    return encode_ab(functional.avg_pool2d(ab, STRIDE))


def nearest_colors(bins: Tensor, weights: Tensor) -> Tensor:
    """Of a soft encoding (B, 4, h, w) the nearest colour's bin, (B, 1, h, w)."""
    return bins.gather(1, weights.argmax(dim=1, keepdim=True))


def color_counts(images: Tensor, batch_size: int = 500, soft: bool = True) -> Tensor:
    """How many cells of uint8 images (N, 3, H, W) have each of the 529 colours: (529,) float64.

    A cell counts for the four colours of its soft encoding, or with soft=False for the nearest one.
    """
    counts = torch.zeros(AB_BINS, dtype=torch.float64)
    for batch in torch.split(images, batch_size):
        bins, weights = cell_colors(rgb_to_lab(batch.float() / 255)[:, 1:])
        if not soft:
            bins = nearest_colors(bins, weights)
            weights = torch.ones_like(bins)
        counts.index_add_(0, bins.flatten(), weights.flatten().double())
    return counts


def rebalancing_weights(frequencies: Tensor, uniform_share: float) -> Tensor:
    """Loss weight of every colour, (529,): Zhang et al., "Colorful Image Colorization" (2016).

    The frequencies, smoothed over the grid by a Gaussian of 5 ab units, are mixed with
    `uniform_share` (their lambda, in [0, 1]) of the uniform distribution; the weights are
    the inverse, scaled to expectation 1 under the frequencies. A share of 1 weighs all alike.
    """
    grid = frequencies.double().reshape(AB_SIDE, AB_SIDE).numpy()
    smooth = torch.from_numpy(gaussian_filter(grid, sigma=0.5, mode="constant")).flatten()
    weights = 1 / ((1 - uniform_share) * smooth / smooth.sum() + uniform_share / AB_BINS)
    return (weights / (weights * frequencies.double()).sum()).float()


def random_hints(
    ab: Tensor, share: float, generator: torch.Generator, rectangles: int = 8, longest: int = 4
) -> tuple[Tensor, Tensor]:
    """Hints and mask that reveal the true colours of a few random rectangles.

    With probability `share` an image has hints: a geometric number of rectangles (each further one
    with probability 3/4, at most `rectangles`) with sides of 1 to `longest` pixels.

    Args:
        ab: true colours (B, 2, H, W).

    Returns:
        hints (B, 2, H, W), 0 where nothing is revealed, and mask (B, 1, H, W) in {0, 1}.
    """
    batch, _, height, width = ab.shape
    draws = torch.rand(5, batch, rectangles, generator=generator)
    chance = torch.full((rectangles,), 0.75)
    chance[0] = share
    shown = (draws[0] < chance).cumprod(dim=1).bool()
    inside = []
    for length, start, extent in ((height, draws[1], draws[2]), (width, draws[3], draws[4])):
        first = (start * length).floor()[..., None]
        position = torch.arange(length)
        inside.append(
            (position >= first) & (position <= first + (extent * longest).floor()[..., None])
        )
    revealed = shown[..., None, None] & inside[0][..., :, None] & inside[1][..., None, :]
    mask = revealed.any(dim=1, keepdim=True).to(ab.dtype)
    return ab * mask, mask
