"""Ellipsoids against a baseline's balls, by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from concert.errors import ConcertError
from concert.evaluation.ellipsoids import compare_ellipsoids
from concert.records.reading import LoadedLog


def test_the_comparison_by_hand(make_log: Callable[..., LoadedLog]) -> None:
    # Larger: image 0 (axis 1.2 of 1, radius 0.95) alone; image 1 misses the axis, image 2 the
    # inscribed ball, image 3 is wrong, image 4 is certified by one log only.
    log = make_log([(0, 0, 0.95), (1, 1, 1.1), (2, 2, 0.5), (3, 4, 1.0), (5, 5, 0.7)], "ellipsoid")
    log.frame["proxy_volume"] = [1.2, 1.1, 2.0, 1.0, 0.7]
    log.frame["log_volume"] = [3.0, 6.0, 9.0, 1.0, 1.0]
    baseline = make_log(
        [(0, 0, 1.0), (1, 1, 1.0), (2, 2, 1.0), (3, 3, 1.0), (5, -1, 0.0)], "baseline"
    )
    baseline.frame["proxy_volume"] = [1.0, 1.0, 1.0, 1.0, 0.0]
    result = compare_ellipsoids(log, baseline)
    assert (result.images, result.certified) == (5, 3)
    assert result.larger == pytest.approx(1 / 3)
    assert result.radius == pytest.approx((0.95 + 1.1 + 0.5 + 0.7) / 5)
    assert result.axis == pytest.approx((1.2 + 1.1 + 2.0 + 0.7) / 5)
    assert result.baseline_radius == pytest.approx(4 / 5)
    assert result.log_volume == pytest.approx(6.0)
    assert result.baseline_log_volume == pytest.approx(-1.0)


def test_a_log_is_not_larger_than_itself(make_log: Callable[..., LoadedLog]) -> None:
    log = make_log([(0, 0, 0.5)], "ellipsoid")
    log.frame["proxy_volume"] = [0.8]
    assert compare_ellipsoids(log, log).larger == 0.0


def test_of_a_log_that_does_not_say_how_large_its_regions_are_nothing_is_known(
    make_log: Callable[..., LoadedLog],
) -> None:
    log, published = make_log([(0, 0, 0.5)], "ellipsoid"), make_log([(0, 0, 0.4)], "six columns")
    published.frame["proxy_volume"] = math.nan
    assert math.isnan(compare_ellipsoids(log, published).larger)
    assert math.isnan(compare_ellipsoids(published, log).larger)


def test_logs_of_other_images_are_refused(make_log: Callable[..., LoadedLog]) -> None:
    log, other = make_log([(0, 0, 1.0)], "a"), make_log([(1, 1, 1.0)], "b")
    with pytest.raises(ConcertError, match="disagree"):
        compare_ellipsoids(log, other)
    other.frame["idx"] = 7
    with pytest.raises(ConcertError, match="no image in common"):
        compare_ellipsoids(log, other)
