"""The floor map is chosen from selection draws, and big where it pays."""

from __future__ import annotations

import math

import torch
from scipy.special import ndtri

from concert.bounds import clopper_pearson_lower
from concert.certification.selection import LEVELS, stable_floor

MEAN = torch.tensor([[[0.3, 0.4], [0.45, 0.35]]])


def test_a_map_that_never_moves_is_its_own_floor() -> None:
    assert torch.equal(stable_floor(MEAN, torch.zeros(2000), 0.0, 1.0, 10_000, 0.001), MEAN)


def test_rare_dips_are_given_up_and_common_ones_are_not() -> None:
    rare = torch.zeros(2000)
    rare[:2] = 0.4  # one draw in a thousand
    assert torch.allclose(stable_floor(MEAN, rare, 0.0, 0.9, 100_000, 0.001), MEAN)
    common = torch.full((2000,), 0.4)
    assert torch.allclose(stable_floor(MEAN, common, 0.0, 0.9, 100_000, 0.001), 0.6 * MEAN)


def test_it_maximises_the_expected_size_over_its_levels() -> None:
    dips = torch.rand(2000, generator=torch.Generator().manual_seed(0)) ** 3
    share, n, alpha = 0.97, 50_000, 0.001
    floor = stable_floor(MEAN, dips, 0.0, share, n, alpha)
    ordered = dips.sort().values
    sizes = []
    for level in LEVELS:
        dip = float(ordered[math.ceil(level * 2000) - 1])
        p_lower = clopper_pearson_lower(round(share * level * n), n, alpha)
        sizes.append((1 - dip) * float(ndtri(p_lower)))
    best = LEVELS[sizes.index(max(sizes))]
    dip = float(ordered[math.ceil(best * 2000) - 1])
    assert torch.allclose(floor, (1 - dip) * MEAN)
    assert 0 < LEVELS.index(best) < len(LEVELS)  # a compromise, not an end


def test_a_hopeless_image_still_gets_a_floor() -> None:
    floor = stable_floor(MEAN, torch.full((100,), 0.2), 0.0, 0.0, 1000, 0.001)
    assert floor.shape == MEAN.shape
    assert 0.8 * 0.3 - 1e-6 <= float(floor.min()) <= 0.3 + 1e-6


def test_the_floor_is_never_below_the_box() -> None:
    # No map goes below the box, so a lower floor would give away volume for nothing.
    floor = stable_floor(MEAN, torch.full((1000,), 0.5), 0.25, 0.95, 10_000, 0.001)
    assert float(floor.min()) == 0.25
