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


def stable_floor(mean_map: Tensor, dips: Tensor, vote_share: float, n: int, alpha: float) -> Tensor:
    """The map w = (1 - dip) * mean_map with the largest ellipsoid to be expected, (C, H, W).

    `dips` (n_select,): each selection draw's largest relative dip below `mean_map`. For each level
    the dip is that quantile of them, so that about `level` of all draws stay above w; the expected
    bound is that of n draws with a share of vote_share * level. The level that maximises
    (1 - dip) * Phi^-1(bound) is taken. Nothing here sees a certifying draw, so any rule is sound.
    """
    sorted_dips = np.sort(dips.double().numpy())
    best_dip, best_size = float(sorted_dips[-1]), -math.inf
    for level in LEVELS:
        dip = float(sorted_dips[math.ceil(level * len(sorted_dips)) - 1])
        p_lower = clopper_pearson_lower(round(vote_share * level * n), n, alpha)
        size = (1.0 - dip) * float(ndtri(p_lower)) if p_lower > 0 else -math.inf
        if size > best_size:
            best_dip, best_size = dip, size
    return mean_map * (1.0 - best_dip)
