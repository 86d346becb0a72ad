"""What is fixed before the certifying draws: the candidate class and the map an ellipsoid rests on.

Everything here comes from selection draws, which no certificate counts, so any rule is sound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from concert.bounds import clopper_pearson_lower
from concert.certification.procedure import Procedure
from concert.noise import NoiseModel
from concert.sampling.votes import Request, dips_below
from concert.sampling.work import Steps
from concert.streams import Stream

# Shares of draws whose map stays above the floor, from all of them downwards.
LEVELS: Final = (1.0, 0.9995, 0.999, 0.998, 0.995, 0.99, 0.98, 0.95, 0.9, 0.8)


@dataclass(frozen=True)
class Selection:
    """The class to certify, the (mean) sigma map (C, H, W), and an ellipsoid's floor if any."""

    candidate: int
    sigma_map: Tensor
    floor: Tensor | None


def select(noise: NoiseModel, stream: Stream, procedure: Procedure) -> Steps[Selection]:
    """The selection for an image: n0 draws vote for the class, and where the certificate rests on a
    floor, n_select generator passes fix it for n certifying draws at error alpha/2.

    `noise` is the hot loop's copy, which the draws are made with.
    """
    n0 = procedure.n0
    floored = noise.needs_floor(procedure.certificate_of(noise))
    votes = yield Request(stream, n0, mean_map=not floored)
    candidate = int(votes.counts.argmax())
    if not floored:
        assert votes.sigma_map is not None
        return Selection(candidate, votes.sigma_map, None)
    sigma_map, dips = yield from map_dips(noise, stream, procedure.n_select)
    share = int(votes.counts[candidate]) / n0
    reference = noise.reference(sigma_map)
    floor = stable_floor(reference, dips, noise.lowest, share, procedure.n, 0.5 * procedure.alpha)
    return Selection(candidate, sigma_map, floor)


def map_dips(noise: NoiseModel, stream: Stream, n: int) -> Steps[tuple[Tensor, Tensor]]:
    """How the sigma map of an image varies over the first n draws, without the classifier.

    Returns the mean map (C, H, W) and each draw's largest relative dip below the noise's reference
    map, (n,): the map is at least (1 - dip) times the reference at every pixel. The maps are
    computed a second time only where there is no room to keep them.
    """
    votes = yield Request(stream, n, mean_map=True, classify=False, keep_maps=True)
    mean = votes.sigma_map
    assert mean is not None
    reference = noise.reference(mean)
    if votes.maps is not None:
        reference = reference.to(votes.maps.device)
        # In parts, because all ratios would take as much room as the maps once more.
        parts = torch.split(votes.maps, 64)
        return mean, torch.cat([dips_below(part, reference) for part in parts]).cpu()
    votes = yield Request(stream, n, classify=False, reference=reference)
    assert votes.dips is not None
    return mean, votes.dips


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
