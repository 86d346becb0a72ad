"""Metrics against values computed by hand, intervals against theory."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom
from written_logs import frame

from concert.evaluation.metrics import (
    abstention_rate,
    amcr_interval,
    average_certified_radius,
    bootstrap,
    certified_accuracy,
    certified_at,
    certified_radii,
    nonzero_certified_accuracy,
    share_interval,
)

# Correct at 1, 0.5, 0.25 and 0; wrong with a large radius; abstained twice.
HAND = frame(
    (0, 0, 1.0), (1, 1, 0.5), (2, 2, 0.25), (3, 3, 0.0), (4, 5, 2.0), (6, -1, 0.0), (7, -1, 0.0)
)


def test_certified_accuracy_by_hand() -> None:
    radii = [0, 0.25, np.nextafter(0.25, 1), 0.5, 0.75, 1.0, 1.5, 2.0]
    wanted = [4 / 7, 3 / 7, 2 / 7, 2 / 7, 1 / 7, 1 / 7, 0, 0]
    assert list(certified_accuracy(HAND, radii)) == wanted
    assert list(certified_accuracy(HAND, 0.5)) == [2 / 7]
    assert nonzero_certified_accuracy(HAND) == 3 / 7


def test_average_certified_radius_by_hand() -> None:
    assert average_certified_radius(HAND) == 1.75 / 7
    assert list(certified_radii(HAND)) == [1.0, 0.5, 0.25, 0, 0, 0, 0]


def test_abstention_rate_by_hand() -> None:
    assert abstention_rate(HAND) == 2 / 7


def test_average_certified_radius_is_the_area_under_the_curve() -> None:
    generator = np.random.default_rng(3)
    rows = [(0, int(generator.integers(-1, 2)), float(r)) for r in generator.gamma(2, 0.3, 200)]
    random = frame(*rows)
    edges = np.unique(np.append(certified_radii(random), 0))
    area = (np.diff(edges) * certified_accuracy(random, edges[1:])).sum()
    assert average_certified_radius(random) == pytest.approx(area, rel=1e-12)


def test_the_interval_of_a_share_has_binomial_ends() -> None:
    # The bootstrap distribution of the mean of zeros and ones is Binomial(N, share) / N.
    values = np.repeat([1.0, 0.0], [130, 370])
    interval = bootstrap(values, seed=1, resamples=20_000)
    assert interval.value == 0.26
    assert interval.low * 500 == pytest.approx(binom.ppf(0.025, 500, 0.26), abs=1)
    assert interval.high * 500 == pytest.approx(binom.ppf(0.975, 500, 0.26), abs=1)


def test_a_share_of_none_and_of_all_has_an_interval_by_hand() -> None:
    # (1 - upper)^n = 2.5 % where no image counts, lower^n = 2.5 % where all do.
    interval = share_interval(np.column_stack([np.zeros(500), np.ones(500)]))
    assert list(interval.value) == [0, 1]
    assert list(interval.low) == pytest.approx([0, 0.025 ** (1 / 500)], abs=1e-8)
    assert list(interval.high) == pytest.approx([1 - 0.025 ** (1 / 500), 1], abs=1e-8)
    one = share_interval(np.ones(1))
    assert (float(one.low), float(one.high)) == (pytest.approx(0.025, abs=1e-8), 1)


@pytest.mark.parametrize("share", [0.001, 0.02, 0.5, 0.97])
def test_exact_intervals_cover_every_share(share: float) -> None:
    count = 60
    successes = np.arange(count + 1)
    values = (np.arange(count)[:, None] < successes).astype(float)
    interval = share_interval(values)
    covered = (interval.low <= share) & (share <= interval.high)
    assert binom.pmf(successes, count, share)[covered].sum() >= 0.95


def test_amcr_has_no_interval_where_resampling_tells_nothing() -> None:
    few = frame(*((0, 0, 0.1 * i) for i in range(9)))
    alike = frame(*((0, 0, 0.5) for _ in range(50)))
    none = frame(*((0, -1, 0.0) for _ in range(50)))
    for without in (few, alike, none):
        assert np.isnan(amcr_interval(without)).all()
    low, high = amcr_interval(frame(*((0, 0, 0.1 * i) for i in range(10))))
    assert 0 < low < 0.45 < high < 0.9


def test_intervals_of_a_curve_are_those_of_its_points() -> None:
    values = certified_at(HAND, [0.0, 0.5, 1.0])
    curve = bootstrap(values, seed=5)
    for i in range(3):
        point = bootstrap(values[:, i], seed=5)
        assert (curve.value[i], curve.low[i], curve.high[i]) == (
            point.value,
            point.low,
            point.high,
        )


def test_chunks_in_memory_do_not_show() -> None:
    # 50,000 images exceed a chunk of 2,000 resamples many times; the interval is the normal one.
    values = np.random.default_rng(0).normal(1, 2, 50_000)
    interval = bootstrap(values, seed=2)
    error = 1.96 * values.std() / np.sqrt(len(values))
    assert float(interval.high - values.mean()) == pytest.approx(error, rel=0.1)
    assert float(values.mean() - interval.low) == pytest.approx(error, rel=0.1)


def test_intervals_depend_on_the_seed_alone() -> None:
    values = np.random.default_rng(0).normal(size=100)
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1)
    assert bootstrap(values, seed=1).low != bootstrap(values, seed=2).low


def test_intervals_cover_the_true_mean_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(11)
    covered = 0
    for trial in range(400):
        # Radii as they come: a third fails, the rest is spread; the mean is 2/3 * 0.5.
        values = np.where(generator.random(150) < 2 / 3, generator.random(150), 0.0)
        interval = bootstrap(values, seed=trial, resamples=500)
        covered += bool(interval.low <= 1 / 3 <= interval.high)
    # 4 standard deviations around 0.95 of 400, and the small bias of percentile intervals.
    assert 0.90 <= covered / 400 <= 0.99
