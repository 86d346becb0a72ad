"""The curve of P(tau >= w), on generators whose dips are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy.special import ndtri
from torch import Tensor, nn

from concert.errors import ConcertError
from concert.evaluation.stability import map_stability
from concert.noise import IsotropicNoise, QueriedNoise
from concert.smoothing import SmoothedClassifier

SHAPE, QUERY = (1, 2, 3), 0.5


class Map(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


def smoothed(function: Callable[[Tensor], Tensor]) -> SmoothedClassifier:
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(6, 2))
    return SmoothedClassifier(classifier, QueriedNoise(Map(function), QUERY, 0.2, 0.45), 2, SHAPE)


def test_a_constant_map_never_dips() -> None:
    result = map_stability(smoothed(lambda x: torch.full_like(x, 0.3)), torch.rand(3, *SHAPE), 500)
    assert result.shares == result.worst == [1.0] * len(result.dips)
    assert result.dip_at_999 == pytest.approx(0.0, abs=1e-6)
    assert (result.low, result.geomean, result.high) == pytest.approx((0.3, 0.3, 0.3), rel=1e-6)
    assert result.maps == 1


def test_a_map_that_dips_in_a_known_share_of_queries() -> None:
    """One query in ten, the map falls from 0.4 to 0.2 at one pixel; the mean is 0.38 there."""
    centre = 0.5 * torch.ones(2, *SHAPE)
    threshold = 3.0 + float(ndtri(0.9)) * QUERY * math.sqrt(6)

    def dipping(x: Tensor) -> Tensor:
        maps = torch.full_like(x, 0.4)
        maps[:, 0, 0, 0] = torch.where(x.flatten(1).sum(dim=1) < threshold, 0.4, 0.2)
        return maps

    result = map_stability(smoothed(dipping), centre, 4000, dips=(0.0, 0.1, 0.45, 0.5))
    # 0.2 is 47 % below the mean of 0.38.
    assert result.shares[0] == pytest.approx(0.9, abs=0.02)
    assert result.shares[1] == pytest.approx(0.9, abs=0.02)
    assert result.shares[2] == pytest.approx(0.9, abs=0.02)
    assert result.shares[3] == 1.0
    assert result.dip_at_99 == pytest.approx(1 - 0.2 / 0.38, abs=0.01)
    assert result.maps == 2


def test_noise_without_a_query_is_refused() -> None:
    model = SmoothedClassifier(nn.Flatten(), IsotropicNoise(0.25), 2, SHAPE)
    with pytest.raises(ConcertError, match="queried"):
        map_stability(model, torch.rand(1, *SHAPE))
