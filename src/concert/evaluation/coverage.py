"""What a certified region covers, in changes that a person can picture: patches of pixels.

A change of `change` in every value of a square patch is covered where it lies in the region
{sum (delta_i/axes_i)^2 < 1}, or in the ball; smaller changes of the same pixels are covered then
too. Signs do not matter.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

# Relative; far above the rounding of the sums, and never in our favour.
_MARGIN: Final = 1e-9


def patch_coverage(
    radius: float, axes: Tensor | None, shape: tuple[int, int, int], change: float, side: int
) -> NDArray[np.bool_]:
    """Whether the patch of `side` x `side` pixels around each pixel is covered: (H, W).

    Patches that would reach over the border are moved inside. `axes` (C, H, W) as in
    `Certification`, None for a ball.
    """
    channels, height, width = shape
    if not 1 <= side <= min(height, width):
        raise ValueError(f"a patch of side {side} does not fit into {height} x {width} pixels")
    in_ball = math.sqrt(channels) * side * change < radius * (1 - _MARGIN)
    if axes is None:
        return np.full((height, width), in_ball)
    costs = (change / axes.double().cpu().numpy()) ** 2
    table = np.pad(costs.sum(axis=0), ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    sums = table[side:, side:] - table[:-side, side:] - table[side:, :-side] + table[:-side, :-side]
    rows = (np.arange(height) - side // 2).clip(0, height - side)
    columns = (np.arange(width) - side // 2).clip(0, width - side)
    in_ellipsoid: NDArray[np.bool_] = sums[np.ix_(rows, columns)] < 1 - _MARGIN
    return in_ellipsoid | in_ball


def telling_side(
    radius: float, axes: Tensor | None, shape: tuple[int, int, int], change: float
) -> int:
    """The side of the patch that tells most: covered at about half of the pixels.

    Where every patch is covered everywhere or nowhere, the largest one that is; 0 for none.
    """
    best, best_distance = 0, 0.5
    for side in range(1, min(shape[1:]) + 1):
        share = float(patch_coverage(radius, axes, shape, change, side).mean())
        if share == 0:
            break
        if abs(share - 0.5) <= best_distance:
            best, best_distance = side, abs(share - 0.5)
    return best


def uniform_change(radius: float, axes: Tensor | None, dim: int) -> float:
    """The change up to which all `dim` values may change at once, whatever the signs."""
    if radius <= 0:
        return 0.0
    in_ball = radius / math.sqrt(dim)
    if axes is None:
        return in_ball
    return max(in_ball, 1 / math.sqrt(float(axes.double().reciprocal().square().sum())))
