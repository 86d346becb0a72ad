"""Certificates: reference values, rounding, what is equal to what, and what each guarantees."""

from __future__ import annotations

import json
import math
from pathlib import Path

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri

from concert.bounds import MARGIN, clopper_pearson_lower
from concert.certificates import (
    Guarantee,
    Region,
    empty,
    frozen,
    isotropic,
    isotropic_radius,
    normalized_radius,
    queried_ball,
    queried_ellipsoid,
    sigma_statistics,
    static,
    union,
)
from concert.certificates.kinds import FLOOR_SLACK

# (sigma map, p_A, p_B, rhat, smallest semi-axis, geometric mean of the semi-axes, semi-axes,
# volume)
ELLIPSOIDS = [
    (
        [0.25, 0.5],
        0.99,
        0.01,
        2.326347874040841,
        0.5815869685102103,
        0.8224881785665935,
        [0.5815869685102103, 1.1631739370204206],
        2.125245973325479,
    ),
    (
        [0.25, 0.25, 0.25],
        0.9,
        0.1,
        1.2815515655446006,
        0.32038789138615015,
        0.32038789138615015,
        [0.32038789138615015] * 3,
        0.13775801992961756,
    ),
    (
        [0.3, 0.4, 0.5],
        0.9,
        0.05,
        1.4632025962480366,
        0.438960778874411,
        0.5728244496525708,
        [0.438960778874411, 0.5852810384992146, 0.7316012981240183],
        0.7873235624314929,
    ),
    (
        [1.0, 1.25, 1.5, 1.5],
        0.999,
        0.001,
        3.0902323061678136,
        3.0902323061678136,
        4.001881837869865,
        [3.0902323061678136, 3.862790382709767, 4.635348459251721, 4.635348459251721],
        1265.6883849325352,
    ),
    (
        [0.5, 0.5, 1.0, 1.0],
        0.6,
        0.3,
        0.3888738079219203,
        0.19443690396096014,
        0.2749753066074248,
        [0.19443690396096014, 0.19443690396096014, 0.3888738079219203, 0.3888738079219203],
        0.028212692126900467,
    ),
]

# Radii of two composed queries, from 25 to 40 digits: Cohen's formula at what both leave.
COMPOSED: dict[str, list[dict[str, float]]] = json.loads(
    (Path(__file__).parents[1] / "data_files" / "composed.json").read_text()
)

# (first query, lower ends of the second, votes, draws, bound, its quantile, semi-axes, their
# geometric mean) of truncated counting.
TRUNCATED = [
    (
        0.6,
        [0.3, 0.5],
        99000,
        100000,
        0.9889893403774748,
        2.289999955213766,
        [0.6144714681995346, 0.8796133479361264],
        0.7351852184002475,
    ),
    (
        1.0,
        [0.25, 0.25, 0.4, 0.5],
        90000,
        100000,
        0.8970364962238291,
        1.2648446903374326,
        [0.30676989754487627, 0.30676989754487627, 0.469751525027316, 0.5656557417148341],
        0.3976595990320033,
    ),
    (
        0.9,
        [0.5, 0.6, 0.7, 0.8],
        9900,
        10000,
        0.9865311593238062,
        2.2124196651021895,
        [0.9670013740417274, 1.1045066601282663, 1.2224648578907817, 1.3228664596290864],
        1.146402051907468,
    ),
]

SHARES = st.one_of(
    st.floats(0.5, 1.0, exclude_max=True),
    st.floats(-12, -0.5).map(lambda power: 1.0 - 10**power),
    st.floats(-12, -0.5).map(lambda power: 0.5 + 10**power),
)
SIGMAS = st.floats(0.01, 3.0)
MAPS = st.lists(SIGMAS, min_size=1, max_size=12).map(
    lambda values: torch.tensor(values).reshape(1, 1, -1)
)


def exact_quantile(p: float) -> mpmath.mpf:
    with mpmath.workdps(40):
        return mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(p) - 1)


@pytest.mark.parametrize(
    ("n", "cap"), [(100_000, 3.811), (10_000, 3.199), (1_000, 2.463), (100, 1.500)]
)
def test_the_largest_radius_that_n_draws_can_give(n: int, cap: float) -> None:
    p_lower = clopper_pearson_lower(n, n, 0.001)
    assert isotropic_radius(p_lower, 1.0) == pytest.approx(cap, abs=6e-4)
    assert isotropic_radius(p_lower, 0.25) == pytest.approx(0.25 * cap, abs=2e-4)


@settings(max_examples=300, deadline=None)
@given(SHARES, SIGMAS)
def test_radius_is_cohens(p: float, sigma: float) -> None:
    assert normalized_radius(p) == pytest.approx(float(exact_quantile(p)), rel=1e-13)
    assert isotropic_radius(p, sigma) == pytest.approx(sigma * float(exact_quantile(p)), rel=1e-13)


@pytest.mark.parametrize("sigma", [0.1, 0.25, 0.3, 0.5, 0.7, 1.0])
def test_radius_is_never_rounded_up(sigma: float) -> None:
    for p in [1 - 10 ** (-k / 20) for k in range(7, 240)] + [0.5 + k / 997 for k in range(1, 498)]:
        with mpmath.workdps(40):
            exact = exact_quantile(p)
            assert mpmath.mpf(normalized_radius(p)) <= exact
            assert mpmath.mpf(isotropic_radius(p, sigma)) <= mpmath.mpf(sigma) * exact


@pytest.mark.parametrize("n", [10, 12, 100, 1000, 12_345, 100_000, 10**6])
@pytest.mark.parametrize("sigma", [0.1, 0.25, 0.7])
def test_the_radius_of_unanimous_votes_is_never_rounded_up(n: int, sigma: float) -> None:
    radius = isotropic_radius(clopper_pearson_lower(n, n, 0.001), sigma)
    with mpmath.workdps(40):
        p_lower = mpmath.mpf("0.001") ** (mpmath.mpf(1) / n)
        exact = mpmath.mpf(sigma) * mpmath.sqrt(2) * mpmath.erfinv(2 * p_lower - 1)
        assert mpmath.mpf(radius) < exact
    assert radius == pytest.approx(float(exact), rel=1e-4)


@settings(max_examples=100, deadline=None)
@given(SHARES, SHARES, SIGMAS, SIGMAS)
def test_radius_is_monotone(p: float, other_p: float, sigma: float, other: float) -> None:
    low, high = sorted((p, other_p))
    assert isotropic_radius(low, sigma) <= isotropic_radius(high, sigma)
    low, high = sorted((sigma, other))
    assert isotropic_radius(p, low) <= isotropic_radius(p, high)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.4999999, 0.5])
def test_half_of_the_votes_certify_nothing(p: float) -> None:
    sigma_map = torch.tensor([0.2, 0.3]).reshape(1, 1, 2)
    assert normalized_radius(p) == 0.0
    for region in (
        isotropic(p, 1.0, 2),
        static(p, sigma_map),
        frozen(p, sigma_map),
        queried_ball(p, 1.0, 2),
    ):
        assert region.radius == 0.0
        assert region.proxy_volume == 0.0
        assert region.log_volume == -math.inf


@pytest.mark.parametrize(
    ("sigma", "p_lower", "p_upper", "rhat", "smallest", "proxy", "axes", "volume"), ELLIPSOIDS
)
def test_ellipsoids_against_reference_values(
    sigma: list[float],
    p_lower: float,
    p_upper: float,
    rhat: float,
    smallest: float,
    proxy: float,
    axes: list[float],
    volume: float,
) -> None:
    assert normalized_radius(p_lower, p_upper) == pytest.approx(rhat, rel=1e-12)
    sigma_map = torch.tensor(sigma, dtype=torch.float64).reshape(1, 1, -1)
    for make in (static, frozen):
        region = make(float(ndtr(rhat)), sigma_map)
        assert region.axes is not None
        assert region.axes.dtype == torch.float64
        assert region.axes.shape == sigma_map.shape
        assert region.axes.flatten().tolist() == pytest.approx(axes, rel=1e-10)
        assert region.radius == pytest.approx(smallest, rel=1e-10)
        assert region.proxy_volume == pytest.approx(proxy, rel=1e-10)
        assert math.exp(region.log_volume) == pytest.approx(volume, rel=1e-9)
        # The same values over and over, as many as a photograph has: only the volume changes.
        large = make(float(ndtr(rhat)), sigma_map.repeat(1, 1, 150_528 // len(sigma)))
        assert large.dim == 150_528
        assert large.radius == pytest.approx(smallest, rel=1e-10)
        assert large.proxy_volume == pytest.approx(proxy, rel=1e-10)


def test_queried_ball_against_reference_values() -> None:
    assert len(COMPOSED["composed_radius"]) == 20
    for row in COMPOSED["composed_radius"]:
        # What two queries leave: a copy of the precision of both.
        sigma = (row["s1"] ** -2 + row["a"] ** -2) ** -0.5
        assert sigma == pytest.approx(row["effective_sigma"], rel=1e-14)
        for dim in (5, 150_528):
            region = queried_ball(row["pA"], sigma, dim)
            assert region.radius == pytest.approx(row["R"], rel=1e-12)
            assert region.axes is None


@pytest.mark.parametrize(
    ("query", "second", "k", "n", "p_star", "quantile", "axes", "proxy"), TRUNCATED
)
def test_queried_ellipsoid_against_reference_values(
    query: float,
    second: list[float],
    k: int,
    n: int,
    p_star: float,
    quantile: float,
    axes: list[float],
    proxy: float,
) -> None:
    floor = torch.tensor([(query**-2 + s**-2) ** -0.5 for s in second], dtype=torch.float64)
    p_lower = clopper_pearson_lower(k, n, 0.001)
    assert p_lower + MARGIN == pytest.approx(p_star, rel=1e-9)
    assert normalized_radius(p_lower) == pytest.approx(quantile, abs=1e-6)
    region = queried_ellipsoid(p_lower, floor.reshape(1, 1, -1))
    assert region.axes is not None
    # To 1e-6, once the slack that the region gives away on purpose is put back.
    whole = region.axes.flatten() / (1 - FLOOR_SLACK)
    assert whole.tolist() == pytest.approx(axes, abs=1e-6)
    assert whole.log().mean().exp().item() == pytest.approx(proxy, abs=1e-6)
    assert region.proxy_volume == pytest.approx(proxy, rel=2e-6)
    # Smaller by more than two float32 engines may disagree on the map.
    for got, wanted in zip(region.axes.flatten().tolist(), axes, strict=True):
        assert got < wanted * (1 - 5e-7)
    assert region.radius == pytest.approx(axes[0], rel=2e-6)
    assert region.guarantee is Guarantee.DEPLOYED


def test_the_largest_cube_in_a_queried_ellipsoid_against_reference_values() -> None:
    """Where the maps' precisions sum to B, l_inf perturbations below z / sqrt(d/q^2 + B) hold."""
    assert len(COMPOSED["composed_linf_harmonic"]) == 2
    for row in COMPOSED["composed_linf_harmonic"]:
        dim = int(row["d"])
        draw = torch.Generator().manual_seed(0)
        precisions = 0.5 + torch.rand(dim, generator=draw, dtype=torch.float64)
        precisions *= row["B"] / precisions.sum()
        floor = (row["s1"] ** -2 + precisions).rsqrt().reshape(3, 32, 32)
        region = queried_ellipsoid(row["pA"], floor)
        signs = torch.randn(floor.shape, generator=draw).sign().double()
        assert bool(region.contains((1 - 3e-6) * row["R_inf"] * signs))
        assert not bool(region.contains((1 + 1e-9) * row["R_inf"] * signs))


def test_a_perturbation_in_the_ball_or_in_the_ellipsoid_is_certified() -> None:
    sigma_map = torch.tensor([0.2, 0.8]).reshape(1, 1, 2)
    ball, ellipsoid = isotropic(0.9, 0.5, 2), static(0.9, sigma_map)
    rhat = normalized_radius(0.9)
    deltas = rhat * torch.tensor([[0.3, 0.0], [0.0, 0.7], [0.3, 0.7], [0.19, 0.1], [0.0, 0.0]])
    deltas = deltas.double().reshape(5, 1, 1, 2)
    assert ball.contains(deltas).tolist() == [True, False, False, True, True]
    assert ellipsoid.contains(deltas).tolist() == [False, True, False, True, True]
    # Each holds at its own error, so a union of both is certified.
    joined = union("both", ball, ellipsoid)
    assert joined.contains(deltas).tolist() == [True, True, False, True, True]
    assert [bool(joined.contains(delta)) for delta in deltas] == [True, True, False, True, True]
    assert joined.radius == ball.radius > ellipsoid.radius
    assert joined.axes is ellipsoid.axes
    assert joined.proxy_volume == ball.proxy_volume
    assert (joined.certificate, joined.guarantee, joined.dim) == ("both", Guarantee.DEPLOYED, 2)
    large = union("both", isotropic(0.9, 0.1, 2), ellipsoid)
    assert large.proxy_volume == ellipsoid.proxy_volume
    assert large.radius == ellipsoid.radius


@settings(max_examples=100, deadline=None)
@given(SHARES, MAPS, st.floats(0.5, 1.5), st.integers(0, 2**32 - 1))
def test_an_ellipsoid_contains_what_is_inside_its_axes(
    p: float, sigma_map: torch.Tensor, size: float, seed: int
) -> None:
    region = static(p, sigma_map)
    assert region.axes is not None
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(sigma_map.shape, generator=generator, dtype=torch.float64)
    delta = size * region.axes * direction / direction.norm()
    expected = size < 1 and region.radius > 0
    if abs(size - 1) > 1e-9:
        assert bool(region.contains(delta)) == expected
    inside = 0.999 * region.radius * direction / direction.norm()
    assert bool(region.contains(inside)) == (region.radius > 0)


def test_a_union_keeps_what_is_certified() -> None:
    sigma_map = torch.tensor([0.2, 0.8]).reshape(1, 1, 2)
    nothing, ellipsoid, ball = static(0.4, sigma_map), static(0.9, sigma_map), isotropic(0.9, 1, 2)
    alone = union("both", isotropic(0.4, 1.0, 2), ellipsoid)
    assert (alone.radius, alone.axes) == (ellipsoid.radius, ellipsoid.axes)
    assert alone.log_volume == ellipsoid.log_volume
    alone = union("both", ball, nothing)
    assert (alone.radius, alone.axes, alone.log_volume) == (ball.radius, None, ball.log_volume)
    neither = union("both", isotropic(0.4, 1.0, 2), nothing)
    assert (neither.radius, neither.axes, neither.log_volume) == (0.0, None, -math.inf)
    assert not bool(neither.contains(torch.zeros(1, 1, 2)))


def test_regions_of_different_kinds_are_not_united() -> None:
    sigma_map = torch.full((1, 1, 2), 0.3)
    for second in (frozen(0.9, sigma_map), isotropic(0.9, 0.3, 3)):
        with pytest.raises(ValueError, match="same guarantee and dimension"):
            union("both", isotropic(0.9, 0.3, 2), second)


@pytest.mark.parametrize(
    ("dim", "volume"), [(1, 2.0), (2, math.pi), (3, 4 * math.pi / 3), (4, math.pi**2 / 2)]
)
def test_volume_of_the_unit_ball(dim: int, volume: float) -> None:
    unit = Region("isotropic", Guarantee.DEPLOYED, 1.0, dim)
    assert math.exp(unit.log_volume) == pytest.approx(volume, rel=1e-14)
    doubled = Region("isotropic", Guarantee.DEPLOYED, 2.0, dim)
    assert doubled.log_volume - unit.log_volume == pytest.approx(dim * math.log(2.0))


def test_volume_does_not_overflow_for_photographs() -> None:
    dim = 150_528
    region = isotropic(0.99, 1.5, dim)
    with mpmath.workdps(30):
        half = mpmath.mpf(dim) / 2
        expected = half * mpmath.log(mpmath.pi) - mpmath.loggamma(half + 1)
        expected += dim * mpmath.log(mpmath.mpf(region.radius))
    assert region.log_volume == pytest.approx(float(expected), rel=1e-12)


@settings(max_examples=200, deadline=None)
@given(SHARES, MAPS)
def test_shape_of_an_ellipsoid(p: float, sigma_map: torch.Tensor) -> None:
    region = static(p, sigma_map)
    assert region.axes is not None
    assert region.dim == sigma_map.numel()
    assert region.radius <= float(region.axes.min())
    assert region.radius <= isotropic_radius(p, float(sigma_map.min()))
    assert region.radius >= (1 - 1e-14) * isotropic_radius(p, float(sigma_map.min()))
    if region.radius > 0:
        product = math.prod(mpmath.mpf(float(axis)) for axis in region.axes.flatten())
        assert region.proxy_volume == pytest.approx(float(product ** (1 / region.dim)), rel=1e-10)
        assert region.proxy_volume >= region.radius * (1 - 1e-12)


@settings(max_examples=100, deadline=None)
@given(SHARES, st.floats(2**-7, 3.0, width=32), st.integers(1, 40))
def test_a_constant_map_is_isotropic_noise(p: float, sigma: float, dim: int) -> None:
    ball = isotropic(p, sigma, dim)
    for make in (static, frozen):
        region = make(p, torch.full((1, 1, dim), sigma))
        assert region.radius == pytest.approx(ball.radius, rel=1e-15, abs=1e-300)
        assert region.proxy_volume == pytest.approx(ball.proxy_volume, rel=1e-12)
        if p > 0.5:
            assert region.log_volume == pytest.approx(ball.log_volume, rel=1e-9, abs=1e-9)
    assert queried_ball(p, sigma, dim).radius == ball.radius


def test_every_region_states_its_certificate_and_guarantee() -> None:
    sigma_map = torch.full((1, 2, 2), 0.25)
    stated = {
        region.certificate: region.guarantee
        for region in (
            isotropic(0.9, 0.25, 4),
            static(0.9, sigma_map),
            frozen(0.9, sigma_map),
            queried_ball(0.9, 0.25, 4),
            queried_ellipsoid(0.9, sigma_map),
        )
    }
    assert stated == {
        "isotropic": Guarantee.DEPLOYED,
        "static": Guarantee.DEPLOYED,
        "frozen": Guarantee.FROZEN,
        "queried-ball": Guarantee.DEPLOYED,
        "queried": Guarantee.DEPLOYED,
    }


def test_guarantees_are_words_with_a_sentence_each() -> None:
    assert [str(guarantee) for guarantee in Guarantee] == [
        "deployed",
        "frozen-noise",
        "none",
        "unknown",
    ]
    sentences = {guarantee.sentence for guarantee in Guarantee}
    assert len(sentences) == 4
    for sentence in sentences:
        assert sentence[0].isupper()
        assert sentence.endswith(".")
        assert "\n" not in sentence
    assert "as deployed" in Guarantee.DEPLOYED.sentence
    assert "not covered" in Guarantee.FROZEN.sentence
    assert "guarantees nothing" in Guarantee.NONE.sentence


def test_the_empty_region() -> None:
    region = empty("static", Guarantee.DEPLOYED, 7)
    assert (region.radius, region.proxy_volume, region.dim) == (0.0, 0.0, 7)
    assert region.log_volume == -math.inf
    assert region.axes is None


def test_sigma_statistics() -> None:
    sigma_map = torch.tensor([[[0.1, 0.2], [0.4, 0.8]]])
    low, middle, high = sigma_statistics(sigma_map.requires_grad_())
    assert low == pytest.approx(0.1, rel=1e-7)
    assert middle == pytest.approx((0.1 * 0.2 * 0.4 * 0.8) ** 0.25, rel=1e-7)
    assert high == pytest.approx(0.8, rel=1e-7)


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, math.nan])
def test_a_share_outside_its_range_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match=r"p_lower must lie in \[0, 1\)"):
        isotropic_radius(p, 1.0)
    with pytest.raises(ValueError, match=r"p_lower must lie in \[0, 1\)"):
        static(p, torch.ones(1, 2, 2))


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.inf, math.nan])
def test_an_impossible_sigma_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        isotropic_radius(0.9, sigma)
    sigma_map = torch.tensor([0.5, sigma]).reshape(1, 1, 2)
    for make in (static, frozen):
        with pytest.raises(ValueError, match="positive and finite"):
            make(0.9, sigma_map)


# s1 and a of two queries, p_A, p_B, radius, from 25 to 40 digits.
TWO_SIDED = [
    (0.6, 0.275, 0.9, 0.05, 0.3657901524795865),
    (0.6, 0.275, 0.5, 0.2, 0.10519963542577916),
    (0.6, 0.275, 0.99, 0.01, 0.5815702799789938),
    (1.0, 0.5, 0.9, 0.05, 0.6543640940129577),
    (1.0, 0.5, 0.5, 0.2, 0.18819222895762644),
    (1.0, 0.5, 0.99, 0.01, 1.0403743971334878),
]


@pytest.mark.parametrize(("query", "second", "p_lower", "p_upper", "radius"), TWO_SIDED)
def test_two_sided_radii_against_reference_values(
    query: float, second: float, p_lower: float, p_upper: float, radius: float
) -> None:
    sigma = (query**-2 + second**-2) ** -0.5
    for region in (
        isotropic(p_lower, sigma, 3, p_upper),
        queried_ball(p_lower, sigma, 3, p_upper),
    ):
        assert region.radius == pytest.approx(radius, rel=1e-12)
        assert region.guarantee is Guarantee.DEPLOYED


@given(st.floats(0.0, 1.0, exclude_max=True), st.floats(1e-12, 1.0))
def test_two_sided_is_between_one_sided_and_the_paper(p_lower: float, p_upper: float) -> None:
    two_sided = normalized_radius(p_lower, p_upper)
    assert two_sided >= normalized_radius(p_lower) * (1 - 1e-12)
    if p_lower > 0.0 and p_lower + p_upper <= 1.0:
        exact = (float(ndtri(p_lower)) - float(ndtri(p_upper))) / 2
        assert two_sided <= max(0.0, exact) + 1e-15
        assert two_sided == pytest.approx(max(0.0, exact), rel=1e-9, abs=1e-12)


@given(SHARES, SHARES, st.floats(1e-12, 1.0), st.floats(1e-12, 1.0))
def test_two_sided_is_monotone(p: float, q: float, upper: float, other: float) -> None:
    low, high = sorted((p, q))
    assert normalized_radius(low, upper) <= normalized_radius(high, upper) + 1e-13
    low, high = sorted((upper, other))
    assert normalized_radius(p, high) <= normalized_radius(p, low) + 1e-13


@pytest.mark.parametrize("p_upper", [0.0, -0.1, 1.1, math.nan])
def test_an_impossible_upper_bound_is_refused(p_upper: float) -> None:
    with pytest.raises(ValueError, match="p_upper"):
        normalized_radius(0.9, p_upper)
