"""Patches of pixels that a region covers, against the region's own test of membership."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from concert.certificates import Guarantee, Region
from concert.evaluation.coverage import patch_coverage, telling_side, uniform_change

CHANGE = 8 / 255


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 2), st.integers(1, 5), st.floats(0.001, 0.2))
def test_a_patch_is_covered_where_the_region_contains_it(
    seed: int, channels: int, side: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (channels, 5, 7)
    axes = scale * (0.3 + torch.rand(shape, generator=generator, dtype=torch.float64))
    radius = float(axes.min())
    region = Region("static", Guarantee.DEPLOYED, radius, axes.numel(), axes)
    covered = patch_coverage(radius, axes, shape, CHANGE, side)
    signs = torch.randint(0, 2, shape, generator=generator) * 2 - 1
    for row in range(5):
        for column in range(7):
            top = min(max(row - side // 2, 0), 5 - side)
            left = min(max(column - side // 2, 0), 7 - side)
            delta = torch.zeros(shape, dtype=torch.float64)
            delta[:, top : top + side, left : left + side] = CHANGE
            assert covered[row, column] == bool(region.contains(delta * signs))


def test_a_ball_covers_the_same_everywhere() -> None:
    shape = (3, 8, 8)
    radius = CHANGE * math.sqrt(3) * 4.5
    assert patch_coverage(radius, None, shape, CHANGE, 4).all()
    assert not patch_coverage(radius, None, shape, CHANGE, 5).any()
    assert telling_side(radius, None, shape, CHANGE) == 4
    assert telling_side(0.0, None, shape, CHANGE) == 0


def test_the_telling_patch_is_covered_on_the_side_with_long_axes() -> None:
    axes = torch.full((1, 10, 10), 0.05)
    axes[..., 5:] = 0.5
    side = telling_side(0.05, axes, (1, 10, 10), CHANGE)
    covered = patch_coverage(0.05, axes, (1, 10, 10), CHANGE, side)
    assert 0 < covered.mean() < 1
    assert covered[:, -1].all()
    assert not covered[:, 0].any()


def test_a_patch_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        patch_coverage(1.0, None, (1, 4, 6), CHANGE, 5)


def test_all_values_may_change_up_to_the_border_of_the_region() -> None:
    axes = torch.rand((1, 6, 6), generator=torch.Generator().manual_seed(0)).double() + 0.1
    radius = float(axes.min()) * 0.999
    change = uniform_change(radius, axes, 36)
    region = Region("static", Guarantee.DEPLOYED, radius, 36, axes)
    assert bool(region.contains(torch.full((1, 6, 6), change * (1 - 1e-9), dtype=torch.float64)))
    assert not bool(
        region.contains(torch.full((1, 6, 6), change * (1 + 1e-9), dtype=torch.float64))
    )
    assert uniform_change(1.2, None, 144) == pytest.approx(0.1)
    assert uniform_change(0.0, None, 144) == 0
    assert np.isfinite(change)
