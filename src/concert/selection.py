"""What is fixed before the certifying draws: the candidate class and the map an ellipsoid rests on.

Everything here comes from selection draws, which no certificate counts, so any rule is sound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import ndtri
from torch import Tensor

from concert.bounds import clopper_pearson_lower
from concert.procedure import Procedure
from concert.sampling import Sampler
from concert.streams import Stream
from concert.votes import Request

# Shares of draws whose map stays above the floor, from all of them downwards.
LEVELS: Final = (1.0, 0.9995, 0.999, 0.998, 0.995, 0.99, 0.98, 0.95, 0.9, 0.8)


@dataclass(frozen=True)
class Selection:
    """The class to certify, the (mean) sigma map (C, H, W), and an ellipsoid's floor if any."""

    candidate: int
    sigma_map: Tensor
    floor: Tensor | None


def select(
    sampler: Sampler,
    image: Tensor,
    stream: Stream,
    procedure: Procedure,
) -> Selection:
    """The selection for an image (C, H, W): n0 draws vote for the class, and where the certificate
    rests on a floor, n_select generator passes fix it for n certifying draws at error alpha/2.
    """
    n0 = procedure.n0
    # The sampler's own copy of the noise, which the draws are made with.
    noise = sampler.noise
    (votes,) = sampler.sample(image, [Request(stream, n0, mean_map=True)])
    candidate = int(votes.counts.argmax())
    assert votes.sigma_map is not None
    if not noise.needs_floor(procedure.certificate_of(noise)):
        return Selection(candidate, votes.sigma_map, None)
    sigma_map, dips = sampler.sigma_maps(image, stream, procedure.n_select)
    share = int(votes.counts[candidate]) / n0
    reference = noise.reference(sigma_map)
    floor = stable_floor(reference, dips, noise.lowest, share, procedure.n, 0.5 * procedure.alpha)
    return Selection(candidate, sigma_map, floor)


def stable_floor(
    reference: Tensor, dips: Tensor, low: float, vote_share: float, n: int, alpha: float
) -> Tensor:
    """The map w = max(low, (1 - dip) * reference) with the largest ellipsoid to be expected.

    `low` is the box's lower end, below which no map of shape (C, H, W) ever goes.
    `dips` (n_select,): each selection draw's largest relative dip below `reference`. For each level
    the dip is that quantile of them, so that about `level` of all draws stay above w; the expected
    bound is that of n draws with a share of vote_share * level. The level with the largest
    geometric mean of w times Phi^-1(bound) is taken.
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
