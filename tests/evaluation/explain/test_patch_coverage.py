"""Patches of pixels that a region covers, against the region's own test of membership."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from concert.certificates import Guarantee, Region
from concert.evaluation.explain.coverage import (
    covered_sides,
    covers_all_values,
    is_ball,
    patch_coverage,
    telling_patch,
    uniform_change,
)

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
    assert covered.shape == (6 - side, 8 - side)
    for top in range(6 - side):
        for left in range(8 - side):
            delta = torch.zeros(shape, dtype=torch.float64)
            delta[:, top : top + side, left : left + side] = CHANGE
            assert covered[top, left] == bool(region.contains(delta * signs))


def test_a_ball_covers_the_same_everywhere() -> None:
    shape = (3, 8, 8)
    radius = CHANGE * math.sqrt(3) * 4.5
    assert patch_coverage(radius, None, shape, CHANGE, 4).all()
    assert not patch_coverage(radius, None, shape, CHANGE, 5).any()
    assert covered_sides(radius, None, shape, CHANGE) == (4, 4)
    assert covered_sides(0.0, None, shape, CHANGE) == (0, 0)
    assert telling_patch(radius, None, shape, [CHANGE]) is None


def test_the_telling_patch_is_covered_on_the_side_with_long_axes() -> None:
    axes = torch.full((1, 10, 10), 0.05)
    axes[..., 5:] = 0.5
    found = telling_patch(0.05, axes, (1, 10, 10), [CHANGE, 2 * CHANGE, 4 * CHANGE])
    assert found is not None
    change, side = found
    covered = patch_coverage(0.05, axes, (1, 10, 10), change, side)
    assert 0 < covered.mean() < 1
    assert covered[:, -1].all()
    assert not covered[:, 0].any()


def test_the_telling_change_is_one_that_is_not_covered_everywhere() -> None:
    axes = torch.full((1, 28, 28), 1.3)
    axes[..., 14:] = 2.0
    steps = [8 / 255, 16 / 255, 32 / 255, 64 / 255]
    assert covers_all_values(1.3, axes, (1, 28, 28), steps[0])
    found = telling_patch(1.3, axes, (1, 28, 28), steps)
    assert found is not None
    assert found[0] > steps[0]
    share = patch_coverage(1.3, axes, (1, 28, 28), *found).mean()
    assert 0.3 < share < 0.7


def test_shares_count_patches_not_pixels() -> None:
    """81 places for 20 x 20 pixels in 28 x 28; the one with the narrow pixel alone fails."""
    axes = torch.full((1, 28, 28), 1.0)
    axes[0, 0, 0] = 0.02
    covered = patch_coverage(0.02, axes, (1, 28, 28), CHANGE, 20)
    assert covered.shape == (9, 9)
    assert covered.sum() == 80
    assert not covered[0, 0]


def test_images_that_are_not_square_are_covered_whole_by_their_norm() -> None:
    shape = (3, 8, 40)
    assert patch_coverage(0.6, None, shape, CHANGE, 8).all()
    assert not covers_all_values(0.6, None, shape, CHANGE)
    assert covers_all_values(0.98, None, shape, CHANGE)


def test_ellipsoids_that_hardly_leave_the_ball() -> None:
    assert is_ball(1.33, None)
    assert is_ball(1.33, torch.full((1, 2, 2), 1.3301))
    assert not is_ball(1.33, torch.full((1, 2, 2), 1.335))


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
