"""Confidence bounds: reference values, exact coverage, and the numbers of draws they need."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from concert.bounds import (
    MARGIN,
    binomial_p_value,
    clopper_pearson_lower,
    clopper_pearson_upper,
    draws_to_certify,
    smallest_certifying_n,
    smallest_deciding_n,
)
from concert.certificates import normalized_radius

# (k, n, alpha, bound, and for lower bounds its quantile) from 40-digit binomial tails (mpmath).
LOWER = [
    (90, 100, 0.001, 0.7753298801677749, 0.7565154051119878),
    (99, 100, 0.001, 0.9113731112960425, 1.3492590388103902),
    (100, 100, 0.001, 0.933254300796991, 1.5004750241206366),
    (900, 1000, 0.001, 0.8674640180257484, 1.1144831622797993),
    (999, 1000, 0.001, 0.9908045023646124, 2.3576505705951556),
    (5500, 10000, 0.001, 0.5345467133544615, 0.08670428124968456),
    (9900, 10000, 0.001, 0.9865311593238062, 2.2124196651021895),
    (70000, 100000, 0.001, 0.6955035151951914, 0.5115114546906636),
    (90000, 100000, 0.001, 0.8970364962238291, 1.2648446903374326),
    (99000, 100000, 0.001, 0.9889893403774748, 2.289999955213766),
    (99900, 100000, 0.001, 0.998650992446753, 3.000200987668372),
    (480, 500, 8e-05, 0.9162548852406265, 1.3803132095625852),
]
UPPER = [
    (99, 100, 0.001, 0.999989995046714),
    (10, 100, 0.001, 0.2246701198322251),
    (1, 100, 0.001, 0.0886268887039575),
    (100, 1000, 0.001, 0.1325359819742516),
]

ALPHAS = st.floats(1e-8, 0.5)
VOTES = st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(("k", "n", "alpha", "expected", "quantile"), LOWER)
def test_lower_bound_against_reference_values(
    k: int, n: int, alpha: float, expected: float, quantile: float
) -> None:
    """To 1e-9 relative, below which the bound is lowered by its margin on purpose."""
    bound = clopper_pearson_lower(k, n, alpha)
    assert bound + MARGIN == pytest.approx(expected, rel=1e-9)
    assert expected - 2 * MARGIN < bound < expected
    assert quantile - 1e-6 < normalized_radius(bound) < quantile


@pytest.mark.parametrize(("k", "n", "alpha", "expected"), UPPER)
def test_upper_bound_against_reference_values(
    k: int, n: int, alpha: float, expected: float
) -> None:
    bound = clopper_pearson_upper(k, n, alpha)
    assert bound - MARGIN == pytest.approx(expected, rel=1e-9)
    assert expected < bound < expected + 2 * MARGIN


@pytest.mark.parametrize("alpha", [0.1, 0.001, 1e-6])
@pytest.mark.parametrize("n", [1, 10, 1000, 10**5, 10**7])
def test_unanimous_votes_have_a_closed_form(n: int, alpha: float) -> None:
    assert clopper_pearson_lower(n, n, alpha) == pytest.approx(alpha ** (1 / n), abs=2 * MARGIN)
    assert clopper_pearson_upper(0, n, alpha) == pytest.approx(1 - alpha ** (1 / n), abs=2 * MARGIN)
    assert clopper_pearson_lower(0, n, alpha) == 0.0
    assert clopper_pearson_upper(n, n, alpha) == 1.0


@settings(max_examples=200, deadline=None)
@given(VOTES, ALPHAS)
def test_lower_bound_is_monotone_and_below_the_share(votes: tuple[int, int], alpha: float) -> None:
    k, n = votes
    bound = clopper_pearson_lower(k, n, alpha)
    assert 0.0 <= bound < 1.0
    assert bound <= k / n
    assert clopper_pearson_lower(k, n + 1, alpha) <= bound
    assert clopper_pearson_lower(k + 1, n + 1, alpha) >= bound
    assert clopper_pearson_lower(k, n, alpha / 2) <= bound
    if k < n:
        assert clopper_pearson_lower(k + 1, n, alpha) >= bound


@settings(max_examples=200, deadline=None)
@given(VOTES, ALPHAS)
def test_upper_bound_mirrors_the_lower_bound(votes: tuple[int, int], alpha: float) -> None:
    k, n = votes
    mirrored = 1.0 - clopper_pearson_lower(n - k, n, alpha)
    assert clopper_pearson_upper(k, n, alpha) == pytest.approx(mirrored, abs=2e-10)


@settings(max_examples=200, deadline=None)
@given(VOTES, ALPHAS)
def test_the_bound_solves_the_binomial_tail_equation(votes: tuple[int, int], alpha: float) -> None:
    k, n = votes
    assume(k > 0)
    bound = clopper_pearson_lower(k, n, alpha)
    assume(bound > 0)
    assert stats.binom.sf(k - 1, n, bound) <= alpha
    assert stats.binom.sf(k - 1, n, min(1.0, bound + 3 * MARGIN)) >= alpha * (1 - 1e-9)


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.3])
@pytest.mark.parametrize("n", [1, 5, 10, 37, 100, 400])
def test_coverage_by_exact_binomial_sums(n: int, alpha: float) -> None:
    counts = np.arange(n + 1)
    lower = np.array([clopper_pearson_lower(int(k), n, alpha) for k in counts])
    upper = np.array([clopper_pearson_upper(int(k), n, alpha) for k in counts])
    # The error is largest just below an attainable bound, so the grid holds those points too.
    grid = np.concatenate([np.linspace(0.001, 0.999, 333), lower - 1e-8, upper + 1e-8])
    worst = 0.0
    for p in grid[(grid > 0) & (grid < 1)]:
        weights = stats.binom.pmf(counts, n, p)
        worst = max(worst, weights[lower > p].sum(), weights[upper < p].sum())
    assert worst <= alpha * (1 + 1e-9)
    # And it is not idle: somewhere the whole error is used.
    assert worst >= alpha * (1 - 1e-3)


def test_smallest_numbers_of_draws_of_the_usual_error() -> None:
    assert smallest_certifying_n(0.001) == 10
    assert smallest_deciding_n(0.001) == 11


@pytest.mark.parametrize("alpha", [0.999, 0.6, 0.5, 0.49, 0.25, 0.1, 0.05, 1 / 1024, 1e-4, 1e-12])
def test_smallest_numbers_of_draws_are_the_smallest(alpha: float) -> None:
    n = smallest_certifying_n(alpha)
    assert clopper_pearson_lower(n, n, alpha) > 0.5
    assert n == 1 or clopper_pearson_lower(n - 1, n - 1, alpha) <= 0.5
    n = smallest_deciding_n(alpha)
    assert min(1.0, 2 * 0.5**n) <= alpha * (1 + 1e-12)
    assert 2 * 0.5 ** (n - 1) > alpha


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 3000), st.integers(0, 3000))
def test_p_value_is_the_doubled_binomial_tail(first: int, second: int) -> None:
    n, most = first + second, max(first, second)
    tail = float(stats.binom.sf(most - 1, n, 0.5)) if n else 1.0
    expected = min(1.0, 2 * tail)
    assert binomial_p_value(first, second) == pytest.approx(expected, rel=1e-9)
    assert binomial_p_value(second, first) == binomial_p_value(first, second)


def test_p_value_by_hand() -> None:
    assert binomial_p_value(0, 0) == 1.0
    assert binomial_p_value(10, 10) == 1.0
    assert binomial_p_value(3, 0) == pytest.approx(0.25)
    assert binomial_p_value(4, 1) == pytest.approx(2 * 6 / 32)


@settings(max_examples=100, deadline=None)
@given(st.floats(0.5001, 1.0), st.sampled_from([0.05, 0.001, 1e-6]))
def test_draws_to_certify_certify(share: float, alpha: float) -> None:
    n = draws_to_certify(share, alpha)
    assert n is not None
    assert clopper_pearson_lower(int(share * n), n, alpha) > 0.5
    # Fewer do not, up to the rounding of k: near the threshold p_lower - 1/2 grows by half of
    # (share - 1/2) / n with each draw, so that one vote is worth 4 / (2 share - 1) draws.
    fewer = n - 2 * math.ceil(4 / (2 * share - 1))
    assert fewer < 1 or clopper_pearson_lower(int(share * fewer), fewer, alpha) <= 0.5


@settings(max_examples=100, deadline=None)
@given(VOTES, st.sampled_from([0.05, 0.001]))
def test_draws_to_certify_exceed_what_was_not_enough(votes: tuple[int, int], alpha: float) -> None:
    k, n = votes
    assume(clopper_pearson_lower(k, n, alpha) <= 0.5)
    needed = draws_to_certify(k / n, alpha)
    assert needed is None or needed > n


def test_draws_to_certify_gives_up() -> None:
    assert draws_to_certify(0.5, 0.001) is None
    assert draws_to_certify(0.2, 0.001) is None
    assert draws_to_certify(0.51, 0.001, limit=1000) is None
    assert draws_to_certify(1.0, 0.001) == 10


@pytest.mark.parametrize("bound", [clopper_pearson_lower, clopper_pearson_upper])
@pytest.mark.parametrize(
    ("k", "n", "alpha"),
    [(-1, 10, 0.1), (11, 10, 0.1), (0, 0, 0.1), (5, 10, 0.0), (5, 10, 1.0), (5, 10, math.nan)],
)
def test_impossible_arguments_are_refused(bound: object, k: int, n: int, alpha: float) -> None:
    assert callable(bound)
    with pytest.raises(ValueError, match=r"need 0 <= k <= n|alpha must lie"):
        bound(k, n, alpha)
