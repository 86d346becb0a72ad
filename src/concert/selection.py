"""The map that the queried ellipsoid rests on, chosen from selection draws alone."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from scipy.special import ndtri
from torch import Tensor

from concert.bounds import clopper_pearson_lower

# Shares of draws whose map stays above the floor, from all of them downwards.
LEVELS: Final = (1.0, 0.9995, 0.999, 0.998, 0.995, 0.99, 0.98, 0.95, 0.9, 0.8)


def stable_floor(
    reference: Tensor, dips: Tensor, low: float, vote_share: float, n: int, alpha: float
) -> Tensor:
    """The map w = max(low, (1 - dip) * reference) with the largest ellipsoid to be expected.

    `low` is the box's lower end, below which no map of shape (C, H, W) ever goes.
    `dips` (n_select,): each selection draw's largest relative dip below `reference`. For each level
    the dip is that quantile of them, so that about `level` of all draws stay above w; the expected
    bound is that of n draws with a share of vote_share * level. The level with the largest
    geometric mean of w times Phi^-1(bound) is taken. Nothing here sees a certifying draw, so any
    rule is sound.
    """
    sorted_dips = np.sort(dips.double().numpy())
    best, best_size = reference.clamp(min=low), -math.inf
    for level in LEVELS:
        dip = float(sorted_dips[math.ceil(level * len(sorted_dips)) - 1])
        floor = (reference * (1.0 - dip)).clamp(min=low)
        p_lower = clopper_pearson_lower(round(vote_share * level * n), n, alpha)
        quantile = float(ndtri(p_lower)) if p_lower > 0 else -math.inf
        size = math.exp(float(floor.double().log().mean())) * quantile
        if size > best_size:
            best, best_size = floor, size
    return best
