"""What a certified region covers, in changes that a person can picture: patches of pixels.

A change of `change` in every value of a square patch is covered where it lies in the region
{sum (delta_i/axes_i)^2 < 1}, or in the ball; smaller changes of the same pixels are covered then
too. Signs do not matter. `axes` (C, H, W) as in `Certification`, None for a ball.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

# Relative; far above the rounding of the sums, and never in our favour.
_MARGIN: Final = 1e-9
# Semi-axes that exceed the radius by less than this, relative to it, add nothing worth showing.
_ROUND: Final = 1e-3


def is_ball(radius: float, axes: Tensor | None) -> bool:
    """Whether the region is the ball, or reaches beyond it by less than a thousandth."""
    return axes is None or float(axes.max()) <= radius * (1 + _ROUND)


def patch_coverage(
    radius: float, axes: Tensor | None, shape: tuple[int, int, int], change: float, side: int
) -> NDArray[np.bool_]:
    """Whether each patch of `side` x `side` pixels is covered: (H - side + 1, W - side + 1).

    One value per place of the patch inside the image, by its upper left pixel.
    """
    channels, height, width = shape
    if not 1 <= side <= min(height, width):
        raise ValueError(f"a patch of side {side} does not fit into {height} x {width} pixels")
    in_ball = math.sqrt(channels) * side * change < radius * (1 - _MARGIN)
    if axes is None:
        return np.full((height - side + 1, width - side + 1), in_ball)
    costs = (change / axes.double().cpu().numpy()) ** 2
    table = np.pad(costs.sum(axis=0), ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    sums = table[side:, side:] - table[:-side, side:] - table[side:, :-side] + table[:-side, :-side]
    in_ellipsoid: NDArray[np.bool_] = sums < 1 - _MARGIN
    return in_ellipsoid | in_ball


def covered_sides(
    radius: float, axes: Tensor | None, shape: tuple[int, int, int], change: float
) -> tuple[int, int]:
    """The sides of the largest patches that are covered in every place, and in at least one.

    0 where there is none.
    """
    everywhere = somewhere = 0
    for side in range(1, min(shape[1:]) + 1):
        covered = patch_coverage(radius, axes, shape, change, side)
        # A patch holds smaller ones, which are covered if it is.
        if not covered.any():
            break
        somewhere = side
        if covered.all():
            everywhere = side
    return everywhere, somewhere


def telling_patch(
    radius: float, axes: Tensor | None, shape: tuple[int, int, int], changes: Sequence[float]
) -> tuple[float, int] | None:
    """The change and the side of the patch whose coverage tells most about the region's shape.

    That is the pair for which places x share x (1 - share) is largest: about half of the patches
    are covered, and there are many places. None if every patch is covered everywhere or nowhere.
    """
    best, most = None, 0.0
    for change in changes:
        for side in range(1, min(shape[1:]) + 1):
            covered = patch_coverage(radius, axes, shape, change, side)
            told = covered.size * float(covered.mean()) * (1 - float(covered.mean()))
            if told > most:
                best, most = (change, side), told
            if not covered.any():
                break
    return best


def covers_all_values(
    radius: float, axes: Tensor | None, shape: tuple[int, int, int], change: float
) -> bool:
    """Whether `change` in every value of the image at once is covered."""
    return uniform_change(radius, axes, math.prod(shape)) * (1 - _MARGIN) > change


def uniform_change(radius: float, axes: Tensor | None, dim: int) -> float:
    """The change up to which all `dim` values may change at once, whatever the signs."""
    if radius <= 0:
        return 0.0
    in_ball = radius / math.sqrt(dim)
    if axes is None:
        return in_ball
    return max(in_ball, 1 / math.sqrt(float(axes.double().reciprocal().square().sum())))
