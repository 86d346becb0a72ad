"""The shift-and-KL certificate: reference values, limits, and an attempt to break it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from concert.certificates.split_kl import box_radius, lipschitz_radius, scale_divergence

REFERENCE = json.loads((Path(__file__).parents[1] / "data_files" / "worst_case.json").read_text())


def test_reference_values_for_lipschitz_generators() -> None:
    assert len(REFERENCE["lipschitz_split_kl"]) == 8
    for row in REFERENCE["lipschitz_split_kl"]:
        radius = lipschitz_radius(row["pA"], 1.0, row["L_sigma"])
        assert radius == pytest.approx(row["R_over_sigma"], abs=1e-6)
        assert radius <= row["R_over_sigma"] + 1e-12


def test_reference_values_for_whole_boxes() -> None:
    assert len(REFERENCE["anisotropic_box_split_kl"]) == 10
    for row in REFERENCE["anisotropic_box_split_kl"]:
        for p, kept in row["kept"].items():
            radius = box_radius(float(p), 1.0, 1.0, row["ratio"], row["d"])
            assert radius / norm.ppf(float(p)) == pytest.approx(kept, abs=1e-4)


@settings(deadline=None, max_examples=40)
@given(st.floats(0.55, 0.9999), st.floats(0.1, 2.0))
def test_a_constant_generator_is_cohen(p: float, sigma: float) -> None:
    cohen = sigma * norm.ppf(p)
    radius = lipschitz_radius(p, sigma, 0.0)
    assert radius == pytest.approx(cohen, rel=1e-3)
    assert radius <= cohen
    assert box_radius(p, sigma, sigma, sigma, 3072) == pytest.approx(cohen, rel=1e-3)


@settings(deadline=None, max_examples=40)
@given(st.floats(0.55, 0.999), st.floats(0.1, 1.0), st.floats(0.0, 1.0), st.floats(0.01, 1.0))
def test_monotone(p: float, sigma: float, lipschitz: float, more: float) -> None:
    radius = lipschitz_radius(p, sigma, lipschitz)
    assert lipschitz_radius(p, sigma, lipschitz + more) <= radius + 1e-9
    assert lipschitz_radius(0.5 * (p + 1), sigma, lipschitz) >= radius - 1e-9


@settings(deadline=None, max_examples=40)
@given(st.floats(0.55, 0.999), st.floats(0.2, 1.0), st.floats(0.0, 1.0), st.floats(0.5, 4.0))
def test_only_the_ratio_of_lengths_matters(
    p: float, sigma: float, lipschitz: float, scale: float
) -> None:
    """A slope is one over a length; the box of a whole map is scaled with it."""
    radius = lipschitz_radius(p, sigma, lipschitz)
    scaled = lipschitz_radius(p, scale * sigma, lipschitz / scale)
    assert scaled == pytest.approx(scale * radius, rel=1e-5, abs=1e-9)
    whole = box_radius(p, sigma, sigma, 1.01 * sigma, 100)
    scaled = box_radius(p, scale * sigma, scale * sigma, scale * (1.01 * sigma), 100)
    assert scaled == pytest.approx(scale * whole, rel=1e-5, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.floats(0.55, 0.999), st.floats(1.0, 1.2), st.integers(1, 3072))
def test_the_radius_of_a_box_is_monotone(p: float, ratio: float, dim: int) -> None:
    radius = box_radius(p, 1.0, 1.0, ratio, dim)
    assert 0.0 <= radius <= norm.ppf(p)
    assert box_radius(0.5 * (p + 1), 1.0, 1.0, ratio, dim) >= radius - 1e-9
    assert box_radius(p, 1.0, 1.0, 1.01 * ratio, dim) <= radius + 1e-9
    assert box_radius(p, 1.0, 1.0, ratio, 2 * dim) <= radius + 1e-9


def test_nothing_is_certified_below_half() -> None:
    assert lipschitz_radius(0.5, 1.0, 0.1) == 0.0
    assert box_radius(0.4, 1.0, 1.0, 1.1, 10) == 0.0


def test_worst_cases_stay_above_half_at_the_certified_radius() -> None:
    # The Neyman-Pearson classifier of the true pair, by Monte-Carlo of the likelihood ratio.
    generator = np.random.default_rng(1)
    for _ in range(12):
        dim = int(generator.integers(1, 12))
        lipschitz, p = float(generator.uniform(0.02, 0.5)), float(generator.uniform(0.8, 0.995))
        radius = lipschitz_radius(p, 1.0, lipschitz)
        delta = generator.standard_normal(dim)
        delta *= radius / np.linalg.norm(delta)
        change = generator.standard_normal(dim)
        change *= lipschitz * radius / np.linalg.norm(change)
        sigma_1 = np.exp(change)
        draws = generator.standard_normal((200_000, dim))

        def log_ratio(
            z: np.ndarray, delta: np.ndarray = delta, s: np.ndarray = sigma_1
        ) -> np.ndarray:
            moved = norm.logpdf(z, delta, s) - norm.logpdf(z)
            return moved.sum(axis=1)

        threshold = np.quantile(log_ratio(draws), p)
        share = (log_ratio(delta + sigma_1 * draws) <= threshold).mean()
        assert share > 0.5 - 4e-3


def test_scale_divergence_is_the_kl_divergence() -> None:
    u = 0.3
    s = np.exp(u)
    assert scale_divergence(u) == pytest.approx(-np.log(s) + (s**2 - 1) / 2)
    assert scale_divergence(0.0) == 0.0
