"""The box of the sigma map: its gate, its exact bounds in floating point, and its upsampling."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from concert.deferred import refuse
from concert.errors import ConcertError

# Noisy images stay far below; inputs up to the largest float would overflow inside the network.
INPUT_LIMIT = 100.0


def gate(logits: Tensor, low: float, high: float) -> Tensor:
    """Eq. 14: low + (high - low) * sigmoid(logits), in [low, high] also after rounding.

    With low = a and high = omega*b this equals (a exp(-z) + omega b) / (1 + exp(-z)), without its
    overflow at large -z. float64 stays float64, every other precision becomes float32. The
    bounds hold against `low` and `high` as real numbers: results are clamped to the innermost
    floats of the box, and where the box is narrower than one float `low` has precedence, because
    the radius rests on it. NaN logits raise a ConcertError: no certificate would hold for them.
    """
    check_numbers(logits)
    return into_box(low + (high - low) * torch.sigmoid(_at_least_float32(logits)), low, high)


def check_numbers(values: Tensor) -> None:
    """Refuse values (B, ...) that are not numbers."""
    refuse(torch.isnan(values).flatten(1).any(1) if values.dim() > 1 else values.isnan(), _damaged)


def _damaged() -> ConcertError:
    return ConcertError(
        "the generator's output is not a number: its input or its weights are damaged"
    )


def into_box(sigma: Tensor, low: float, high: float) -> Tensor:
    """Clamp to the floats of sigma's precision within [low, high]."""
    sigma = _at_least_float32(sigma)
    kind = np.float64 if sigma.dtype == torch.float64 else np.float32
    lowest, highest = kind(low), kind(high)
    if float(lowest) < low:
        lowest = np.nextafter(lowest, kind(np.inf))
    if float(highest) > high:
        highest = np.nextafter(highest, kind(-np.inf))
    return sigma.clamp(max=float(highest)).clamp(min=float(lowest))


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def upsample(maps: Tensor, factor: int) -> Tensor:
    """Bilinear upsampling of (..., h, w) maps by a whole factor.

    As two products with the matrices of one-dimensional linear interpolation, which take an
    eighth of the time of `F.interpolate` on such small maps.
    """

    rows, columns = (interpolation_like(maps, side, factor) for side in maps.shape[-2:])
    return rows @ (maps @ columns.T)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # a matrix kept from inference mode could not be trained through
def interpolation(cells: int, factor: int) -> Tensor:
    """The matrix (cells * factor, cells) of linear interpolation, in float64."""
    identity = torch.eye(cells, dtype=torch.float64)
    if factor == 1:
        return identity
    return F.interpolate(identity[None], scale_factor=float(factor), mode="linear")[0].T


def interpolation_like(maps: Tensor, cells: int, factor: int) -> Tensor:
    """`interpolation` in the precision and on the device of `maps`."""
    return _interpolation_on(cells, factor, maps.dtype, maps.device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _interpolation_on(cells: int, factor: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    # Kept there: sending it with every batch would make the host wait for a GPU.
    return interpolation(cells, factor).to(device, dtype)


def check_box(channels: int, low: float, high: float) -> None:
    if channels < 1:
        raise ConcertError(f"a generator needs at least one channel, not {channels}")
    if not (0.0 < low <= high < math.inf):
        raise ConcertError(f"the box of sigma [{low}, {high}] must satisfy 0 < low <= high")


def check_images(images: Tensor, channels: int) -> None:
    if images.ndim != 4 or images.shape[1] != channels:
        raise ConcertError(
            f"the generator takes images of shape (B, {channels}, H, W), not {tuple(images.shape)}"
        )
