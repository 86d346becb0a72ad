"""The exact worst case under moving noise levels: reference values, theorems, counterexamples."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, norm

from concert.bounds import MARGIN
from concert.certificates import isotropic_radius
from concert.certificates.input_dependent import input_dependent_radius, worst_case_probability

REFERENCE: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[1] / "data_files" / "worst_case.json").read_text()
)
LEVELS = st.floats(0.2, 2.0)
SHARES = st.floats(0.51, 0.9999)


def test_reference_values_up_to_imagenet_dimension() -> None:
    assert len(REFERENCE["xi"]) == 432
    assert max(row["d"] for row in REFERENCE["xi"]) == 150_528
    for row in REFERENCE["xi"]:
        bound = worst_case_probability(row["pA"], row["r"], row["s0"], row["s1"], row["d"])
        assert bound == pytest.approx(row["xi"], abs=1e-8)
        assert bound <= row["xi"]  # rounded down


def test_reference_radii() -> None:
    rows = REFERENCE["isotropic_box_radius"]
    assert len(rows) == 128
    assert {row["d"] for row in rows if row["R"] > 0} == {64, 784, 3072, 150_528}
    for row in rows:
        radius = input_dependent_radius(row["pA"], row["s0"], row["a"], row["wb"], row["d"])
        assert radius == pytest.approx(row["R"], abs=1e-6)
        assert radius <= row["R"] + 1e-12
        at_once = min(
            worst_case_probability(row["pA"], 0.0, row["s0"], end, row["d"])
            for end in (row["a"], row["wb"])
        )
        assert at_once == pytest.approx(row["xi_at_r0"], abs=1e-8)
        assert isotropic_radius(row["pA"], row["s0"]) == pytest.approx(
            row["frozen_radius"], abs=1e-6
        )


def test_the_papers_boxes_certify_nothing_at_image_size() -> None:
    for low, high in ((0.25, 0.5), (0.5, 1.0), (1.0, 1.5)):
        for dim in (784, 3072, 150_528):
            for sigma_0 in (low, high):
                assert input_dependent_radius(0.99993, sigma_0, low, high, dim) == 0.0


def test_widest_boxes_that_keep_most_of_the_radius_or_certify_anything() -> None:
    assert len(REFERENCE["isotropic_widest_ratio"]) == 16
    for row in REFERENCE["isotropic_widest_ratio"]:
        ratio = row["ratio_keep80"]
        sigma_0 = 1.0 if row["s0"] == "a" else ratio
        radius = input_dependent_radius(row["pA"], sigma_0, 1.0, ratio, row["d"])
        assert radius == pytest.approx(0.8 * sigma_0 * norm.ppf(row["pA"]), abs=1e-6)
        for factor, positive in ((0.999, True), (1.001, False)):
            ratio = 1.0 + (row["ratio_R_positive"] - 1.0) * factor
            sigma_0 = 1.0 if row["s0"] == "a" else ratio
            radius = input_dependent_radius(row["pA"], sigma_0, 1.0, ratio, row["d"])
            assert (radius > 0) is positive


def test_a_uniform_change_of_noise_flips_a_ball_classifier() -> None:
    for row in REFERENCE["uniform_noise_change_that_flips_a_ball_classifier"]:
        for name in ("ratio_up", "ratio_down"):
            ratio = row[name] if name == "ratio_up" else 1.0 / row[name]
            bound = worst_case_probability(row["pA"], 0.0, 1.0, ratio, row["d"])
            assert bound == pytest.approx(0.5, abs=1e-8)


@given(SHARES, LEVELS, st.floats(0.0, 3.0), st.integers(1, 2000))
def test_equal_levels_are_cohens_bound(p: float, sigma: float, shift: float, dim: int) -> None:
    wanted = norm.cdf(norm.ppf(p) - shift / sigma)
    assert worst_case_probability(p, shift, sigma, sigma, dim) == pytest.approx(wanted, abs=2e-9)
    assert input_dependent_radius(p, sigma, sigma, sigma, dim) == pytest.approx(
        sigma * norm.ppf(p), abs=1e-6
    )


@settings(deadline=None)
@given(SHARES, LEVELS, LEVELS, st.integers(1, 3072), st.floats(0.0, 2.0), st.floats(0.01, 1.0))
def test_monotone_in_the_shift_and_in_the_share(
    p: float, sigma_0: float, sigma_1: float, dim: int, shift: float, more: float
) -> None:
    bound = worst_case_probability(p, shift, sigma_0, sigma_1, dim)
    assert 0.0 <= bound <= 1.0
    assert worst_case_probability(p, shift + more, sigma_0, sigma_1, dim) <= bound + 1e-8
    assert worst_case_probability(0.5 * (p + 1.0), shift, sigma_0, sigma_1, dim) >= bound - 1e-8


@settings(deadline=None)
@given(SHARES, LEVELS, st.floats(0.0, 1.0), st.integers(1, 3072), st.floats(0.1, 10.0))
def test_only_the_ratio_of_lengths_matters(
    p: float, sigma_0: float, shift: float, dim: int, scale: float
) -> None:
    bound = worst_case_probability(p, shift, sigma_0, 1.1 * sigma_0, dim)
    scaled = worst_case_probability(p, scale * shift, scale * sigma_0, 1.1 * (scale * sigma_0), dim)
    assert scaled == pytest.approx(bound, abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(SHARES, LEVELS, st.floats(1.0, 1.3), st.floats(0.0, 1.0), st.sampled_from([1, 20, 784]))
def test_the_radius_is_monotone_and_scales(
    p: float, low: float, ratio: float, place: float, dim: int
) -> None:
    """It grows with the share, shrinks with a wider box or dimension, and has a length's unit."""
    high = low * ratio
    sigma_0 = min(low * ratio**place, high)
    radius = input_dependent_radius(p, sigma_0, low, high, dim)
    assert 0.0 <= radius <= sigma_0 * norm.ppf(p)
    assert input_dependent_radius(0.5 * (p + 1.0), sigma_0, low, high, dim) >= radius - 1e-6
    assert input_dependent_radius(p, sigma_0, 0.99 * low, 1.01 * high, dim) <= radius + 1e-6
    assert input_dependent_radius(p, sigma_0, low, high, 2 * dim) <= radius + 1e-6
    doubled = input_dependent_radius(p, 2.0 * sigma_0, 2.0 * low, 2.0 * high, dim)
    assert doubled == pytest.approx(2.0 * radius, abs=1e-6)


@pytest.mark.parametrize("dim", [1, 784, 150_528])
@pytest.mark.parametrize("sigma_1", [0.5, 0.501, 0.499])
def test_limits_of_the_shift_and_the_share(dim: int, sigma_1: float) -> None:
    """Nothing moved: the share itself. Far away: nothing. A share of almost 1: almost 1."""
    if sigma_1 == 0.5:
        assert worst_case_probability(0.9, 0.0, 0.5, sigma_1, dim) == pytest.approx(0.9, abs=1e-8)
    assert worst_case_probability(0.9, 50.0, 0.5, sigma_1, dim) < 1e-9
    assert worst_case_probability(1e-12, 0.1, 0.5, sigma_1, dim) < 1e-9
    shares = [worst_case_probability(1.0 - 10.0**-k, 0.1, 0.5, sigma_1, dim) for k in (2, 6, 12)]
    assert shares == sorted(shares)
    if sigma_1 == 0.5 or dim < 10_000:
        assert shares[-1] > 1.0 - 1e-6


@pytest.mark.parametrize("dim", [1, 784, 150_528])
@pytest.mark.parametrize("offset", [1e-12, 1e-9, 1e-7, 3e-6, 1e-5])
@pytest.mark.parametrize("sign", [-1, 1])
def test_nearly_equal_levels_are_finite_and_sound(dim: int, offset: float, sign: int) -> None:
    near = worst_case_probability(0.99, 0.3, 1.0, 1.0 + sign * offset, dim)
    equal = worst_case_probability(0.99, 0.3, 1.0, 1.0, dim)
    assert math.isfinite(near)
    assert near == pytest.approx(equal, abs=2e-2 if dim > 10_000 else 1e-3)


@settings(deadline=None, max_examples=60)
@given(st.floats(0.6, 0.999), LEVELS, LEVELS, st.integers(1, 500), st.floats(0.0, 1.0))
def test_a_bound_of_half_stays_below_half_further_away(
    p: float, sigma_0: float, sigma_1: float, dim: int, shift: float
) -> None:
    bound = worst_case_probability(p, shift, sigma_0, sigma_1, dim)
    if bound <= 0.5 - 1e-8:
        further = sigma_1 * (1.3 if sigma_1 > sigma_0 else 0.7)
        if sigma_1 != sigma_0:
            assert worst_case_probability(p, shift, sigma_0, further, dim) <= 0.5


def test_the_bound_is_attained_by_its_ball() -> None:
    # Monte-Carlo: the least favourable ball has the stated probability under both noises.
    dim, p, shift, sigma_0, sigma_1 = 6, 0.95, 0.4, 0.5, 0.7
    generator = np.random.default_rng(0)
    draws = generator.standard_normal((400_000, dim))
    gap = sigma_1**2 - sigma_0**2
    center = np.zeros(dim)
    center[0] = -(sigma_0**2) / gap * shift
    at_x = np.linalg.norm(sigma_0 * draws - center, axis=1)
    radius = np.quantile(at_x, p)
    moved = sigma_1 * draws
    moved[:, 0] += shift
    share = (np.linalg.norm(moved - center, axis=1) <= radius).mean()
    assert worst_case_probability(p, shift, sigma_0, sigma_1, dim) == pytest.approx(share, abs=4e-3)


def test_the_papers_lemma_3_is_broken_by_its_counterexample() -> None:
    # Equal minima, so the lemma would give Cohen's bound 0.99; a cylinder classifier gives 0.494.
    dim, low, high, p = 5, 0.25, 0.5, 0.99
    threshold = low**2 * chi2.ppf(p, dim - 1)
    truth = chi2.cdf(threshold / high**2, dim - 1)
    assert truth == pytest.approx(0.4941002677948166, abs=1e-12)
    assert worst_case_probability(p, 0.0, low, low, dim) > 0.98  # what the lemma claims


# p_A, claimed radius, the two bounds at shift 0 (noise grows, shrinks), true probability.
REPAIRED = [
    (0.99, 1.0579080363294875, 0.5569259998206411, 0.6906625603689907, 0.06138878722235163),
    (0.999, 2.7112873053059623, 0.7899673076136662, 0.9137143638385926, 0.2904566730133792),
]


@pytest.mark.parametrize(("p", "radius", "grown", "shrunk", "truth"), REPAIRED)
def test_algorithm_2_repaired_certifies_what_is_false(
    p: float, radius: float, grown: float, shrunk: float, truth: float
) -> None:
    dim, low, high = 50, 1.0, 1.5
    claimed = input_dependent_radius(p, math.sqrt(1.5), low, high, dim)
    assert claimed == pytest.approx(radius, abs=1e-6)
    for end, bound in ((high, grown), (low, shrunk)):
        assert worst_case_probability(p, 0.0, math.sqrt(1.5), end, dim) == pytest.approx(
            bound, abs=1e-8
        )
    # A iff the other coordinates are far out; the deployed map shrinks them from 1.5 to 1.
    threshold = high**2 * chi2.ppf(1.0 - p, dim - 1)
    assert chi2.sf(threshold / low**2, dim - 1) == pytest.approx(truth, abs=1e-8)
    assert truth < 0.5


@pytest.mark.parametrize(
    "arguments",
    [
        (1.0, 0.1, 0.5, 0.5, 3),
        (0.9, -0.1, 0.5, 0.5, 3),
        (0.9, 0.1, 0.0, 0.5, 3),
        (0.9, 0.1, 1, 1, 0),
    ],
)
def test_impossible_arguments(arguments: tuple[float, float, float, float, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        worst_case_probability(*arguments)


def test_margin_is_subtracted() -> None:
    assert worst_case_probability(0.9, 0.0, 1.0, 1.0, 5) == pytest.approx(0.9 - MARGIN, abs=1e-12)
