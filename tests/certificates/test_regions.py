"""Batches of regions: every answer is exactly that of the single regions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from concert.certificates import (
    Guarantee,
    Region,
    Regions,
    frozen,
    isotropic,
    queried_ball,
    queried_ellipsoid,
    static,
    union,
)

SHARES = st.one_of(
    st.floats(0.0, 1.0, exclude_max=True), st.floats(-9, -0.5).map(lambda power: 1.0 - 10**power)
)
SHAPE = (2, 2, 3)


def some_maps(count: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return 0.1 + torch.rand(count, *SHAPE, generator=draw)


def some_deltas(regions: Regions, seed: int) -> Tensor:
    """Perturbations of which about half lie inside."""
    draw = torch.Generator().manual_seed(seed)
    directions = torch.randn(len(regions), *SHAPE, generator=draw).double()
    directions /= directions.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    sizes = 2 * torch.rand(len(regions), 1, 1, 1, generator=draw)
    return sizes * directions * regions.semi_axes.reshape(len(regions), *SHAPE)


def make(name: str, p: float, sigma_map: Tensor) -> Region:
    dim = sigma_map.numel()
    ball, ellipsoid = queried_ball(p, 0.1, dim), queried_ellipsoid(0.9 * p, sigma_map)
    return {
        "isotropic": lambda: isotropic(p, 0.25, dim),
        "static": lambda: static(p, sigma_map),
        "frozen": lambda: frozen(p, sigma_map),
        "queried": lambda: union("queried", ball, ellipsoid),
    }[name]()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["isotropic", "static", "frozen", "queried"]),
    st.lists(SHARES, min_size=1, max_size=6),
    st.integers(0, 2**32 - 1),
)
def test_a_batch_answers_exactly_what_single_regions_do(
    name: str, shares: list[float], seed: int
) -> None:
    singles = [make(name, p, s) for p, s in zip(shares, some_maps(len(shares), seed), strict=True)]
    regions = Regions(singles)
    assert (len(regions), regions.certificate) == (len(shares), singles[0].certificate)
    assert regions.guarantee is singles[0].guarantee
    for batched, single in (
        (regions.radius, [region.radius for region in singles]),
        (regions.proxy_volume, [region.proxy_volume for region in singles]),
        (regions.log_volume, [region.log_volume for region in singles]),
    ):
        assert batched.dtype == torch.float64
        assert batched.tolist() == single
    assert regions.semi_axes.shape[0] == len(shares)
    for axes, region in zip(regions.semi_axes, singles, strict=True):
        assert torch.equal(axes.flatten(), region.semi_axes.flatten())
    deltas = some_deltas(regions, seed)
    inside = regions.contains(deltas)
    pairs = list(zip(deltas, singles, strict=True))
    assert inside.tolist() == [bool(region.contains(delta)) for delta, region in pairs]
    for region in regions.regions:
        together = region.contains(deltas)
        assert together.tolist() == [bool(region.contains(delta)) for delta in deltas]


@pytest.mark.parametrize("dim", [784, 150_528])
def test_single_equals_batch_on_the_boundary_of_large_images(dim: int) -> None:
    """Sums that a batched reduction would round otherwise."""
    draw = torch.Generator().manual_seed(0)
    sigma_map = 0.2 + torch.rand(1, 1, dim, generator=draw)
    region = static(0.9, sigma_map)
    directions = torch.randn(20, 1, 1, dim, generator=draw).double()
    surface = directions / directions.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    deltas = surface * region.semi_axes
    single = [bool(region.contains(delta)) for delta in deltas]
    assert region.contains(deltas).tolist() == single
    assert Regions([region] * 20).contains(deltas).tolist() == single


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["isotropic", "static", "frozen", "queried"]),
    SHARES,
    SHARES,
    st.integers(0, 2**32 - 1),
)
def test_regions_grow_with_the_share(name: str, p: float, q: float, seed: int) -> None:
    (sigma_map,) = some_maps(1, seed)
    small, large = (make(name, share, sigma_map) for share in sorted((p, q)))
    assert small.radius <= large.radius
    assert small.proxy_volume <= large.proxy_volume
    assert small.log_volume <= large.log_volume
    (delta,) = some_deltas(Regions([large]), seed)
    assert bool(small.contains(delta)) <= bool(large.contains(delta))
    for region in (small, large):
        inside = [bool(region.contains(size * delta)) for size in (0.0, 0.3, 0.9, 1.0, 1.5)]
        assert inside == sorted(inside, reverse=True)


@settings(max_examples=100, deadline=None)
@given(SHARES, st.floats(0.5, 4.0), st.integers(0, 2**32 - 1))
def test_regions_scale_with_sigma(p: float, factor: float, seed: int) -> None:
    (sigma_map,) = some_maps(1, seed).double()
    region, scaled = static(p, sigma_map), static(p, factor * sigma_map)
    assert scaled.radius == pytest.approx(factor * region.radius, rel=1e-12)
    assert torch.allclose(scaled.semi_axes, factor * region.semi_axes, rtol=1e-12)
    if region.radius > 0:
        larger = region.log_volume + region.dim * math.log(factor)
        assert scaled.log_volume == pytest.approx(larger, rel=1e-9, abs=1e-9)


def test_limits_of_the_share() -> None:
    (sigma_map,) = some_maps(1, 0)
    for p in (0.0, 0.5):
        region = static(p, sigma_map)
        assert not bool(region.contains(torch.zeros(SHAPE)))
        assert (region.radius, region.log_volume) == (0.0, -math.inf)
    radii = [static(0.5 + 10.0**-k, sigma_map).radius for k in range(1, 15)]
    assert radii == sorted(radii, reverse=True)
    assert 0 < radii[-1] < 1e-12
    almost = static(math.nextafter(1.0, 0.0), sigma_map)
    assert 8 < almost.radius / float(sigma_map.min()) < 8.3


def test_semi_axes_of_a_ball_are_its_radius() -> None:
    ball = isotropic(0.9, 0.25, 12)
    assert ball.semi_axes.tolist() == [ball.radius] * 12
    assert isotropic(0.4, 0.25, 3).semi_axes.tolist() == [0.0] * 3
    (sigma_map,) = some_maps(1, 1)
    ellipsoid = static(0.9, sigma_map)
    assert ellipsoid.axes is not None
    assert torch.equal(ellipsoid.semi_axes, ellipsoid.axes)
    both = Regions(union("both", ball, region) for region in (ellipsoid, static(0.2, sigma_map)))
    assert both.semi_axes.shape == (2, *SHAPE)
    assert both.semi_axes[1].unique().tolist() == [ball.radius]
    assert Regions([ball, ball]).semi_axes.shape == (2, 12)
    assert both[1].axes is None


def test_regions_that_promise_different_things_do_not_share_a_batch() -> None:
    (sigma_map,) = some_maps(1, 2)
    for others in (
        [frozen(0.9, sigma_map)],
        [isotropic(0.9, 1.0, 12)],
        [static(0.9, sigma_map[:1])],
    ):
        with pytest.raises(ValueError, match="same certificate"):
            Regions([static(0.9, sigma_map), *others])
    with pytest.raises(ValueError, match="at least one"):
        Regions([])
    with pytest.raises(ValueError, match="2 perturbations for 1 regions"):
        Regions([static(0.9, sigma_map)]).contains(torch.zeros(2, *SHAPE))


def test_a_share_in_float32_is_taken_at_its_value() -> None:
    p = torch.tensor(0.999, dtype=torch.float32)
    assert isotropic(p, 1.0, 3).radius == isotropic(float(p), 1.0, 3).radius  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(12,), (2, 6), (2, 2, 4), (5, 1, 2, 2), (3, 2, 2)])
@pytest.mark.parametrize("ellipsoid", [False, True])
def test_perturbations_of_another_shape_are_refused(
    shape: tuple[int, ...], ellipsoid: bool
) -> None:
    region = Region("static", Guarantee.DEPLOYED, 0.1, 12, torch.ones(SHAPE) if ellipsoid else None)
    assert bool(region.contains(torch.zeros(SHAPE)))
    if shape == (3, 2, 2) and not ellipsoid:  # a ball knows the number of pixels only
        assert bool(region.contains(torch.zeros(shape)))
        return
    with pytest.raises(ValueError, match="image's shape"):
        region.contains(torch.zeros(shape))
