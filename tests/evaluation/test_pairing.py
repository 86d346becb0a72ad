"""Pairing: values by hand, binomial tails, intervals that resolve more."""

from __future__ import annotations

import math

import numpy as np
import pytest
from written_logs import frame

from concert.errors import ConcertError
from concert.evaluation.metrics import bootstrap, certified_at, certified_radii
from concert.evaluation.pairing import mcnemar_p, paired_difference, paired_shares


def test_paired_differences_by_hand() -> None:
    first = frame((0, 0, 1.0), (1, 1, 0.5), (2, 2, 0.5))
    second = frame((1, 1, 0.25), (2, 3, 9.0), (4, 4, 1.0), first=1)
    interval = paired_difference(first, second)
    assert interval.value == (0.25 + 0.5) / 2
    assert (interval.low, interval.high) == (0.25, 0.5)
    accuracy = paired_difference(first, second, values=lambda rows: certified_at(rows, [0, 0.5]))
    assert list(accuracy.value) == [0.5, 1.0]


def test_pairing_aligns_images_in_any_order() -> None:
    first = frame((0, 0, 1.0), (1, 1, 0.5), (2, 2, 0.125))
    interval = paired_difference(first, first.iloc[::-1])
    assert (interval.value, interval.low, interval.high) == (0, 0, 0)


def test_pairing_resolves_what_separate_intervals_do_not() -> None:
    radii = np.random.default_rng(0).gamma(2, 0.3, 200)
    worse = frame(*((0, 0, float(radius)) for radius in radii))
    better = frame(*((0, 0, float(radius) + 0.01) for radius in radii))
    assert bootstrap(certified_radii(better)).low < bootstrap(certified_radii(worse)).high
    assert paired_difference(better, worse).low == pytest.approx(0.01)


def test_logs_that_do_not_pair() -> None:
    with pytest.raises(ConcertError, match="no image in common"):
        paired_difference(frame((0, 0, 1.0)), frame((0, 0, 1.0), first=7))
    with pytest.raises(ConcertError, match="give image 1 different labels"):
        paired_difference(frame((0, 0, 1.0), (1, 1, 1.0)), frame((0, 0, 1.0), (2, 2, 1.0)))


def test_shares_by_hand() -> None:
    """Of 20 images 8 count for both, 6 or 5 for the first alone, 0 for the other alone."""
    first, other = np.zeros((20, 3)), np.zeros((20, 3))
    first[:14, 0], first[:13, 1], first[:14, 2] = 1, 1, 1
    other[:8] = 1
    shares, fewer, again = paired_shares(first, other)
    assert (shares.N, shares.first, shares.other) == (20, 0.7, 0.4)
    assert shares.difference == pytest.approx(0.3)
    assert 0 < shares.low < 0.3 < shares.high < 0.6
    # Six coins all alike, either way.
    assert shares.p == pytest.approx(2 / 64)
    assert shares.verdict == "higher"
    assert again == shares, "columns have the same resamples"
    assert fewer.p == pytest.approx(2 / 32)
    assert fewer.verdict == "undecided"
    assert [each.verdict for each in paired_shares(other, first)] == ["lower", "undecided", "lower"]
    assert list(shares.columns())[:4] == ["N", "accuracy first", "accuracy other", "difference"]


def test_shares_of_few_of_none_and_of_differences_all_alike_have_no_interval() -> None:
    (few,) = paired_shares(np.array([[1.0], [0.0], [1.0]]), np.zeros((3, 1)))
    (alike,) = paired_shares(np.ones((100, 1)), np.zeros((100, 1)))
    for shares, difference in ((few, 2 / 3), (alike, 1.0)):
        assert shares.difference == pytest.approx(difference)
        assert math.isnan(shares.low)
        assert math.isnan(shares.high)
    assert (few.verdict, alike.verdict) == ("undecided", "higher")
    nothing, _ = paired_shares(np.zeros((0, 2)), np.zeros((0, 2)))
    assert (nothing.N, nothing.verdict) == (0, "no images")
    assert math.isnan(nothing.difference)


def test_shares_of_other_images_are_refused() -> None:
    for other in (np.zeros((9, 1)), np.zeros((1, 1)), np.zeros((10, 2))):
        with pytest.raises(ConcertError, match="of the same images"):
            paired_shares(np.zeros((10, 1)), other)


@pytest.mark.parametrize(("alone", "others"), [(0, 0), (3, 3), (1, 9), (12, 2)])
def test_the_exact_test_sums_binomial_tails(alone: int, others: int) -> None:
    first = np.array([1.0] * alone + [0.0] * others + [1.0] * 7)
    other = np.array([0.0] * alone + [1.0] * others + [1.0] * 7)
    count, fewer = alone + others, min(alone, others)
    tail = sum(math.comb(count, k) for k in range(fewer + 1)) / 2**count
    assert mcnemar_p(first, other) == pytest.approx(min(1.0, 2 * tail))
