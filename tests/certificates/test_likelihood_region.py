"""The paper's Theorem 2 as corrected, against the likelihood ratio itself."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from concert.certificates.likelihood_region import Kind, LikelihoodRegion, likelihood_region

# A distance from the boundary below which two orders of summation may disagree.
ROUNDING = 1e-9
# Signs of beta: only positive, only negative, mixed; with and without coordinates of equal noise.
SIGNS = {
    "positive": (1, 1, 1, 1, 1),
    "negative": (-1, -1, -1, -1, -1),
    "mixed": (1, -1, 1, -1, 1),
    "positive and equal": (1, 0, 1, 0, 1),
    "negative and equal": (-1, 0, -1, -1, 0),
    "all": (1, -1, 0, 1, -1),
    "equal": (0, 0, 0, 0, 0),
    "one": (0, 0, -1, 0, 0),
}


def random_region(signs: tuple[int, ...], seed: int, moved: bool = True) -> LikelihoodRegion:
    """Random parameters, and a threshold near the ratio of a typical point."""
    draw = torch.Generator().manual_seed(seed)
    d = len(signs)
    sign = torch.tensor(signs, dtype=torch.float64)
    x, delta = torch.randn(2, d, generator=draw, dtype=torch.float64)
    if not moved:
        delta = delta * (sign != 0)
    sigma_0 = 0.2 + torch.rand(d, generator=draw, dtype=torch.float64)
    factor = torch.exp(sign * (0.1 + torch.rand(d, generator=draw, dtype=torch.float64)))
    sigma_1 = torch.where(sign == 0, sigma_0, sigma_0 * factor)
    log_t = float(torch.randn(1, generator=draw, dtype=torch.float64))
    return likelihood_region(x, delta, sigma_0, sigma_1, log_t)


def log_ratio(region: LikelihoodRegion, z: Tensor) -> Tensor:
    """ln p1(z)/p0(z), from the densities."""
    first = stats.norm.logpdf(z.numpy(), region.x.numpy(), region.sigma_0.numpy())
    center = (region.x + region.delta).numpy()
    second = stats.norm.logpdf(z.numpy(), center, region.sigma_1.numpy())
    return torch.from_numpy((second - first).sum(axis=-1))


def points(region: LikelihoodRegion, count: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    spread = torch.exp(2 * torch.rand(count, 1, generator=draw, dtype=torch.float64) - 1)
    noise = torch.randn(count, len(region.x), generator=draw, dtype=torch.float64)
    near = region.x + torch.rand(count, 1, generator=draw, dtype=torch.float64) * region.delta
    return near + spread * torch.maximum(region.sigma_0, region.sigma_1) * noise


def completed_square(region: LikelihoodRegion, z: Tensor) -> Tensor:
    """The theorem's left side minus Lambda: at most 0 inside."""
    beta, alpha, equal = region.beta, region.alpha, region.beta == 0
    curved = (beta / alpha * (z - region.center).square())[:, ~equal].sum(dim=1)
    u = z - region.x
    linear = (region.delta * (2 * u - region.delta) / region.sigma_0.square())[:, equal]
    return curved + linear.sum(dim=1) - region.level


def shifted_to(region: LikelihoodRegion, level: float) -> LikelihoodRegion:
    """The region with the threshold at which Lambda is `level`."""
    log_t = region.log_t + (level - region.level) / 2
    return likelihood_region(region.x, region.delta, region.sigma_0, region.sigma_1, log_t)


@pytest.mark.parametrize("signs", SIGNS.values(), ids=SIGNS)
@pytest.mark.parametrize("seed", range(3))
def test_theorem_2_agrees_with_the_likelihood_ratio(signs: tuple[int, ...], seed: int) -> None:
    region = random_region(signs, seed)
    z = points(region, 100_000, seed)
    gap = log_ratio(region, z) - region.log_t
    clear = gap.abs() > ROUNDING
    assert int(clear.sum()) > 99_990
    expected = gap <= 0
    assert torch.equal(region.contains(z)[clear], expected[clear])
    # The theorem's own form: centre, Lambda and curvatures.
    theorem = completed_square(region, z)
    assert torch.equal((theorem <= 0)[clear], expected[clear])
    assert torch.allclose(theorem, 2 * gap, atol=1e-8, rtol=1e-8)


def test_the_printed_lambda_does_not_agree() -> None:
    """Eq. 17 has delta^2 / (sigma_0^2 beta) for delta^2 / beta."""
    region = random_region(SIGNS["positive"], 1)
    z = points(region, 100_000)
    printed = region.constant + float(
        (region.delta.square() / (region.sigma_0.square() * region.beta)).sum()
    )
    wrong = completed_square(region, z) + region.level <= printed
    share = (wrong == region.contains(z)).double().mean()
    assert share < 0.99


@pytest.mark.parametrize("seed", range(6))
def test_an_ellipsoid_is_what_its_axes_say(seed: int) -> None:
    for name, kind in (("positive", Kind.ELLIPSOID), ("negative", Kind.COMPLEMENT)):
        level = 2.0 if kind is Kind.ELLIPSOID else -2.0
        region = shifted_to(random_region(SIGNS[name], seed), level)
        assert region.level == pytest.approx(level, abs=1e-9)
        assert region.kind is kind
        assert region.semi_axes is not None
        directions = torch.randn(500, 5, generator=torch.Generator().manual_seed(seed)).double()
        surface = directions / directions.norm(dim=1, keepdim=True) * region.semi_axes
        for size, inside in ((1 - 1e-9, True), (1 + 1e-9, False)):
            expected = inside == (kind is Kind.ELLIPSOID)
            assert bool((region.contains(region.center + size * surface) == expected).all())


@pytest.mark.parametrize(
    ("signs", "moved", "level", "kind"),
    [
        ("positive", True, 0.5, Kind.ELLIPSOID),
        ("positive", True, -0.5, Kind.EMPTY),
        ("negative", True, -0.5, Kind.COMPLEMENT),
        ("negative", True, 0.5, Kind.EVERYTHING),
        ("mixed", True, 0.5, Kind.HYPERBOLOID),
        ("mixed", True, -0.5, Kind.HYPERBOLOID),
        ("all", True, 0.5, Kind.HYPERBOLOID),
        ("positive and equal", True, 0.5, Kind.PARABOLOID),
        ("positive and equal", False, 0.5, Kind.ELLIPSOID),
        ("positive and equal", False, -0.5, Kind.EMPTY),
        ("negative and equal", False, -0.5, Kind.COMPLEMENT),
        ("equal", True, -3.0, Kind.HALF_SPACE),
        ("equal", False, 0.5, Kind.EVERYTHING),
        ("equal", False, -0.5, Kind.EMPTY),
    ],
)
def test_the_signs_of_beta_decide_the_kind(
    signs: str, moved: bool, level: float, kind: Kind
) -> None:
    region = shifted_to(random_region(SIGNS[signs], 4, moved), level)
    assert region.kind is kind
    inside = region.contains(points(region, 20_000))
    if kind is Kind.EMPTY:
        assert not bool(inside.any())
    elif kind is Kind.EVERYTHING:
        assert bool(inside.all())
    assert (region.semi_axes is None) == (kind not in (Kind.ELLIPSOID, Kind.COMPLEMENT))
    if region.semi_axes is not None:
        # A coordinate of equal noise and no shift does not matter.
        free = (region.beta == 0) & (region.delta == 0)
        assert bool((region.semi_axes.isinf() == free).all())
        far = points(region, 1000)
        assert torch.equal(region.contains(far), region.contains(far + 100.0 * free))


def test_equal_noise_gives_cohens_half_space() -> None:
    x, delta = torch.tensor([0.5, 0.2]), torch.tensor([0.3, -0.4])
    sigma = torch.full((2,), 0.25)
    region = likelihood_region(x, delta, sigma, sigma, 0.0)
    assert region.kind is Kind.HALF_SPACE
    assert bool(region.center.isnan().all())
    z = points(region, 5000)
    nearer = (z - x).norm(dim=1) <= (z - x - delta).norm(dim=1)
    assert torch.equal(region.contains(z), nearer)


@pytest.mark.parametrize(("s0", "s1"), [(0.5, 0.7), (0.7, 0.5)])
def test_isotropic_noise_gives_the_ball_of_the_certificate(s0: float, s1: float) -> None:
    """Its centre is x - s0^2/(s1^2 - s0^2) delta: the paper's texts after Eqs. 21, 22 are wrong."""
    delta = torch.tensor([0.4, 0.0, 0.0], dtype=torch.float64)
    ones = torch.ones(3, dtype=torch.float64)
    region = likelihood_region(torch.zeros(3), delta, s0 * ones, s1 * ones, 0.1)
    gap = s1**2 - s0**2
    assert region.kind is (Kind.ELLIPSOID if gap > 0 else Kind.COMPLEMENT)
    assert torch.allclose(region.center, -(s0**2) / gap * delta)
    radius = math.sqrt(
        (s0 * s1 * 0.4 / gap) ** 2 + 2 * (s0 * s1) ** 2 / gap * (0.1 + 3 * math.log(s1 / s0))
    )
    assert region.semi_axes is not None
    assert torch.allclose(region.semi_axes, radius * ones)


def test_single_points_and_any_shape() -> None:
    flat = random_region(SIGNS["mixed"], 2)
    z = points(flat, 50)
    assert [bool(flat.contains(one)) for one in z] == flat.contains(z).tolist()
    shaped = likelihood_region(
        *(value.reshape(1, 5, 1) for value in (flat.x, flat.delta, flat.sigma_0, flat.sigma_1)),
        flat.log_t,
    )
    assert torch.equal(shaped.contains(z.reshape(50, 1, 5, 1)), flat.contains(z))
    assert flat.contains(z[0]).shape == ()


def test_nearly_equal_noise_loses_no_digits() -> None:
    ones = torch.ones(4, dtype=torch.float64)
    region = likelihood_region(0 * ones, 0.3 * ones, 0.5 * ones, (0.5 + 1e-13) * ones, 0.2)
    z = points(region, 20_000)
    gap = log_ratio(region, z) - region.log_t
    clear = gap.abs() > ROUNDING
    assert torch.equal(region.contains(z)[clear], (gap <= 0)[clear])


def test_impossible_arguments() -> None:
    ones = torch.ones(3)
    with pytest.raises(ValueError, match="one shape"):
        likelihood_region(ones, torch.ones(2), ones, ones, 0.0)
    with pytest.raises(ValueError, match="positive"):
        likelihood_region(ones, ones, 0 * ones, ones, 0.0)
    with pytest.raises(ValueError, match="finite"):
        likelihood_region(ones, ones, ones, ones, math.inf)
    with pytest.raises(ValueError, match="shape"):
        likelihood_region(ones, ones, ones, 2 * ones, 0.0).contains(torch.ones(5, 2))
